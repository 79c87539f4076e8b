import type { KeyObject } from "node:crypto";
import type { CheckRefusal } from "@tributary/proto/algebra/accumulator.js";
import { clipUpdate } from "@tributary/proto/algebra/clip.js";
import { bytesPerValue } from "@tributary/proto/algebra/grid.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { createHasher, type Hasher } from "@tributary/proto/host/digest.js";
import { type Code, isRetryable } from "@tributary/proto/wire/codes.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { updatePreimage } from "@tributary/proto/wire/update.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import {
  admitBegin,
  type RoundFacts,
  refuseChunk,
  repeatOrConflict,
  type StorageFacts,
} from "./admit.js";
import { limits } from "./limits.js";
import type { Replies } from "./replies.js";
import { createSlotPool } from "./slots.js";
import { createVouching } from "./vouching.js";

/** A whole, checked update on its way into the journal and the sum. */
export type Update = {
  readonly round: string;
  readonly device: string;
  readonly begin: Begin;
  /** Whether its norm was past the plan's bound; the payload is what clipping left. */
  readonly clipped: boolean;
  /** Valid until `release` is called, which happens once, when the bytes are needed no more. */
  readonly payload: Uint8Array;
  release(): void;
};

/** The open rounds, as ingest sees them. */
export type RoundSource = {
  /** `sealed` for a round that takes no more and whose contributors only `recall` knows. */
  facts(round: string): RoundView | "sealed" | undefined;
  /** The digest that a device contributed to a round that has left `facts`. */
  recall(round: string, device: string): Promise<string | undefined>;
  /** Checks a piece of an update of an open round, see `Accumulator.check`. */
  check(round: string, piece: Uint8Array, byteOffset: number): { ok: true } | CheckRefusal;
  /** Resolves with ok once the update is durable. */
  commit(update: Update): Promise<Verdict<object>>;
  /** The device's update was refused for good: the round need not wait for it. */
  refused(round: string, device: string, code: Code): void;
};

export type RoundView = {
  readonly plan: Plan;
  readonly open: boolean;
  /** Samples durable, or on their way through the journal, that count beside the device's. */
  weightBeside(device: string): number;
  offered(device: string): boolean;
  contributed(device: string): string | undefined;
};

export type Ingest = {
  begin(device: string, begin: Begin): void;
  chunk(device: string, header: { round: string; offset: number }, bytes: Uint8Array): void;
  disconnected(device: string): void;
  /** Ends the uploads of a round that takes no more, each with `round-closed`. */
  endRound(round: string): void;
  readonly uploading: number;
  close(): void;
};

export type IngestOptions = {
  readonly gateway: string;
  readonly uploadSlots: number;
  /** An upload without a chunk for so long loses its slot, in milliseconds. */
  readonly uploadIdleMs: number;
  /** What a device is told to wait after a retryable refusal, in milliseconds. */
  readonly retryAfterMs: number;
  readonly rounds: RoundSource;
  readonly storage: StorageFacts;
  /** The key that a device is enrolled with; undefined for one that is not. Its updates must be signed. */
  readonly keyOf?: (device: string) => KeyObject | undefined;
  /** Keeps a signed update as it came; reads `payload` until it resolves, and never rejects. */
  readonly keepSigned?: (device: string, begin: Begin, payload: Uint8Array) => Promise<void>;
  /** An update's L2 norm was past its plan's bound, and was scaled down to it. */
  readonly onClipped: (round: string, device: string, norm: number, clipNorm: number) => void;
  readonly replies: Replies;
  readonly clock: Clock;
};

type Upload = {
  readonly device: string;
  readonly begin: Begin;
  phase: "waiting" | "granted" | "committing";
  /** Whether the device's connection ended since the grant. */
  away: boolean;
  buffer: Uint8Array | undefined;
  received: number;
  readonly hasher: Hasher;
  /** Whether its device signed for it, with the key that it is enrolled with. */
  readonly signed: boolean;
  movedMs: number;
};

const none = new Uint8Array(0);

/**
 * Takes updates from devices: few at a time, each into a pooled buffer, hashed and checked chunk by
 * chunk. Others wait as their headers alone, so memory does not grow with the number of devices.
 */
