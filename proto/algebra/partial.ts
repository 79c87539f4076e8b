import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import { type Grid, sameGrid, stretches } from "./grid.js";
import { type Layout, sameLayout } from "./layout.js";
import { type MetricSums, mergeMetrics } from "./metric.js";
import { nearestQuotient } from "./rational.js";

export { metricToFixed, metricValue } from "./metric.js";

export type Contributor = { readonly device: string; readonly samples: number };

/** Which round a sum belongs to, and against which model its deltas were taken. */
export type Origin = {
  readonly round: string;
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
  /** Sorted by device, each once. */
  readonly contributors: readonly Contributor[];
  readonly metrics: MetricSums;
  /** Values that devices clamped to the range. */
  readonly saturated: number;
  /** One int64 per coordinate of the layout; none in an evaluation round. */
  readonly sum: BigInt64Array;
};

export type MergeCode = "base-mismatch" | "grid-mismatch" | "overlap" | "total-overflow";
export type MergeRefusal = Refusal<MergeCode> & {
  /** With `overlap`: the devices that both name. */
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
      round: a.round,
      base: a.base,
      baseDigest: a.baseDigest,
      grid: a.grid,
      layout: a.layout,
      weight,
      contributors: united.contributors,
      metrics: mergeMetrics(a.metrics, b.metrics),
      saturated: a.saturated + b.saturated,
      sum,
    },
  };
}

export function refuseTotal(weight: bigint, totalMax: bigint): Refusal<"total-overflow"> {
  return refuse("total-overflow", `a total weight of ${weight} is past NMax = ${totalMax}`);
}

type Comparable = Pick<Partial, keyof Origin | "grid" | "layout"> & {
  readonly sum: { readonly length: number };
};

/** Whether two sums are of the same round, base, grid and layout, so that adding them has a meaning. */
export function checkComparable(
  a: Comparable,
  b: Comparable,
): Verdict<object, "base-mismatch" | "grid-mismatch"> {
  for (const field of ["round", "base", "baseDigest"] as const) {
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

/** Merges two sorted contributor lists, or names the devices in both. */
function uniteContributors(
  a: readonly Contributor[],
  b: readonly Contributor[],
): { readonly ok: true; readonly contributors: readonly Contributor[] } | MergeRefusal {
  const contributors: Contributor[] = [];
  const overlap: string[] = [];
  let j = 0;
  for (const left of a) {
    for (; j < b.length && (b[j] as Contributor).device < left.device; j++) {
      contributors.push(b[j] as Contributor);
    }
    if (b[j]?.device === left.device) {
      overlap.push(left.device);
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
