import type { CreateTrainer } from "@tributary/device-sdk/trainer.js";

const SAMPLES = 10;

/** Returns at once, with the weights that it was given. */
export const createTrainer: CreateTrainer = () => ({
  async train({ tensors }) {
    const weights = new Map([...tensors].map(([name, { values }]) => [name, values]));
    return { weights, samples: SAMPLES, metrics: { loss: 0 } };
  },
  async evaluate() {
    return { samples: SAMPLES, metrics: { loss: 0 } };
  },
});
