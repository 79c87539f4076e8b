import { limits, METRIC_FRACTION_BITS } from "../wire/limits.js";
import { type Refusal, refuse } from "../wire/verdict.js";
import { nearestQuotient, roundTiesToEven } from "./rational.js";

/** The exact weighted sum of one metric over contributors that reported it. */
export type MetricSum = {
  /** Sum of n * round(value 2^20), ties to even. */
  readonly sum: bigint;
  /** Sum of n over those contributors. */
  readonly weight: bigint;
};

export type MetricSums = Readonly<Record<string, MetricSum>>;

/**
 * Names kept in one Partial: the first in code unit order. Keeping the smallest of a union is
 * itself associative and commutative, so the bound cannot make a tree differ from a flat sum.
 */
export const METRIC_NAMES_MAX = 64;

/** A metric value on its fixed-point grid, or why it cannot be: |value| <= 2^20 and finite. */
export function metricToFixed(value: number): bigint | Refusal<"not-finite" | "out-of-range"> {
  if (!Number.isFinite(value)) return refuse("not-finite", `a metric of ${value}`);
  const fixed = roundTiesToEven(value * 2 ** METRIC_FRACTION_BITS);
  if (Math.abs(fixed) > limits.metricFixedMax) {
    return refuse("out-of-range", `a metric of ${value}; at most 2^20 in magnitude`);
  }
  return BigInt(fixed);
}

/** The weighted mean of a metric: the double nearest to sum / (weight 2^20). */
export function metricValue({ sum, weight }: MetricSum): number {
  if (weight <= 0n) throw new RangeError("a metric that nobody reported has no value");
  return nearestQuotient(sum, weight << BigInt(METRIC_FRACTION_BITS));
}

/** One contributor's metrics, already on the metric grid, as sums of weight `samples`. */
export function liftMetrics(
  metrics: Readonly<Record<string, number>>,
  samples: number,
): MetricSums {
  const weight = BigInt(samples);
  return keepFirst(
    Object.entries(metrics).map(([name, fixed]) => [name, { sum: BigInt(fixed) * weight, weight }]),
  );
}

export function mergeMetrics(a: MetricSums, b: MetricSums): MetricSums {
  const merged = new Map(Object.entries(a));
  for (const [name, right] of Object.entries(b)) {
    const left = merged.get(name);
    merged.set(
      name,
      left === undefined
        ? right
        : { sum: left.sum + right.sum, weight: left.weight + right.weight },
    );
  }
  return keepFirst([...merged]);
}

function keepFirst(entries: [string, MetricSum][]): MetricSums {
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.slice(0, METRIC_NAMES_MAX));
}
