import { createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import { encodingFor, type Grid, quantise } from "@tributary/proto/algebra/grid.js";
import type { Partial } from "@tributary/proto/algebra/partial.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import { numberedId } from "@tributary/proto/wire/ids.js";
import {
  type InkedSamples,
  type SoftmaxTraining,
  softmaxLayout,
  trainSoftmax,
} from "../softmax.js";
import { type Model, SESSION, TOTAL_MAX } from "./root.js";

export const training: SoftmaxTraining = { epochs: 1, batchSize: 32, learningRate: 0.1 };

const grid: Grid = { fractionBits: softmaxLayout.map(() => 20), range: 4 };

/** A site with its gateway and the samples of its devices. */
export type Site = {
  readonly name: string;
  readonly devices: readonly InkedSamples[];
};

/**
 * What a site makes of a model: each device trains on its own samples and snaps its delta to the
 * grid, the gateway adds them up exactly. The round is the one that follows the model.
 *
 * @param seed of the order in which devices see their samples
 */
export function sitePartial(kernel: Kernel, site: Site, base: Model, seed: number): Partial {
  const round = numberedId(SESSION, base.version + 1);
  const accumulator = createAccumulator(kernel, softmaxLayout, grid, TOTAL_MAX, {
    round,
    site: site.name,
    base: base.id,
    baseDigest: base.digest,
  });
  try {
    for (const [at, samples] of site.devices.entries()) {
      const device = `${site.name}-device-${at + 1}`;
      const random = seededRandom(`${seed}/${round}/${device}`);
      const delta = trainSoftmax(base.weights, samples, training, random);
      const update = quantise(delta, softmaxLayout, grid, { saturate: true });
      if (!update.ok) throw new Error(`${device}: ${update.message}`);
      const contributor = { device, samples: samples.count };
      const { values, saturated } = update;
      const added = accumulator.add(values, encodingFor(grid), contributor, {}, saturated);
      if (!added.ok) throw new Error(`${device}: ${added.message}`);
    }
    return accumulator.snapshot();
  } finally {
    accumulator.release();
  }
}
