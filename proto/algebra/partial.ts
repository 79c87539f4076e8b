import { splitNumberedId } from "../wire/ids.js";
import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import { type Grid, sameGrid, stretches } from "./grid.js";
import { type Layout, sameLayout } from "./layout.js";
import { type MetricSums, mergeMetrics } from "./metric.js";
import { nearestQuotient } from "./rational.js";

export { metricToFixed, metricValue } from "./metric.js";

/** What one device gave in one round; (round, device) is its identity. */
export type Contributor = {
  /** The cloud's; of a stretch of site rounds after its first one, that stretch's first site round. */
  readonly round: string;
  readonly device: string;
  /** Weight n of the contribution. */
  readonly samples: number;
  /** Updates behind it: more than one after several site rounds. */
  readonly updates: number;
};

/** The model against which the deltas of a sum were taken. */
export type Origin = {
  /** Model id. */
  readonly base: string;
  /** SHA-256 of the base model's file. */
  readonly baseDigest: string;
};

/** An exact weighted sum of deltas against a base model: S[i] = sum over contributors of n q[i]. */
export type Partial = Origin & {
  readonly grid: Grid;
  readonly layout: Layout;
  /** N: sum of the contributors' samples. */
  readonly weight: bigint;
  /** The site of all contributors; null when they are of several. */
  readonly site: string | null;
  /** Sorted by round number, then stretch, then device; each (round, device) once. */
  readonly contributors: readonly Contributor[];
  readonly metrics: MetricSums;
  /** Values that devices clamped to the range. */
  readonly saturated: number;
  /** Updates whose norm was clipped; left out when there are none. */
  readonly clipped?: number;
  /** One int64 per coordinate of the layout; none in an evaluation round. */
  readonly sum: BigInt64Array;
};

export type MergeCode = "base-mismatch" | "grid-mismatch" | "overlap" | "total-overflow";
export type MergeRefusal = Refusal<MergeCode> & {
  /** With `overlap`: the contributions that both name, as `round/device`. */
  readonly overlap?: readonly string[];
};

/**
 * a + b. Associative and commutative to the bit; refuses rather than wraps.
 *
 * @param totalMax NMax of the plan: the most weight that a round may have
 */
export function merge(
  a: Partial,
  b: Partial,
  totalMax: bigint,
): { readonly ok: true; readonly partial: Partial } | MergeRefusal {
  const comparable = checkComparable(a, b);
  if (!comparable.ok) return comparable;
  const united = uniteContributors(a.contributors, b.contributors);
  if (!united.ok) return united;
  const weight = a.weight + b.weight;
  if (weight > totalMax) return refuseTotal(weight, totalMax);
  const sum = addSums(a.sum, b.sum);
  if (sum === undefined) return refuse("total-overflow", "a sum would pass 64 bits");
  return {
    ok: true,
    partial: {
      base: a.base,
      baseDigest: a.baseDigest,
      grid: a.grid,
      layout: a.layout,
      weight,
      site: a.site === b.site ? a.site : null,
      contributors: united.contributors,
      metrics: mergeMetrics(a.metrics, b.metrics),
      saturated: a.saturated + b.saturated,
      ...clippedField((a.clipped ?? 0) + (b.clipped ?? 0)),
      sum,
    },
  };
}

/** `clipped` of a Partial with so many clipped updates. */
export function clippedField(clipped: number): { readonly clipped?: number } {
  return clipped > 0 ? { clipped } : {};
}

export function refuseTotal(weight: bigint, totalMax: bigint): Refusal<"total-overflow"> {
  return refuse("total-overflow", `a total weight of ${weight} is past NMax = ${totalMax}`);
}

type Comparable = Pick<Partial, keyof Origin | "grid" | "layout"> & {
  readonly sum: { readonly length: number };
};

/** Whether two sums are of the same base, grid and layout, so that adding them has a meaning. */
export function checkComparable(
  a: Comparable,
  b: Comparable,
): Verdict<object, "base-mismatch" | "grid-mismatch"> {
  for (const field of ["base", "baseDigest"] as const) {
    if (a[field] !== b[field]) {
      return refuse("base-mismatch", `${field}: ${a[field]} is not ${b[field]}`);
    }
  }
  if (!sameGrid(a.grid, b.grid)) return refuse("grid-mismatch", "the grids differ");
  if (!sameLayout(a.layout, b.layout)) return refuse("grid-mismatch", "the layouts differ");
  if (a.sum.length !== b.sum.length) {
    return refuse("grid-mismatch", `${a.sum.length} coordinates are not ${b.sum.length}`);
  }
  return { ok: true };
}

/** The rounds that contributed, in ascending order. */
export function roundsOf({ contributors }: Pick<Partial, "contributors">): string[] {
  return [...new Set(contributors.map(({ round }) => round))];
}

