import { createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import type { MetricSums } from "@tributary/proto/algebra/metric.js";
import { metricValue, type Origin, type Partial } from "@tributary/proto/algebra/partial.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import type { OptimizerState } from "./optimizer.js";
import { allFinite, publishedWeights, stepOptimizer } from "./optimizer.js";
import type { OptimizerParams } from "./params.js";

/** Raised when Partials that were each admitted do not merge: an invariant is broken. */
export class MergeFailure extends Error {
  override readonly name = "MergeFailure";
}

/**
 * Merges Partials on one base exactly, one at a time, so that memory holds two of them at most. The
 * order does not matter to the bit.
 *
 * @param plan of a round whose grid and layout the Partials have
 * @param each visits the Partials
 */
export async function mergePartials(
  kernel: Kernel,
  plan: Plan,
  { base, baseDigest }: Origin,
  each: (visit: (partial: Partial) => void) => Promise<void>,
): Promise<Partial> {
  const accumulator = createAccumulator(kernel, plan.layout, plan.grid, BigInt(plan.totalMax), {
    round: plan.round,
    site: null,
    base,
    baseDigest,
    evaluation: plan.task === "evaluate",
  });
  try {
    await each((partial) => {
      const merged = accumulator.merge(partial);
      if (!merged.ok) throw new MergeFailure(`${plan.round}: ${merged.code}: ${merged.message}`);
    });
    return accumulator.snapshot();
  } finally {
    accumulator.release();
  }
}

/** The bytes of a merged sum S: int64 little-endian, in layout order. */
export function sumBytes({ sum }: Partial): Uint8Array {
  return new Uint8Array(sum.buffer, sum.byteOffset, sum.byteLength);
}

/** Weighted means of what contributors reported, by name. */
export function metricMeans(sums: MetricSums): Record<string, number> {
  return Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, metricValue(sum)]));
}

export type Candidate = {
  readonly state: OptimizerState;
  /** Float32 of the master weights, in layout order. */
  readonly values: Float32Array;
  readonly finite: boolean;
};

/** One server step along a delta: optimiser in float64, rounded once to the model. */
export function makeCandidate(
  params: OptimizerParams,
  from: OptimizerState,
  delta: Float64Array,
): Candidate {
  const state = stepOptimizer(params, from, delta);
  const values = publishedWeights(state);
  const moments = [state.m, state.v].filter((moment) => moment !== undefined);
  return { state, values, finite: allFinite(values) && moments.every(allFinite) };
}
