import { z } from "zod";
import { decodeCbor, encodeCbor } from "../wire/cbor.js";
import {
  digestSchema,
  idSchema,
  metricNameSchema,
  numberedIdSchema,
  roundIdSchema,
  splitNumberedId,
} from "../wire/ids.js";
import { limits } from "../wire/limits.js";
import { gridSchema, layoutSchema } from "../wire/plan.js";
import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import { stretches } from "./grid.js";
import { parameterCount } from "./layout.js";
import { METRIC_NAMES_MAX, type MetricSums } from "./metric.js";
import {
  type Contributor,
  clippedField,
  compareContributors,
  contributionKey,
  type Partial,
} from "./partial.js";

/**
 * A Partial as bytes, little-endian:
 *
 *     bytes 0-3    "TPRT"
 *     bytes 4-5    version, 2; version 1 is read too
 *     bytes 6-7    zero
 *     bytes 8-11   header length in bytes
 *     header       one CBOR map (`headerSchema`); zeros up to a multiple of 8
 *     sums         int64 per coordinate
 */
const MAGIC = [0x54, 0x50, 0x52, 0x54];
const VERSION = 2;
const PREFIX_BYTES = 12;

/** Bounds of the header, wide enough for `limits.contributors` and `limits.tensors`. */
const HEADER_BYTES_MAX = 16 * 1024 * 1024;
const HEADER_BOUNDS = { depth: 6, items: 512 * 1024 };

/** Whole numbers that may pass 2^53 travel as decimal text. */
const wholeSchema = z
  .string()
  .regex(/^(0|-?[1-9][0-9]{0,30})$/, { message: "must be a whole number" });
const samplesSchema = z.number().int().min(1).max(limits.samplesMax);
const updatesSchema = z.number().int().min(1).max(limits.updatesMax);
const metricSchema = z.strictObject({
  name: metricNameSchema,
  sum: wholeSchema,
  weight: wholeSchema,
});

const commonFields = {
  base: numberedIdSchema,
  baseDigest: digestSchema,
  grid: gridSchema,
  layout: layoutSchema,
  weight: wholeSchema,
  /** Device and samples of each contributor. */
  devices: z.array(idSchema).max(limits.contributors),
  samples: z.array(samplesSchema).max(limits.contributors),
  metrics: z.array(metricSchema).max(METRIC_NAMES_MAX),
  saturated: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER),
  /** Coordinates that follow: as many as the layout has, or none in an evaluation round. */
  coordinates: z.number().int().min(0),
};

const headerSchema = z.strictObject({
  ...commonFields,
  /** The rounds that contributed, in ascending order of number, and how many contributors each has. */
  rounds: z.array(roundIdSchema).max(limits.roundsOfPartial),
  counts: z.array(z.number().int().min(1)).max(limits.roundsOfPartial),
  /** Updates behind each contributor; left out when each gave one. */
  updates: z.array(updatesSchema).max(limits.contributors).optional(),
  /** The site of all contributors; left out when they are of several. */
  site: idSchema.optional(),
  /** Updates whose norm was clipped; left out when there are none. */
  clipped: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER).optional(),
});
type Header = z.infer<typeof headerSchema>;

/** One round, one update a contributor, and no site. */
const firstHeaderSchema = z
  .strictObject({ ...commonFields, round: numberedIdSchema })
  .transform(({ round, ...header }): Header => {
    const count = header.devices.length;
    return { ...header, ...(count > 0 ? { rounds: [round], counts: [count] } : noRounds) };
  });

const noRounds = { rounds: [], counts: [] };

/**
 * The bytes of a Partial, in pieces: the first is its own, the second is a view of `partial.sum`.
 * The same Partial always gives the same bytes, and the digest of a Partial is their SHA-256.
 */
