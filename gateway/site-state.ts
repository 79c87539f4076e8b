import { decodePartial, encodePartial } from "@tributary/proto/algebra/frame.js";
import { parameterCount } from "@tributary/proto/algebra/layout.js";
import { clippedField, meanFloat64 } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { decodeCbor, encodeCbor } from "@tributary/proto/wire/cbor.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import {
  digestSchema,
  idSchema,
  numberedIdSchema,
  siteRoundId,
} from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { z } from "zod";
import { addSiteRound, beginStretch, type SiteWork } from "./site-model.js";

/**
 * What the site rounds of one of the cloud's rounds have come to, durable from one site round to
 * the next, in `sites/<round>.state`. Replaced as a whole, before the newest one's journal goes. What
 * of it was handed over the round's record in the store says (`HandedRounds`):
 *
 *     bytes 0-31   SHA-256 of all that follows
 *     bytes 32-35  header length in bytes, unsigned, big-endian
 *     header       CBOR, `headerSchema`
 *     body         in a stretch after the first, D at its start; then, after one site round of the
 *                  stretch, its sum as an encoded Partial, and after more D. Each D as float64
 *                  little-endian in layout order
 */
export type SiteState = {
  readonly work: SiteWork;
  /** The newest site round that is in it. */
  readonly number: number;
  /** Digest of the newest update of each contributor, and the site round that took it. */
  readonly newest: ReadonlyMap<string, { readonly digest: string; readonly number: number }>;
};

const VERSION = 1;
const CHECKSUM_BYTES = 32;
const HEADER_AT = CHECKSUM_BYTES + 4;
const DIR = "sites";

const count = z.number().int().min(0);
const whole = z.string().regex(/^(0|-?[1-9][0-9]{0,30})$/);
const headerSchema = z.strictObject({
  version: z.literal(VERSION),
  round: numberedIdSchema,
  number: count,
  rounds: count,
  saturated: count,
  /** Left out when there are none. */
  clipped: count.optional(),
  devices: z.array(idSchema),
  samples: z.array(count),
  updates: z.array(count),
  digests: z.array(digestSchema),
  numbers: z.array(count),
  /** In a stretch after the first: the newest site round that was handed over before it. */
  after: count.optional(),
  metrics: z.array(z.strictObject({ name: z.string(), sum: whole, weight: whole })),
});

const bounds = { depth: wire.headerDepth, items: 8 * wire.roster };

export const stateFileOf = (round: string) => `${DIR}/${round}.state`;

/** How far the site rounds of a round are handed over. */
export type HandedRounds = {
  /** The newest site round that was opened by then. */
  readonly number: number;
  /** How many have contributed. */
  readonly done: number;
};

/** The states on this disk. */
export type SiteStates = {
  /** Durable when it resolves; how many bytes it takes. */
  write(round: string, state: SiteState, handed: HandedRounds | undefined): Promise<number>;
  /**
   * Undefined when there is none. What `handed` says was handed over is not part of its stretch any
   * more. Rejects with `journal-corrupt`, naming the file.
   */
  read(plan: Plan, handed: HandedRounds | undefined): Promise<SiteState | undefined>;
  /** Rounds that have one. */
  list(): Promise<string[]>;
  remove(round: string): Promise<void>;
};

export function openSiteStates(disk: Disk): SiteStates {
  return {
    async write(round, state, handed) {
      const parts = encodeState(round, state, handed);
      await disk.writeFileAtomic(stateFileOf(round), parts);
      return parts.reduce((sum, part) => sum + part.length, 0);
    },
    async read(plan, handed) {
      const path = stateFileOf(plan.round);
      if (!(await disk.exists(path))) return undefined;
      const { state, after } = decodeState(plan, path, await disk.readFile(path));
      if (handed === undefined || state.number > handed.number) {
        if (after === handed?.number) return state;
        throw new TributaryError("journal-corrupt", `${path} is not of the stretch that is open`);
      }
      return { ...state, work: beginStretch(state.work.delta), newest: new Map() };
    },
    async list() {
      const names = await disk.list(DIR);
      return names.filter((name) => name.endsWith(".state")).map((name) => name.slice(0, -6));
    },
    remove: (round) => disk.remove(stateFileOf(round)),
  };
}

