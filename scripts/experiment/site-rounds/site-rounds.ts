import { loadKernel } from "@tributary/proto/host/wasm.js";
import { Option } from "commander";
import { type Mnist, readMnist } from "../../pilot/mnist/data.js";
import { type Experiment, numberColumns, type Outcome, type World } from "../experiment.js";
import { wholeNumber } from "../options.js";
import { accuracyByDigit, inked } from "../softmax.js";
import { createCourse, type Scheme } from "./cloud-round.js";
import { DEVICES_PER_SITE, DIGITS_PER_DEVICE, dealFleet, SITES } from "./fleet.js";

/** kappa1 kappa2 is the same in each: a device does as much work in a round of the cloud's. */
const schemes: readonly Scheme[] = [
  { epochs: 10, siteRounds: 1 },
  { epochs: 5, siteRounds: 2 },
  { epochs: 2, siteRounds: 5 },
];
const targets = [0.8, 0.84, 0.86, 0.87, 0.88];
const training = { batchSize: 20, learningRate: 0.1 };

export type Size = { readonly rounds: number; readonly seeds: number; readonly samples: number };

export type Figures = Scheme & {
  /** Accuracy after each round of the cloud's, the mean over the seeds. */
  readonly accuracies: readonly number[];
  /** For each target the first round of the cloud's that reaches it; null for none. */
  readonly reached: readonly { readonly accuracy: number; readonly round: number | null }[];
};

export const siteRounds: Experiment = {
  name: "site-rounds",
  summary: "how many rounds of the cloud's an accuracy takes, by the site rounds in each",
  details: `
    ${SITES} sites of ${DEVICES_PER_SITE} devices train softmax regression on MNIST. Each device holds ${DIGITS_PER_DEVICE} digits, no two of a
    site the same, so that each site lacks two. A round of the cloud's is 10 epochs of each device in
    every scheme: 10 at once and one sum (kappa2 = 1), 5 in each of 2 site rounds, or 2 in each of 5.

    Fixed: batches of ${training.batchSize}, learning rate ${training.learningRate}; FedAvg with server step 1; grid 2^-20, range 4.`,
  defaults: { rounds: 40, seeds: 2 },
  options: [
    new Option("--samples <n>", "training samples of one device, a multiple of 2")
      .argParser(wholeNumber(2, 1_000, 2))
      .default(200),
  ],
  async run({ rounds, seeds, own }, world) {
    const size = { ...(own as Pick<Size, "samples">), rounds, seeds };
    return outcomeOf(size, await measure(await readMnist(), size, world));
  },
};

/** Runs every scheme on every seed. The same arguments give the same figures. */
export async function measure(mnist: Mnist, size: Size, world: World): Promise<readonly Figures[]> {
  const { rounds, seeds, samples } = size;
  const test = inked(mnist.test);
  const kernel = loadKernel();
  const all = schemes.length * seeds * rounds;
  let done = 0;
  const figures: Figures[] = [];
  for (const scheme of schemes) {
    const sums = new Array<number>(rounds).fill(0);
    for (let seed = 1; seed <= seeds; seed++) {
      const course = createCourse(kernel, dealFleet(mnist, samples, seed), scheme, training, seed);
      for (let round = 0; round < rounds; round++) {
        await world.progress(done++, all, `kappa2 = ${scheme.siteRounds}, seed ${seed}`);
        course.round();
        sums[round] = (sums[round] as number) + mean(accuracyByDigit(course.weights, test));
      }
    }
    figures.push(
      figuresOf(
        scheme,
        sums.map((sum) => sum / seeds),
      ),
    );
  }
  return figures;
}

function figuresOf(scheme: Scheme, accuracies: readonly number[]): Figures {
  const reached = targets.map((accuracy) => {
    const at = accuracies.findIndex((value) => value >= accuracy);
    return { accuracy, round: at < 0 ? null : at + 1 };
  });
  return { ...scheme, accuracies, reached };
}

function outcomeOf({ rounds, seeds, samples }: Size, figures: readonly Figures[]): Outcome {
  const percent = (share: number) => `${Math.round(100 * share)} %`;
  return {
    title: "Rounds of the cloud's until an accuracy is reached, by the site rounds in each",
    columns: numberColumns([
      "site rounds (kappa2)",
      "epochs in each",
      ...targets.map(percent),
      `after ${rounds}`,
    ]),
    rows: figures.map(({ siteRounds: kappa2, epochs, reached, accuracies }) => [
      String(kappa2),
      String(epochs),
      ...reached.map(({ round }) => (round === null ? "-" : String(round))),
      `${(100 * (accuracies.at(-1) ?? 0)).toFixed(1)} %`,
    ]),
    notes: [
      `Accuracy on MNIST's test set, the mean over the digits and over ${seeds} ${seeds === 1 ? "seed" : "seeds"}; ${samples} samples a device.`,
    ],
    figures,
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
