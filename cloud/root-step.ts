import { type MetricSums, mergeMetrics } from "@tributary/proto/algebra/metric.js";
import { meanFloat64, type Origin, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { createHasher } from "@tributary/proto/host/digest.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import type { PoolGroup } from "./pool.js";
import { mergePartials, sumBytes } from "./reduce.js";
import { addScaled } from "./staleness.js";
import type { ModelGroup } from "./store/rows.js";

/** What the groups of a model come to. */
export type RootStep = {
  /** Along which the optimiser steps: sum over the groups of c_b mean_b, in float64. */
  readonly delta: Float64Array;
  readonly groups: readonly ModelGroup[];
  /** SHA-256 over the groups' sums, one after the other. */
  readonly sumDigest: string;
  /** Of what no model held before, and how much that is. */
  readonly metrics: MetricSums;
  readonly samples: number;
  readonly contributors: number;
};

/**
 * Sums each group exactly, then adds up their means. Memory holds one group's sum and the delta.
 *
 * @param groups in the order in which they are added
 * @param visit reads the Partials of these identities, one at a time
 */
export async function takeRootStep(
  kernel: Kernel,
  plan: Plan,
  groups: readonly PoolGroup[],
  originOf: (identity: string) => Origin,
  visit: (
    identities: readonly string[],
    take: (identity: string, partial: Sum) => void,
  ) => Promise<void>,
): Promise<RootStep> {
  const hasher = createHasher();
  const made: ModelGroup[] = [];
  let delta: Float64Array | undefined;
  let metrics: MetricSums = {};
  let samples = 0;
  let contributors = 0;
  for (const { entries, coefficient, ...group } of groups) {
    const fresh = new Set(
      entries.filter(({ applied }) => !applied).map(({ identity }) => identity),
    );
    const identities = entries.map(({ identity }) => identity);
    const [first = ""] = identities;
    const sum = await mergePartials(kernel, plan, originOf(first), (merge) =>
      visit(identities, (identity, partial) => {
        merge(partial);
        if (!fresh.has(identity)) return;
        metrics = mergeMetrics(metrics, partial.metrics);
        samples += Number(partial.weight);
        contributors += partial.contributors.length;
      }),
    );
    delta = addScaled(delta, coefficient, meanFloat64(sum));
    const bytes = sumBytes(sum);
    hasher.update(bytes);
    const own = createHasher();
    own.update(bytes);
    made.push({ ...group, coefficient, sumDigest: own.digest() });
  }
  if (delta === undefined) throw new Error(`${plan.round} commits with nothing to hold`);
  return { delta, groups: made, sumDigest: hasher.digest(), metrics, samples, contributors };
}
