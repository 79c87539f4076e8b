import {
  type Accumulator,
  type CheckRefusal,
  createAccumulator,
} from "@tributary/proto/algebra/accumulator.js";
import { parameterCount } from "@tributary/proto/algebra/layout.js";
import type { Partial } from "@tributary/proto/algebra/partial.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { type Journal, openJournal } from "@tributary/proto/host/journal.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { Update } from "./ingest.js";
import {
  decodeCheckpoint,
  decodeUpdate,
  encodeCheckpoint,
  encodeUpdate,
  recordKinds,
} from "./journal-record.js";
import { limits } from "./limits.js";

/** One round's exact sum and the journal that it can be made again from. */
export type Combine = {
  /** Digest of each contributor's update, by device. Durable. */
  readonly digests: ReadonlyMap<string, string>;
  /** Samples durable or on their way through the journal. */
  readonly weight: number;
  /** The journal on disk, in bytes. */
  readonly journalBytes: number;
  /** Bytes of a torn tail that were cut off it when it was opened. */
  readonly cutBytes: number;
  /** The sealed Partial, about, in bytes. */
  readonly partialBytes: number;
  check(piece: Uint8Array, byteOffset: number): { readonly ok: true } | CheckRefusal;
  /** Resolves with ok once the update is durable and in the sum; a refusal changes nothing. */
  commit(update: Update): Promise<Verdict<object>>;
  /** Takes no more, waits for what is on its way, and gives the sum; undefined when it is empty. */
  seal(): Promise<Partial | undefined>;
  /** Lets the memory and the file go. */
  close(): Promise<void>;
  /** Lets the memory go and removes the journal. */
  remove(): Promise<void>;
};

export type CombineOptions = {
  readonly disk: Disk;
  /** Of the journal's file. */
  readonly path: string;
  readonly kernel: Kernel;
  /** What its devices were asked. */
  readonly plan: Plan;
  /** The round of the cloud's, and its base, for which they contribute. */
  readonly subject: Pick<Plan, "round" | "base">;
  /** The site whose devices contribute. */
  readonly site: string;
  readonly clock: Clock;
  readonly random: Random;
  /** Uploads in progress: while there are some, a commit waits a moment for them to share it. */
  readonly uploading: () => number;
};

type Pending = {
  readonly update: Update;
  readonly settle: (verdict: Verdict<object>) => void;
  folded: boolean;
};