function encodeState(
  round: string,
  { work, number, newest }: SiteState,
  handed: HandedRounds | undefined,
): Uint8Array[] {
  const { contributors, start } = work;
  const newestOf = (device: string) => newest.get(device) ?? { digest: "", number: 0 };
  const header = encodeCbor({
    version: VERSION,
    round,
    number,
    rounds: work.rounds,
    saturated: work.saturated,
    ...clippedField(work.clipped ?? 0),
    devices: contributors.map(({ device }) => device),
    samples: contributors.map(({ samples }) => samples),
    updates: contributors.map(({ updates }) => updates),
    digests: contributors.map(({ device }) => newestOf(device).digest),
    numbers: contributors.map(({ device }) => newestOf(device).number),
    ...(start !== undefined && { after: handed?.number ?? 0 }),
    metrics: Object.entries(work.metrics).map(([name, { sum, weight }]) => ({
      name,
      sum: sum.toString(),
      weight: weight.toString(),
    })),
  });
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, header.length);
  const before = start === undefined ? [] : [bytesOf(start)];
  const body = work.only === undefined ? [bytesOf(work.delta)] : encodePartial(work.only);
  const checked = [length, header, ...before, ...body];
  return [Buffer.from(sha256(checked), "hex"), ...checked];
}

function bytesOf({ buffer, byteOffset, byteLength }: Float64Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function decodeState(
  plan: Plan,
  path: string,
  bytes: Uint8Array,
): { readonly state: SiteState; readonly after: number | undefined } {
  const damaged = (what: string) => new TributaryError("journal-corrupt", `${path} ${what}`);
  if (bytes.length < HEADER_AT) throw damaged("is cut short");
  const checksum = Buffer.from(bytes.subarray(0, CHECKSUM_BYTES)).toString("hex");
  if (sha256(bytes.subarray(CHECKSUM_BYTES)) !== checksum) {
    throw damaged("does not have its checksum");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const bodyAt = HEADER_AT + view.getUint32(CHECKSUM_BYTES);
  const cbor = decodeCbor(bytes.subarray(HEADER_AT, bodyAt), bounds);
  const header = headerSchema.safeParse(cbor.ok ? cbor.value : undefined);
  if (!header.success) {
    // The checksum is right, so this is no damage.
    throw new TributaryError("journal-version", `${path} is of a version that is not known here`);
  }
  const { round, devices, samples, updates, digests, numbers } = header.data;
  if (round !== plan.round) throw damaged(`is of ${round}`);
  const { rounds, saturated, clipped = 0, number, after } = header.data;
  const stretch = after === undefined ? round : siteRoundId(round, after + 1);
  const contributors = devices.map((device, i) => ({
    round: stretch,
    device,
    samples: samples[i] as number,
    updates: updates[i] as number,
  }));
  const newest = devices.map(
    (device, i) =>
      [device, { digest: digests[i] as string, number: numbers[i] as number }] as const,
  );
  const metrics = header.data.metrics.map(
    ({ name, sum, weight }) => [name, { sum: BigInt(sum), weight: BigInt(weight) }] as const,
  );
  const body = readBody(plan, rounds, after !== undefined, bytes.subarray(bodyAt));
  if (body === undefined) throw damaged("has a body that is not of its round");
  const work = {
    rounds,
    ...body,
    contributors,
    metrics: Object.fromEntries(metrics),
    saturated,
    ...clippedField(clipped),
  };
  return { state: { work, number, newest: new Map(newest) }, after };
}

function readBody(
  plan: Plan,
  rounds: number,
  isLater: boolean,
  bytes: Uint8Array,
): Pick<SiteWork, "delta" | "start" | "only"> | undefined {
  const deltaBytes = 8 * parameterCount(plan.layout);
  const start = isLater ? readDelta(bytes.subarray(0, deltaBytes), deltaBytes) : undefined;
  if (isLater && start === undefined) return undefined;
  const rest = isLater ? bytes.subarray(deltaBytes) : bytes;
  if (rounds !== 1) {
    const delta = readDelta(rest, deltaBytes);
    return delta && { delta, start, only: undefined };
  }
  const read = decodePartial(rest);
  if (!read.ok) return undefined;
  const only = read.partial;
  if (start === undefined) return { delta: meanFloat64(only), start, only };
  return { delta: addSiteRound(beginStretch(start), only).delta, start, only };
}

function readDelta(bytes: Uint8Array, deltaBytes: number): Float64Array | undefined {
  // Copied: the file's bytes begin where no float64 may.
  return bytes.length === deltaBytes ? new Float64Array(Uint8Array.from(bytes).buffer) : undefined;
}