export function encodePartial(partial: Partial): Uint8Array[] {
  const { base, baseDigest, grid, layout, site, contributors, saturated, sum } = partial;
  const counts = new Map<string, number>();
  for (const { round } of contributors) counts.set(round, (counts.get(round) ?? 0) + 1);
  const header: Header = {
    base,
    baseDigest,
    grid: { fractionBits: [...grid.fractionBits], range: grid.range },
    layout: layout.map(({ name, shape }) => ({ name, shape: [...shape] })),
    weight: partial.weight.toString(),
    devices: contributors.map((c) => c.device),
    samples: contributors.map((c) => c.samples),
    rounds: [...counts.keys()],
    counts: [...counts.values()],
    ...(contributors.some((c) => c.updates > 1) && { updates: contributors.map((c) => c.updates) }),
    ...(site !== null && { site }),
    ...clippedField(partial.clipped ?? 0),
    metrics: Object.keys(partial.metrics)
      .sort()
      .map((name) => {
        const { sum, weight } = partial.metrics[name] as MetricSums[string];
        return { name, sum: sum.toString(), weight: weight.toString() };
      }),
    saturated,
    coordinates: sum.length,
  };
  const cbor = encodeCbor(header);
  const head = new Uint8Array(align8(PREFIX_BYTES + cbor.length));
  const view = new DataView(head.buffer);
  head.set(MAGIC);
  view.setUint16(4, VERSION, true);
  view.setUint32(8, cbor.length, true);
  head.set(cbor, PREFIX_BYTES);
  const sums = new Uint8Array(sum.buffer, sum.byteOffset, sum.byteLength);
  return sums.length === 0 ? [head] : [head, sums];
}

function align8(bytes: number): number {
  return Math.ceil(bytes / 8) * 8;
}

type Malformed = Refusal<"partial-malformed">;
const malformed = (message: string): Malformed => refuse("partial-malformed", message);

/**
 * Reads a Partial from outside. Never throws; allocates nothing before the sizes are seen to agree
 * with the bytes present. What it accepts is consistent: weight is the sum of the samples, and no
 * sum is larger than the weight times the grid's range allows.
 */
export function decodePartial(
  bytes: Uint8Array,
): Verdict<{ readonly partial: Partial }, "partial-malformed"> {
  const framed = readHeader(bytes);
  if (!framed.ok) return framed;
  const { header, sumsAt } = framed;
  const contributors = readContributors(header);
  if (!contributors.ok) return contributors;
  const weight = BigInt(header.weight);
  if (weight !== contributors.weight) {
    return malformed(`a weight of ${weight} over ${contributors.weight} samples`);
  }
  const metrics = readMetrics(header, weight);
  if (!metrics.ok) return metrics;
  const shaped = checkShape(header, bytes.length - sumsAt);
  if (!shaped.ok) return shaped;
  const sum = new BigInt64Array(new Uint8Array(bytes.subarray(sumsAt)).buffer);
  const { base, baseDigest, grid, layout, saturated } = header;
  const partial: Partial = {
    base,
    baseDigest,
    grid,
    layout,
    weight,
    site: header.site ?? null,
    contributors: contributors.list,
    metrics: metrics.sums,
    saturated,
    ...clippedField(header.clipped ?? 0),
    sum,
  };
  const bounded = checkSums(partial);
  return bounded.ok ? { ok: true, partial } : bounded;
}

function readHeader(
  bytes: Uint8Array,
): Verdict<{ readonly header: Header; readonly sumsAt: number }, "partial-malformed"> {
  if (bytes.length > limits.partialBytes) return malformed(`${bytes.length} bytes are too many`);
  if (bytes.length < PREFIX_BYTES) return malformed(`${bytes.length} bytes are too few`);
  if (MAGIC.some((byte, i) => bytes[i] !== byte)) return malformed("it does not begin with TPRT");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint16(4, true);
  if (version < 1 || version > VERSION)
    return malformed(`version ${version}; this side reads up to ${VERSION}`);
  if (view.getUint16(6, true) !== 0) return malformed("bytes 6 and 7 are not zero");
  const length = view.getUint32(8, true);
  const end = PREFIX_BYTES + length;
  const sumsAt = align8(end);
  if (length > HEADER_BYTES_MAX) return malformed(`a header of ${length} bytes is too large`);
  if (sumsAt > bytes.length) return malformed("the header is cut short");
  if (bytes.subarray(end, sumsAt).some((byte) => byte !== 0)) {
    return malformed("the header's padding is not zero");
  }
  const cbor = decodeCbor(bytes.subarray(PREFIX_BYTES, end), HEADER_BOUNDS);
  if (!cbor.ok) return malformed(cbor.message);
  const header = (version === 1 ? firstHeaderSchema : headerSchema).safeParse(cbor.value);
  if (header.success) return { ok: true, header: header.data, sumsAt };
  const issue = header.error.issues[0];
  return malformed(`${issue?.path.join(".")}: ${issue?.message}`.slice(0, limits.messageChars));
}

function readContributors(
  header: Header,
): Verdict<
  { readonly list: readonly Contributor[]; readonly weight: bigint },
  "partial-malformed"
