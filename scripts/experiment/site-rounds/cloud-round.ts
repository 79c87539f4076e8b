import { publishedWeights, startOptimizer, stepOptimizer } from "@tributary/cloud/optimizer.js";
import { type OptimizerParams, optimizerSchema } from "@tributary/cloud/params.js";
import {
  addSiteRound,
  composeSite,
  type SiteWork,
  siteModel,
} from "@tributary/gateway/site-model.js";
import { createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import { encodingFor, type Grid, quantise } from "@tributary/proto/algebra/grid.js";
import { parameterCount } from "@tributary/proto/algebra/layout.js";
import { meanFloat64, merge, type Partial } from "@tributary/proto/algebra/partial.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import { numberedId } from "@tributary/proto/wire/ids.js";
import { softmaxLayout as layout, type SoftmaxTraining, trainSoftmax } from "../softmax.js";
import type { Site } from "./fleet.js";

const SESSION = "site-rounds";
/** NMax: more samples than any sum here holds. */
const TOTAL_MAX = 1_000_000_000n;
const grid: Grid = { fractionBits: layout.map(() => 20), range: 4 };
const optimizer: OptimizerParams = optimizerSchema.parse({ kind: "fedavg" });

/** How a round of the cloud is run at each site. */
export type Scheme = {
  /** kappa1, in epochs of a device on its own samples. */
  readonly epochs: number;
  /** kappa2. */
  readonly siteRounds: number;
};

export type Course = {
  readonly weights: Float32Array;
  /** One round of the cloud's. */
  round(): void;
};

/**
 * Rounds of the cloud over sites, with the product's own arithmetic: devices train and snap their
 * deltas to the grid, gateways sum exactly, go on from the site's model, and compose one Partial;
 * the cloud merges them and takes a FedAvg step.
 *
 * @param seed of the order in which devices see their samples
 */
export function createCourse(
  kernel: Kernel,
  sites: readonly Site[],
  scheme: Scheme,
  training: Omit<SoftmaxTraining, "epochs">,
  seed: number,
): Course {
  let state = startOptimizer(optimizer, new Float64Array(parameterCount(layout)));
  let weights = publishedWeights(state);
  let number = 0;

  /** One site round: the exact sum of what the site's devices make of a model. */
  function sumOf(site: Site, from: Float32Array, k: number): Partial {
    const round = numberedId(SESSION, number);
    const base = numberedId(SESSION, number - 1);
    const subject = { round, site: site.name, base, baseDigest: "0".repeat(64) };
    const accumulator = createAccumulator(kernel, layout, grid, TOTAL_MAX, subject);
    for (const { name, samples } of site.devices) {
      const random = seededRandom(`${seed}/${round}/${k}/${name}`);
      const how = { ...training, epochs: scheme.epochs };
      const update = quantise(trainSoftmax(from, samples, how, random), layout, grid, {
        saturate: true,
      });
      if (!update.ok) throw new Error(`${name}: ${update.message}`);
      const contributor = { device: name, samples: samples.count };
      const { values, saturated } = update;
      const added = accumulator.add(values, encodingFor(grid), contributor, {}, saturated);
      if (!added.ok) throw new Error(`${name}: ${added.message}`);
    }
    const sum = accumulator.snapshot();
    accumulator.release();
    return sum;
  }

  function partialOf(site: Site): Partial {
    let work: SiteWork | undefined;
    let from = weights;
    let sum: Partial | undefined;
    for (let k = 1; k <= scheme.siteRounds; k++) {
      sum = sumOf(site, from, k);
      work = addSiteRound(work, sum);
      from = siteModel(weights, work.delta);
    }
    if (work === undefined || sum === undefined) throw new RangeError("no site round");
    return composeSite(work, sum);
  }

  return {
    get weights() {
      return weights;
    },
    round() {
      number++;
      const merged = sites.map(partialOf).reduce((a, b) => {
        const both = merge(a, b, TOTAL_MAX);
        if (!both.ok) throw new Error(both.message);
        return both.partial;
      });
      state = stepOptimizer(optimizer, state, meanFloat64(merged));
      weights = publishedWeights(state);
    },
  };
}