/** Opens the round's journal, or makes it, and sums what is in it. */
export async function openCombine(options: CombineOptions): Promise<Combine> {
  const { disk, path, plan, clock, random } = options;
  const partialBytes = plan.task === "evaluate" ? 4096 : 8 * parameterCount(plan.layout) + 4096;
  const digests = new Map<string, string>();
  let accumulator = newAccumulator(options);
  const open = () => openJournal(disk, path, { limits: limits.journal, random });
  let journal: Journal = await open();
  const { cutBytes } = journal;
  let durableWeight = 0;
  /** Set while the sum may differ from the journal, after a write that failed. */
  let doubtful = false;
  let sealed = false;

  let pending: Pending[] = [];
  let writing: readonly Pending[] = [];
  let pendingBytes = 0;
  /** Whether the next commit writes a checkpoint, so that its updates fold as they come. */
  let checkpointing = false;
  let firstMs = 0;
  let delay: Timer | undefined;
  let running: Promise<void> | undefined;

  async function replay(): Promise<void> {
    accumulator.release();
    accumulator = newAccumulator(options);
    digests.clear();
    durableWeight = 0;
    await journal.read(({ kind, body, offset }) => {
      try {
        if (kind === recordKinds.update) replayUpdate(body);
        else if (kind === recordKinds.checkpoint) replayCheckpoint(body);
        else throw new TributaryError("journal-version", `it holds a record of kind ${kind}`);
      } catch (cause) {
        if (!(cause instanceof TributaryError)) throw cause;
        const message = `${path} cannot be read at byte ${offset}: ${cause.message}`;
        throw new TributaryError(cause.code, message, { cause });
      }
    });
    doubtful = false;
  }

  function replayUpdate(bytes: Uint8Array): void {
    const { device, samples, encoding, saturated, metrics, digest, payload, clipped } =
      decodeUpdate(bytes);
    // A write whose failure was reported may be on disk all the same, and once more after it.
    if (digests.has(device)) return;
    const contributor = { device, samples, clipped: clipped === true };
    demand(accumulator.add(payload, encoding, contributor, metrics, saturated));
    digests.set(device, digest);
    durableWeight += samples;
  }

  function replayCheckpoint(bytes: Uint8Array): void {
    const checkpoint = decodeCheckpoint(bytes);
    demand(accumulator.restore(checkpoint.partial));
    digests.clear();
    for (const [device, digest] of Object.entries(checkpoint.digests)) digests.set(device, digest);
    durableWeight = Number(checkpoint.partial.weight);
  }

  function fold(item: Pending): void {
    const { device, begin, payload } = item.update;
    const contributor = { device, samples: begin.samples, clipped: item.update.clipped };
    const { encoding, metrics, saturated } = begin;
    demand(accumulator.add(payload, encoding, contributor, metrics, saturated));
    item.folded = true;
    item.update.release();
  }

  /** From here on the batch is written as one checkpoint; its buffers are free again. */
  function turnToCheckpoint(): void {
    checkpointing = true;
    for (const item of pending) if (!item.folded) fold(item);
  }

  function schedule(): void {
    if (running !== undefined || pending.length === 0) return;
    delay?.cancel();
    const waitMs =
      sealed || options.uploading() === 0
        ? 0
        : firstMs +
          Math.min(limits.commitDelayMaxMs, pendingBytes / limits.commitDelayBytesPerMs) -
          clock.monotonicMs();
    if (waitMs > 0) delay = clock.setTimer(waitMs, run);
    else run();
  }

  function run(): void {
    if (running !== undefined) return;
    delay?.cancel();
    running = writeBatch().finally(() => {
      running = undefined;
      schedule();
    });
  }

  async function writeBatch(): Promise<void> {
    const batch = pending;
    const asCheckpoint = checkpointing;
    writing = batch;
    pending = [];
    pendingBytes = 0;
    checkpointing = false;
    try {
      if (!(await recover())) throw unreadable();
      if (asCheckpoint) await writeCheckpoint(batch);
      else await writeUpdates(batch);
    } catch (cause) {
      await failBatch(batch, cause);
      return;
    } finally {
      writing = [];
    }
    for (const { update, settle } of batch) {
      digests.set(update.device, update.begin.digest);
      durableWeight += update.begin.samples;
      settle({ ok: true });
    }
  }

  async function writeUpdates(batch: readonly Pending[]): Promise<void> {
    const frames = batch.map(({ update }) => ({
      kind: recordKinds.update,
      parts: encodeUpdate(update),
    }));
    await journal.appendBatch(frames);
    for (const item of batch) fold(item);
  }

  async function writeCheckpoint(batch: readonly Pending[]): Promise<void> {
    const all = new Map(digests);
    for (const { update } of batch) all.set(update.device, update.begin.digest);
    const parts = encodeCheckpoint(accumulator.snapshot(), all);
    await journal.append(recordKinds.checkpoint, parts);
  }

  /**
   * After a failed write nobody knows what is on disk. The updates are refused, for their devices
   * to send again, and the sum is made anew from what the journal really holds.
   */
  async function failBatch(batch: readonly Pending[], cause: unknown): Promise<void> {
    doubtful = true;
    const refused = [...batch, ...pending];
    pending = [];
    pendingBytes = 0;
    checkpointing = false;
    await recover();
    for (const { update, settle } of refused) {
      update.release();
      const held = digests.get(update.device);
      settle(held === update.begin.digest ? { ok: true } : storageRefusal(cause));
    }
  }

  async function recover(): Promise<boolean> {
    if (!doubtful) return true;
    try {
      await journal.close().catch(() => {});
      journal = await open();
      await replay();
    } catch {
      // Still doubtful: the next update tries again.
    }
    return !doubtful;
  }

  const unreadable = () =>
    new TributaryError("disk-failed", `${path} cannot be read back`, { retryable: true });

  async function settled(): Promise<void> {
    while (running !== undefined || pending.length > 0) {
      schedule();
      await running;
    }
  }

  try {
    await replay();
  } catch (cause) {
    accumulator.release();
    await journal.close().catch(() => {});
    throw cause;
  }
  return {
    digests,
    get weight() {
      const coming = [...writing, ...pending];
      return coming.reduce((sum, { update }) => sum + update.begin.samples, durableWeight);
    },
    cutBytes,
    get journalBytes() {
      return journal.sizeBytes;
    },
    partialBytes,
    check: (piece, byteOffset) => accumulator.check(piece, plan.encoding, byteOffset),
    commit(update) {
      if (sealed) return refuseUpdate(update, refuse("round-closed", "the round has sealed"));
      if (pending.length >= limits.pendingCommits) {
        return refuseUpdate(update, refuse("busy", "too many updates wait for the journal"));
      }
      return new Promise((settle) => {
        if (pending.length === 0) firstMs = clock.monotonicMs();
        const item: Pending = { update, settle, folded: false };
        pending.push(item);
        pendingBytes += update.payload.length;
        if (checkpointing) fold(item);
        else if (!doubtful && pendingBytes > partialBytes) turnToCheckpoint();
        schedule();
      });
    },
    async seal() {
      sealed = true;
      await settled();
      if (!(await recover())) throw unreadable();
      return digests.size === 0 ? undefined : accumulator.snapshot();
    },
    async close() {
      sealed = true;
      await settled();
      accumulator.release();
      await journal.close();
    },
    async remove() {
      sealed = true;
      await settled();
      accumulator.release();
      await journal.remove();
    },
  };
}

function newAccumulator({ kernel, plan, subject, site }: CombineOptions): Accumulator {
  return createAccumulator(kernel, plan.layout, plan.grid, BigInt(plan.totalMax), {
    round: subject.round,
    site,
    base: subject.base.model,
    baseDigest: subject.base.digest,
    evaluation: plan.task === "evaluate",
  });
}

function refuseUpdate(update: Update, refusal: Refusal): Promise<Verdict<object>> {
  update.release();
  return Promise.resolve(refusal);
}

/** Admission has judged everything that the sum can object to. */
function demand(verdict: { readonly ok: boolean; readonly message?: string }): void {
  if (!verdict.ok) throw new Error(`an admitted update does not fold: ${verdict.message}`);
}

export function storageRefusal(cause: unknown): Refusal<"storage-full" | "storage-failed"> {
  const full = cause instanceof TributaryError && cause.code === "disk-full";
  return full
    ? refuse("storage-full", "the gateway's disk is full; hold the update")
    : refuse("storage-failed", "the gateway could not write the update; hold it");
}
