import { stretches } from "@tributary/proto/algebra/grid.js";
import type { MetricSums } from "@tributary/proto/algebra/metric.js";
import {
  type Contributor,
  clippedField,
  compareContributors,
  meanFloat64,
  type Partial,
} from "@tributary/proto/algebra/partial.js";
import { roundTiesToEven } from "@tributary/proto/algebra/rational.js";

/**
 * What a site's rounds on one base of the cloud's come to, so far, and what of it is not handed over
 * yet: the stretch. Pure: a site round's exact sum is the same in any order of arrival, so all of
 * this is too.
 *
 * The scheme: Liu et al., "Client-Edge-Cloud Hierarchical Federated Learning", ICC 2020, with
 * deltas in place of models.
 */
export type SiteWork = {
  /** K: site rounds of the stretch that anybody contributed to. */
  readonly rounds: number;
  /** D, the sum of all site rounds' mean deltas, float64, in layout order. */
  readonly delta: Float64Array;
  /** What D was when the stretch began; undefined in the first one, where it was 0. */
  readonly start: Float64Array | undefined;
  /** The sum of the stretch's first site round, as long as there is no other. */
  readonly only: Partial | undefined;
  /** Each device once: the samples of its newest contribution, and in how many rounds it was. */
  readonly contributors: readonly Contributor[];
  /** Of the newest round, with that round's own weight. */
  readonly metrics: MetricSums;
  /** Values that devices clamped, over all rounds of the stretch. */
  readonly saturated: number;
  /** Updates whose norm was clipped; left out when there are none. */
  readonly clipped?: number;
};

/** D_K = D_(K-1) + mean(S_K, N_K), one float64 addition a coordinate; D_0 = 0. */
export function addSiteRound(before: SiteWork | undefined, sum: Partial): SiteWork {
  const delta = meanFloat64(sum);
  const { metrics } = sum;
  if (before === undefined) {
    const { contributors, saturated, clipped = 0 } = sum;
    const counts = { saturated, ...clippedField(clipped) };
    return { rounds: 1, delta, start: undefined, only: sum, contributors, metrics, ...counts };
  }
  for (let i = 0; i < delta.length; i++) {
    delta[i] = (before.delta[i] as number) + (delta[i] as number);
  }
  return {
    rounds: before.rounds + 1,
    delta,
    start: before.start,
    only: before.rounds === 0 ? sum : undefined,
    contributors: countAgain(before.contributors, sum.contributors),
    metrics,
    saturated: before.saturated + sum.saturated,
    ...clippedField((before.clipped ?? 0) + (sum.clipped ?? 0)),
  };
}

/** What there is once the stretch is handed over: D stays, and is where the next one begins. */
export function beginStretch(delta: Float64Array): SiteWork {
  const none = { only: undefined, contributors: [], metrics: {}, saturated: 0 };
  return { rounds: 0, delta, start: delta, ...none };
}

function countAgain(before: readonly Contributor[], now: readonly Contributor[]): Contributor[] {
  const all = new Map(before.map((contributor) => [contributor.device, contributor]));
  for (const contributor of now) {
    const updates = contributor.updates + (all.get(contributor.device)?.updates ?? 0);
    all.set(contributor.device, { ...contributor, updates });
  }
  return [...all.values()].sort(compareContributors);
}

/** The site model: float32(float64(w0) + D_K), rounded once a coordinate. */
export function siteModel(base: Float32Array, delta: Float64Array): Float32Array<ArrayBuffer> {
  if (base.length !== delta.length) {
    throw new RangeError(`a delta of ${delta.length} values for ${base.length} weights`);
  }
  const values = new Float32Array(base.length);
  for (let i = 0; i < values.length; i++) {
    values[i] = (base[i] as number) + (delta[i] as number);
  }
  return values;
}

/** What the composed Partial says of itself: whose it is, and on which base and grid. */
export type SiteSubject = Pick<Partial, "site" | "base" | "baseDigest" | "grid" | "layout">;

/**
 * One Partial for all site rounds of the stretch. After a single one it is that round's exact sum.
 * After more, q = (D - D at its start) 2^f to the nearest whole number, ties to even, clamped to the
 * grid's range; S = N q, where N is the sum of the contributors' samples. What is clamped counts as
 * saturated.
 */
export function composeSite(work: SiteWork, subject: SiteSubject): Partial {
  if (work.only !== undefined) return work.only;
  const weight = work.contributors.reduce((sum, { samples }) => sum + BigInt(samples), 0n);
  const sum = new BigInt64Array(work.delta.length);
  const store = productStore(sum, weight);
  let { saturated } = work;
  const { delta, start: before } = work;
  for (const { start, end, scale, stepsMax } of stretches(subject.layout, subject.grid)) {
    for (let i = start; i < end; i++) {
      let q = roundTiesToEven(((delta[i] as number) - (before?.[i] ?? 0)) * scale);
      if (Math.abs(q) > stepsMax) {
        q = q < 0 ? -stepsMax : stepsMax;
        saturated++;
      }
      store(i, q);
    }
  }
  const { site, base, baseDigest, grid, layout } = subject;
  const { contributors, metrics, clipped = 0 } = work;
  const counts = { saturated, ...clippedField(clipped) };
  return { base, baseDigest, grid, layout, weight, site, contributors, metrics, ...counts, sum };
}

/** Writes weight q; in halves, without a BigInt, where the product is an exact double. */
function productStore(sum: BigInt64Array, weight: bigint): (index: number, q: number) => void {
  const halves = new Int32Array(sum.buffer);
  const factor = Number(weight);
  return (index, q) => {
    const product = factor * q;
    if (weight > 2n ** 53n || Math.abs(product) > 2 ** 53) {
      sum[index] = weight * BigInt(q);
      return;
    }
    halves[2 * index] = product | 0;
    halves[2 * index + 1] = Math.floor(product / 2 ** 32);
  };
}
