import type { Staleness } from "./aggregation.js";

/**
 * The root's step from sums on several bases to one delta, in float64 in a fixed order, so that the
 * same Partials give the same bits on every machine. Ages are model versions between a base and the
 * head. Powers other than a square root are `Math.pow`'s, which every build of V8 computes alike.
 */

/** s(tau): 1 for a fresh delta, less the staler it is. */
export function stalenessWeight(rule: Staleness, age: number): number {
  switch (rule.kind) {
    case "polynomial":
      return rule.exponent === 0.5 ? 1 / Math.sqrt(1 + age) : (1 + age) ** -rule.exponent;
    case "hinge":
      return age <= rule.b ? 1 : 1 / (rule.a * (age - rule.b) + 1);
    case "constant":
      return 1;
  }
}

/** 2^(-age / H). */
export function memoryWeight(halfLife: number, age: number): number {
  return 2 ** (-age / halfLife);
}

/**
 * c_b = N_b s(tau_b) / sum N, for groups on different bases. FedBuff divides by the samples of all
 * and not by their discounted weights, so a stale buffer makes a short step.
 *
 * @param groups in the order in which they are summed; `samples` is N_b
 */
export function stalenessCoefficients(
  rule: Staleness,
  groups: readonly { readonly samples: number; readonly age: number }[],
): number[] {
  const total = groups.reduce((sum, { samples }) => sum + samples, 0);
  return groups.map(({ samples, age }) => (samples * stalenessWeight(rule, age)) / total);
}

/**
 * p_k 2^(-age_k / H), for sites' newest deltas. p_k is a site's share of the whole population, also
 * of the sites that have no delta: what is missing makes the step shorter, not the others' louder.
 *
 * @param populationTotal of every registered site
 */
export function memoryCoefficients(
  halfLife: number,
  populationTotal: number,
  slots: readonly { readonly population: number; readonly age: number }[],
): number[] {
  return slots.map(
    ({ population, age }) => (population / populationTotal) * memoryWeight(halfLife, age),
  );
}

/**
 * delta + c mean, in place; without a delta yet, c mean itself, so that one group with c = 1 is its
 * mean to the bit.
 */
export function addScaled(
  delta: Float64Array | undefined,
  coefficient: number,
  mean: Float64Array,
): Float64Array {
  if (delta === undefined) return coefficient === 1 ? mean : mean.map((v) => coefficient * v);
  if (delta.length !== mean.length)
    throw new RangeError(`a mean of ${mean.length} values for a delta of ${delta.length}`);
  for (let i = 0; i < delta.length; i++)
    delta[i] = (delta[i] as number) + coefficient * (mean[i] as number);
  return delta;
}
