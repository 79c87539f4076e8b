import { createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import { meanFloat64, metricValue, type Partial } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
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
 * Merges a round's Partials exactly, one at a time, so that memory holds two of them at most.
 * The order does not matter to the bit.
 *
 * @param each visits the Partials
 */
export async function mergePartials(
  kernel: Kernel,
  plan: Plan,
  each: (visit: (partial: Partial) => void) => Promise<void>,
): Promise<Partial> {
  const accumulator = createAccumulator(kernel, plan.layout, plan.grid, BigInt(plan.totalMax), {
    round: plan.round,
    site: null,
    base: plan.base.model,
    baseDigest: plan.base.digest,
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

/** SHA-256 over a merged sum S: int64 little-endian, in layout order. */
export function sumDigest(partial: Partial): string {
  const { buffer, byteOffset, byteLength } = partial.sum;
  return sha256(new Uint8Array(buffer, byteOffset, byteLength));
}

/** Weighted means of what the contributors reported, by name. */
export function metricMeans(partial: Partial): Record<string, number> {
  return Object.fromEntries(
    Object.entries(partial.metrics).map(([name, sum]) => [name, metricValue(sum)]),
  );
}

export type Candidate = {
  readonly state: OptimizerState;
  /** Float32 of the master weights, in layout order. */
  readonly values: Float32Array;
  readonly finite: boolean;
};

/** One server step: exact mean, optimiser in float64, rounded once to the model. */
export function makeCandidate(
  params: OptimizerParams,
  from: OptimizerState,
  merged: Partial,
): Candidate {
  const state = stepOptimizer(params, from, meanFloat64(merged));
  const values = publishedWeights(state);
  const moments = [state.m, state.v].filter((moment) => moment !== undefined);
  return { state, values, finite: allFinite(values) && moments.every(allFinite) };
}