> {
  const { devices, samples, rounds, counts, updates } = header;
  if (devices.length !== samples.length)
    return malformed(`${devices.length} devices with ${samples.length} sample counts`);
  if (updates !== undefined && updates.length !== devices.length)
    return malformed(`${devices.length} devices with ${updates.length} update counts`);
  const counted = counts.reduce((sum, count) => sum + count, 0);
  if (rounds.length !== counts.length || counted !== devices.length)
    return malformed(`${devices.length} devices in ${counted} places of ${rounds.length} rounds`);
  if (new Set(rounds.map((round) => splitNumberedId(round)?.session)).size > 1)
    return malformed("rounds of several sessions");
  const ofRounds = rounds.flatMap((round, i) => new Array<string>(counts[i] as number).fill(round));
  let weight = 0n;
  const list: Contributor[] = [];
  for (const [i, device] of devices.entries()) {
    const contributor = {
      round: ofRounds[i] as string,
      device,
      samples: samples[i] as number,
      updates: updates?.[i] ?? 1,
    };
    const before = list.at(-1);
    if (before !== undefined && compareContributors(before, contributor) >= 0) {
      const [left, right] = [before, contributor].map(contributionKey);
      return malformed(`contributors out of order or twice: ${left}, ${right}`);
    }
    list.push(contributor);
    weight += BigInt(contributor.samples);
  }
  return { ok: true, list, weight };
}

function readMetrics(
  header: Header,
  weight: bigint,
): Verdict<{ readonly sums: MetricSums }, "partial-malformed"> {
  const sums: [string, MetricSums[string]][] = [];
  for (const [i, metric] of header.metrics.entries()) {
    const before = header.metrics[i - 1];
    if (before !== undefined && before.name >= metric.name) {
      return malformed(`metrics out of order or twice: ${before.name}, ${metric.name}`);
    }
    const part = { sum: BigInt(metric.sum), weight: BigInt(metric.weight) };
    const most = part.weight * BigInt(limits.metricFixedMax);
    if (part.weight < 1n || part.weight > weight || part.sum > most || part.sum < -most) {
      return malformed(`metric ${metric.name} cannot come from a weight of ${weight}`);
    }
    sums.push([metric.name, part]);
  }
  return { ok: true, sums: Object.fromEntries(sums) };
}

function checkShape(header: Header, bytesLeft: number): { readonly ok: true } | Malformed {
  const { grid, layout, coordinates } = header;
  if (grid.fractionBits.length !== layout.length) {
    return malformed(`${grid.fractionBits.length} fraction bits for ${layout.length} tensors`);
  }
  if (coordinates !== 0 && coordinates !== parameterCount(layout)) {
    return malformed(`${coordinates} coordinates for a layout of ${parameterCount(layout)}`);
  }
  return bytesLeft === coordinates * 8
    ? { ok: true }
    : malformed(`${bytesLeft} bytes of sums for ${coordinates} coordinates`);
}

/** |S| <= N floor(R 2^f) < 2^63 for every coordinate, so that a merge within NMax cannot wrap. */
function checkSums({ grid, layout, weight, sum }: Partial): { readonly ok: true } | Malformed {
  if (sum.length === 0) return { ok: true };
  for (const { start, end, stepsMax } of stretches(layout, grid)) {
    if (!(stepsMax < 2 ** 31)) return malformed(`a range of ${grid.range} leaves no headroom`);
    const most = weight * BigInt(stepsMax);
    if (most >= 2n ** 63n) return malformed(`a weight of ${weight} leaves no headroom`);
    const at = firstPast(sum, start, end, most);
    if (at !== undefined) return malformed(`the sum at index ${at} is past its weight's reach`);
  }
  return { ok: true };
}

/**
 * The first index whose sum is past `most` in magnitude. Doubles decide, since they convert
 * monotonically; only a sum that rounds onto the bound is looked at whole.
 */
function firstPast(
  sum: BigInt64Array,
  start: number,
  end: number,
  most: bigint,
): number | undefined {
  const half = new Int32Array(sum.buffer, sum.byteOffset, sum.length * 2);
  const bound = Number(most);
  for (let i = start; i < end; i++) {
    const high = half[i * 2 + 1] as number;
    const magnitude = Math.abs(high * 0x100000000 + ((half[i * 2] as number) >>> 0));
    if (magnitude < bound) continue;
    const exact = sum[i] as bigint;
    if (exact > most || exact < -most) return i;
  }
  return undefined;
}