/** The identity of a contribution, as text. */
export function contributionKey({ round, device }: Pick<Contributor, "round" | "device">): string {
  return `${round}/${device}`;
}

/** The order of contributors: by round number, then by stretch, then by device. */
export function compareContributors(
  a: Pick<Contributor, "round" | "device">,
  b: Pick<Contributor, "round" | "device">,
): number {
  if (a.round !== b.round) {
    const [left, right] = [splitNumberedId(a.round), splitNumberedId(b.round)];
    const byNumber = (left?.number ?? 0) - (right?.number ?? 0);
    if (byNumber !== 0) return byNumber;
    const byStretch = (left?.site ?? 0) - (right?.site ?? 0);
    if (byStretch !== 0) return byStretch;
    return a.round < b.round ? -1 : 1;
  }
  return a.device === b.device ? 0 : a.device < b.device ? -1 : 1;
}

/** Merges two sorted contributor lists, or names the contributions in both. */
function uniteContributors(
  a: readonly Contributor[],
  b: readonly Contributor[],
): { readonly ok: true; readonly contributors: readonly Contributor[] } | MergeRefusal {
  const contributors: Contributor[] = [];
  const overlap: string[] = [];
  let j = 0;
  for (const left of a) {
    let order = -1;
    for (; j < b.length; j++) {
      order = compareContributors(b[j] as Contributor, left);
      if (order >= 0) break;
      contributors.push(b[j] as Contributor);
    }
    if (j < b.length && order === 0) {
      overlap.push(contributionKey(left));
      j++;
    }
    contributors.push(left);
  }
  for (; j < b.length; j++) contributors.push(b[j] as Contributor);
  return overlap.length > 0 ? refuseOverlap(overlap) : { ok: true, contributors };
}

export function refuseOverlap(overlap: readonly string[]): MergeRefusal {
  const named = overlap.slice(0, 5).join(", ");
  const more = overlap.length > 5 ? ` and ${overlap.length - 5} more` : "";
  return { ...refuse("overlap", `already counted: ${named}${more}`), overlap };
}

/**
 * The low and high halves of an int64 are even and odd entries of the same memory as int32, which
 * is little-endian on every machine that the kernel runs on. Arithmetic on halves makes no BigInt.
 */
function halves(sum: BigInt64Array): Int32Array {
  return new Int32Array(sum.buffer, sum.byteOffset, sum.length * 2);
}

/** a + b coordinate by coordinate; undefined when one of them would pass 64 bits. */
function addSums(a: BigInt64Array, b: BigInt64Array): BigInt64Array<ArrayBuffer> | undefined {
  const sum = new BigInt64Array(a.length);
  const left = halves(a);
  const right = halves(b);
  const out = halves(sum);
  let overflow = 0;
  for (let i = 0; i < out.length; i += 2) {
    const low = ((left[i] as number) >>> 0) + ((right[i] as number) >>> 0);
    const carry = low > 0xffffffff ? 1 : 0;
    const leftHigh = left[i + 1] as number;
    const rightHigh = right[i + 1] as number;
    const high = (leftHigh + rightHigh + carry) | 0;
    out[i] = low | 0;
    out[i + 1] = high;
    // Both addends on one side of zero and the result on the other.
    overflow |= (leftHigh ^ high) & (rightHigh ^ high);
  }
  return overflow < 0 ? undefined : sum;
}

/**
 * The mean delta, for each coordinate the double nearest to the exact rational S / (N 2^f), ties to
 * even. Throws RangeError when nothing contributed.
 */
export function meanFloat64(partial: Partial): Float64Array<ArrayBuffer> {
  if (partial.weight <= 0n) throw new RangeError("a Partial without contributors has no mean");
  const mean = new Float64Array(partial.sum.length);
  if (mean.length === 0) return mean;
  const half = halves(partial.sum);
  const wholeWeight = partial.weight <= 2n ** 53n;
  for (const { start, end, fractionBits } of stretches(partial.layout, partial.grid)) {
    const denominator = partial.weight << BigInt(fractionBits);
    const divisor = Number(denominator);
    for (let i = start; i < end; i++) {
      const high = half[i * 2 + 1] as number;
      // |S| <= 2^53 and N <= 2^53 are exact doubles, so one IEEE division is the nearest quotient.
      mean[i] =
        wholeWeight && high >= -0x200000 && high < 0x200000
          ? (high * 0x100000000 + ((half[i * 2] as number) >>> 0)) / divisor
          : nearestQuotient(partial.sum[i] as bigint, denominator);
    }
  }
  return mean;
}

/** The mean delta as float32: the float32 nearest to each value of `meanFloat64`. */
export function mean(partial: Partial): Float32Array<ArrayBuffer> {
  return new Float32Array(meanFloat64(partial));
}