export function createIngest(options: IngestOptions): Ingest {
  const { gateway, rounds, storage, replies, clock } = options;
  const uploads = new Map<string, Upload>();
  const waiting = new Set<Upload>();
  const granted = new Set<Upload>();
  /** Whole ones that are being kept as they were signed, before they are committed. */
  const keeping = new Set<Upload>();
  const vouching = createVouching(options.keyOf ?? (() => undefined));
  const pool = createSlotPool(options.uploadSlots, limits.pooledBytes);
  let sweep: Timer | undefined;

  function factsFor(round: string): RoundFacts | "sealed" | undefined {
    const view = rounds.facts(round);
    if (view === undefined || view === "sealed") return view;
    const weightBeside = (device: string) => {
      let weight = view.weightBeside(device);
      for (const upload of [...granted, ...keeping]) {
        if (upload.begin.round === round && upload.device !== device)
          weight += upload.begin.samples;
      }
      return weight;
    };
    return {
      plan: view.plan,
      open: view.open,
      offered: (device) => view.offered(device),
      contributed: (device) => view.contributed(device),
      weightBeside,
    };
  }

  function judge(device: string, begin: Begin) {
    return admitBegin(begin, device, gateway, factsFor(begin.round), storage);
  }

  function refuseBegin(device: string, begin: Begin, refusal: Refusal): void {
    replies.refuse(device, "begin", refusal, { round: begin.round });
    noteRefusal(device, begin.round, refusal);
  }

  /** An update for another gateway says nothing about the one that this gateway asked for. */
  function noteRefusal(device: string, round: string, { code }: Refusal): void {
    if (!isRetryable(code) && code !== "wrong-gateway") rounds.refused(round, device, code);
  }

  /** A round that is gone may still owe a receipt: the ledger outlives it. */
  async function answerFromLedger(device: string, begin: Begin, refusal: Refusal): Promise<void> {
    let held: string | undefined;
    try {
      held = await rounds.recall(begin.round, device);
    } catch {
      // Unread is not unknown: a final refusal would make the device drop what may be in the sum.
      const unread = refuse("storage-failed", "the ledger cannot be read now; hold the update");
      return refuseBegin(device, begin, unread);
    }
    const verdict = held === undefined ? refusal : repeatOrConflict(held, begin);
    if (verdict.ok) replies.repeatReceipt(device, begin.round, begin.digest);
    else refuseBegin(device, begin, verdict);
  }

  function forget(upload: Upload): void {
    if (uploads.get(upload.device) === upload) uploads.delete(upload.device);
    waiting.delete(upload);
    granted.delete(upload);
    if (upload.buffer !== undefined) pool.give(upload.buffer);
    upload.buffer = undefined;
  }

  function grant(upload: Upload): void {
    const { round } = upload.begin;
    upload.movedMs = clock.monotonicMs();
    upload.away = false;
    replies.grant(upload.device, {
      round,
      offset: upload.received,
      windowBytes: limits.windowBytes,
    });
    watchIdle();
  }

  /** Gives free slots to those who wait, in order; whoever left during an upload makes room. */
  function pump(): void {
    for (const upload of waiting) {
      const verdict = judge(upload.device, upload.begin);
      if (!verdict.ok) {
        forget(upload);
        refuseBegin(upload.device, upload.begin, verdict);
        continue;
      }
      if (pool.free === 0) {
        const left = [...granted].find((other) => other.away);
        if (left === undefined) return;
        forget(left);
      }
      upload.buffer = pool.take(upload.begin.bytes);
      if (upload.buffer === undefined) return;
      waiting.delete(upload);
      upload.phase = "granted";
      granted.add(upload);
      grant(upload);
    }
  }

  function watchIdle(): void {
    if (sweep !== undefined || granted.size === 0) return;
    sweep = clock.setTimer(Math.ceil(options.uploadIdleMs / 2), () => {
      sweep = undefined;
      const oldest = clock.monotonicMs() - options.uploadIdleMs;
      for (const upload of granted) {
        if (upload.movedMs > oldest) continue;
        forget(upload);
        const stalled = refuse("not-granted", "the upload stalled and lost its slot; begin again");
        replies.refuse(upload.device, "chunk", stalled, {
          round: upload.begin.round,
          retryAfterMs: options.retryAfterMs,
        });
      }
      pump();
      watchIdle();
    });
  }

  function createUpload(device: string, begin: Begin, signed: boolean): Upload {
    return {
      device,
      begin,
      phase: "waiting",
      away: false,
      buffer: undefined,
      received: 0,
      signed,
      hasher: createHasher().update(updatePreimage(device, begin)),
      movedMs: clock.monotonicMs(),
    };
  }

  /** Holds an update to the plan's norm, in its own buffer; whether it was past it. */
  function clip(
    { clipNorm, layout, grid, encoding, round }: Plan,
    device: string,
    update: Uint8Array,
  ) {
    if (clipNorm === undefined || update.length === 0) return false;
    const { norm, clipped } = clipUpdate(update, encoding, layout, grid, clipNorm);
    if (clipped) options.onClipped(round, device, norm, clipNorm);
    return clipped;
  }

  function finish(upload: Upload): void {
    const { device, begin } = upload;
    if (upload.hasher.digest() !== begin.digest) {
      forget(upload);
      const broken = refuse("digest-mismatch", "the update's bytes do not have its digest");
      replies.refuse(device, "chunk", broken, {
        round: begin.round,
        retryAfterMs: options.retryAfterMs,
      });
      return pump();
    }
    const view = rounds.facts(begin.round);
    if (view === undefined || view === "sealed" || !view.open) {
      forget(upload);
      refuseBegin(device, begin, refuse("round-closed", "the round has sealed"));
      return pump();
    }
    upload.phase = "committing";
    granted.delete(upload);
    const release = () => {
      if (upload.buffer === undefined) return;
      pool.give(upload.buffer);
      upload.buffer = undefined;
      pump();
    };
    const payload = upload.buffer?.subarray(0, begin.bytes) ?? none;
    const commit = () => commitUpload(upload, payload, clip(view.plan, device, payload), release);
    if (!upload.signed || options.keepSigned === undefined) return commit();
    keeping.add(upload);
    void options.keepSigned(device, begin, payload).then(() => {
      keeping.delete(upload);
      commit();
    });
  }

  function commitUpload(
    upload: Upload,
    payload: Uint8Array,
    clipped: boolean,
    release: () => void,
  ): void {
    const { device, begin } = upload;
    const failed = refuse("storage-failed", "the gateway could not take the update; hold it");
    void rounds
      .commit({ round: begin.round, device, begin, payload, clipped, release })
      .catch(() => failed)
      .then((verdict) => {
        forget(upload);
        if (verdict.ok) replies.receipt(device, begin.round, begin.digest);
        else refuseBegin(device, begin, verdict);
        pump();
      });
  }

  return {
    begin(device, begin) {
      const known = uploads.get(device);
      if (known !== undefined) {
        const same = known.begin.round === begin.round && known.begin.digest === begin.digest;
        if (same && known.phase === "granted") return grant(known);
        if (same) return;
        if (known.phase === "committing") {
          return refuseBegin(device, begin, refuse("busy", "an update is being written"));
        }
        forget(known);
      }
      const verdict = judge(device, begin);
      if (!verdict.ok) {
        const gone = verdict.code === "unknown-round" || verdict.code === "round-closed";
        if (gone) void answerFromLedger(device, begin, verdict);
        else refuseBegin(device, begin, verdict);
        return;
      }
      if (verdict.next === "receipt") {
        return replies.repeatReceipt(device, begin.round, begin.digest);
      }
      const vouched = vouching.admit(device, begin);
      if (!vouched.ok) return refuseBegin(device, begin, vouched);
      if (waiting.size >= limits.waitingBegins) {
        return refuseBegin(device, begin, refuse("busy", "too many updates wait here"));
      }
      const upload = createUpload(device, begin, vouched.signed);
      uploads.set(device, upload);
      if (begin.bytes === 0) return finish(upload);
      waiting.add(upload);
      pump();
    },
    chunk(device, header, bytes) {
      const found = uploads.get(device);
      const upload = found?.phase === "granted" ? found : undefined;
      const { round } = header;
      const verdict = refuseChunk(header, bytes.length, upload && uploadFacts(upload));
      if (verdict !== undefined) {
        const { refusal, expectedOffset, drop } = verdict;
        replies.refuse(device, "chunk", refusal, {
          round,
          ...(expectedOffset === undefined ? {} : { expectedOffset }),
        });
        if (drop && upload !== undefined) {
          forget(upload);
          pump();
        }
        return;
      }
      if (upload === undefined) return;
      upload.buffer?.set(bytes, header.offset);
      const checked = rounds.check(round, bytes, header.offset);
      if (!checked.ok) {
        forget(upload);
        replies.refuse(device, "chunk", checked, { round });
        noteRefusal(device, round, checked);
        return pump();
      }
      upload.hasher.update(bytes);
      upload.received += bytes.length;
      upload.movedMs = clock.monotonicMs();
      if (upload.received === upload.begin.bytes) finish(upload);
    },
    disconnected(device) {
      const upload = uploads.get(device);
      if (upload === undefined) return;
      if (upload.phase === "waiting") forget(upload);
      else if (upload.phase === "granted") {
        upload.away = true;
        pump();
      }
    },
    endRound(round) {
      vouching.endRound(round);
      for (const upload of [...waiting, ...granted]) {
        if (upload.begin.round !== round) continue;
        forget(upload);
        refuseBegin(upload.device, upload.begin, refuse("round-closed", "the round has sealed"));
      }
      pump();
    },
    get uploading() {
      return granted.size;
    },
    close() {
      sweep?.cancel();
      sweep = undefined;
    },
  };
}

function uploadFacts({ begin, received }: Upload) {
  const { round, bytes, encoding } = begin;
  return { round, bytes, received, valueBytes: bytesPerValue(encoding) };
}
