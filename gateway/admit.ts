import type { KeyObject } from "node:crypto";
import { bytesPerValue } from "@tributary/proto/algebra/grid.js";
import { parameterCount } from "@tributary/proto/algebra/layout.js";
import { verifyUpdate } from "@tributary/proto/identity/statement.js";
import type { Code } from "@tributary/proto/wire/codes.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";

/** What admission needs to know of one round. */
export type RoundFacts = {
  readonly plan: Plan;
  /** Whether it still takes updates. */
  readonly open: boolean;
  /** Whether it was offered to the device. */
  offered(device: string): boolean;
  /** Digest of the update that the device has contributed. */
  contributed(device: string): string | undefined;
  /** Samples that are durable, or granted and on their way, other devices' only. */
  weightBeside(device: string): number;
};

/**
 * Why no more results are taken. `budget`: their share of the budget is used up. `full`: the disk is
 * down to its reserve, or a write found no space. `read-only`, `failed`: so a write said.
 */
export type StorageState = "ok" | "budget" | "full" | "read-only" | "failed";

/** What admission needs to know of the disk. */
export type StorageFacts = {
  /** As the last answer of `fits` left it. */
  readonly state: StorageState;
  /** Whether an update of so many bytes still fits the budget and leaves the reserve free. */
  fits(bytes: number): boolean;
};

export type BeginVerdict = Verdict<{ readonly next: "upload" | "receipt" }>;

/** Bytes of an update's payload under a plan. */
export function updateBytes(plan: Plan): number {
  if (plan.task === "evaluate") return 0;
  return parameterCount(plan.layout) * bytesPerValue(plan.encoding);
}

/**
 * Judges an announced update by its header alone, before a byte of it is sent. A repeated one is
 * answered with its receipt even after the round has closed.
 */
export function admitBegin(
  begin: Begin,
  device: string,
  gateway: string,
  round: RoundFacts | "sealed" | undefined,
  storage: StorageFacts,
): BeginVerdict {
  if (begin.gateway !== gateway) {
    return refuse("wrong-gateway", `the update answers ${begin.gateway}; this is ${gateway}`);
  }
  if (round === undefined) return refuse("unknown-round", `no round ${begin.round} here`);
  if (round === "sealed") return sealedAlready(begin);
  const held = round.contributed(device);
  if (held !== undefined) return repeatOrConflict(held, begin);
  if (!round.open) return sealedAlready(begin);
  if (!round.offered(device)) {
    return refuse("not-offered", `round ${begin.round} was not offered to ${device}`);
  }
  const shaped = admitShape(begin, round.plan);
  if (!shaped.ok) return shaped;
  const weighed = admitWeight(begin.samples, round.plan, round.weightBeside(device));
  if (!weighed.ok) return weighed;
  if (!storage.fits(begin.bytes)) {
    return refuse("storage-full", `${noRoom(storage)}; hold the update`);
  }
  return { ok: true, next: "upload" };
}

/**
 * Whether the device vouches for the update with the key that it is enrolled with. One that is not
 * enrolled has none, and is asked for nothing.
 */
export function admitSignature(
  { round, digest, signature }: Begin,
  device: string,
  key: KeyObject | undefined,
): Verdict<object> {
  if (key === undefined) return { ok: true };
  if (signature === undefined) return refuse("update-unsigned", `${device} must sign its updates`);
  return verifyUpdate({ round, device, digest }, signature, key)
    ? { ok: true }
    : refuse("update-signature", `the update is not signed by the key of ${device}`);
}

/** Why there is no room, in words for whoever is to hold what it has. */
export function noRoom({ state }: Pick<StorageFacts, "state">): string {
  switch (state) {
    case "full":
      return "the gateway's disk is full";
    case "read-only":
      return "the gateway's disk cannot be written";
    case "failed":
      return "the gateway's disk fails";
    case "ok":
    case "budget":
      return "the gateway's disk budget is used up";
  }
}

function sealedAlready({ round }: Begin): BeginVerdict {
  return refuse("round-closed", `round ${round} has sealed`);
}

/** The verdict on an update whose device has already contributed to the round. */
export function repeatOrConflict(held: string, begin: Begin): BeginVerdict {
  if (held === begin.digest) return { ok: true, next: "receipt" };
  return refuse(
    "conflict",
    `round ${begin.round} holds another update of this device: ${held.slice(0, 12)}...`,
  );
}

function admitShape(begin: Begin, plan: Plan): Verdict<object> {
  if (begin.base !== plan.base.model || begin.baseDigest !== plan.base.digest) {
    return refuse("wrong-base", `trained from ${begin.base}; the base is ${plan.base.model}`);
  }
  if (begin.encoding !== plan.encoding) {
    return refuse("wrong-encoding", `encoded as ${begin.encoding}; the plan says ${plan.encoding}`);
  }
  if (begin.bytes > wire.modelBytes) {
    return refuse("too-large", `${begin.bytes} bytes; at most ${wire.modelBytes}`);
  }
  const bytes = updateBytes(plan);
  if (begin.bytes !== bytes) {
    return refuse("wrong-shape", `${begin.bytes} bytes; the layout makes ${bytes}`);
  }
  if (begin.saturated > 0 && !plan.saturate) {
    return refuse("out-of-range", `${begin.saturated} clamped values; the plan forbids clamping`);
  }
  return { ok: true };
}

function admitWeight(samples: number, plan: Plan, weightBeside: number): Verdict<object> {
  if (!Number.isSafeInteger(samples) || samples < 1 || samples > plan.nMax) {
    return refuse("bad-sample-count", `${samples} samples; a whole number from 1 to ${plan.nMax}`);
  }
  if (weightBeside + samples > plan.totalMax) {
    return refuse(
      "total-overflow",
      `${samples} samples on top of ${weightBeside} pass the round's ${plan.totalMax}`,
    );
  }
  return { ok: true };
}

/** The part of an upload in progress that a chunk is judged against. */
export type UploadFacts = {
  readonly round: string;
  readonly bytes: number;
  readonly received: number;
  /** Bytes of one value, which no chunk may split. */
  readonly valueBytes: number;
};

/** A refusal of a chunk; `drop` says that the upload cannot go on and is forgotten. */
export type ChunkRefusal = {
  readonly refusal: Refusal<Code>;
  readonly expectedOffset?: number;
  readonly drop: boolean;
};

/** Judges a chunk by its header and length; undefined when its bytes are the next ones. */
export function refuseChunk(
  chunk: { readonly round: string; readonly offset: number },
  length: number,
  upload: UploadFacts | undefined,
): ChunkRefusal | undefined {
  if (upload === undefined || upload.round !== chunk.round) {
    const refusal = refuse("not-granted", `no upload for round ${chunk.round} is granted`);
    return { refusal, drop: false };
  }
  if (length > wire.chunkBytes) {
    const refusal = refuse("too-large", `a chunk of ${length} bytes; at most ${wire.chunkBytes}`);
    return { refusal, drop: true };
  }
  if (chunk.offset !== upload.received) {
    const refusal = refuse(
      "chunk-out-of-order",
      `a chunk at ${chunk.offset}; the next one is at ${upload.received}`,
    );
    return { refusal, expectedOffset: upload.received, drop: false };
  }
  if (length === 0 || length % upload.valueBytes !== 0) {
    const refusal = refuse("malformed", `a chunk of ${length} bytes splits a value, or is empty`);
    return { refusal, drop: true };
  }
  if (chunk.offset + length > upload.bytes) {
    const refusal = refuse("wrong-shape", `bytes past the announced ${upload.bytes}`);
    return { refusal, drop: true };
  }
  return undefined;
}
