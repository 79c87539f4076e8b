import { setImmediate } from "node:timers/promises";
import * as tf from "@tensorflow/tfjs-core";
import type { Model, Trainer, TrainPlan, TrainResult } from "@tributary/device-sdk/trainer.js";
import { type Layout, parameterCount, tensorLength } from "@tributary/proto/algebra/layout.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { type Random, seededRandom } from "@tributary/proto/host/random.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import { z } from "zod";
import { DIGITS, IMAGE_PIXELS, type Samples } from "../mnist/data.js";
import { inTurn } from "./turn.js";
import { startBackend } from "./wasm-backend.js";

const HIDDEN = 64;

/**
 * 784 pixels, 64 hidden units (rectified linear), 10 digits (softmax): 50,890 parameters. Weights
 * have one row for each input.
 */
export const denseLayout = [
  { name: "hidden.weight", shape: [IMAGE_PIXELS, HIDDEN] },
  { name: "hidden.bias", shape: [HIDDEN] },
  { name: "output.weight", shape: [HIDDEN, DIGITS] },
  { name: "output.bias", shape: [DIGITS] },
] as const satisfies Layout;

/**
 * The network before training, flat in `denseLayout`'s order: weights uniform within
 * +- sqrt(6 / (inputs + outputs)) (Glorot and Bengio, 2010, equation 16), biases 0. Equal seeds give
 * equal bits.
 */
export function initialDense(seed: number): Float32Array {
  const random = seededRandom(seed);
  const values = new Float32Array(parameterCount(denseLayout));
  let at = 0;
  for (const spec of denseLayout) {
    const [inputs, outputs] = spec.shape;
    const limit = outputs === undefined ? 0 : Math.sqrt(6 / (inputs + outputs));
    for (const end = at + tensorLength(spec); at < end; at++)
      values[at] = (2 * random.next() - 1) * limit;
  }
  return values;
}

export type DenseOptions = {
  readonly train: Samples;
  readonly test: Samples;
  /** Tells apart the sample orders of devices that train under one seed. */
  readonly device: string;
};

/** What this trainer reads of a plan's training parameters; it leaves others alone. */
const trainingSchema = z.object({
  epochs: z.number().int().min(1),
  learningRate: z.number().positive(),
  batchSize: z.number().int().min(1),
  seed: z.number().int().default(0),
  /** Round r of the session trains with learningRate * learningRateDecay^(r - 1). */
  learningRateDecay: z.number().positive().max(1).default(1),
});

/** Images in one forward pass of an evaluation: 8 MB of pixels. */
const EVALUATE_BATCH = 2_500;
/** Steps between two looks at the event loop, of 1 to 3 ms each. */
const STEPS_AT_ONCE = 8;

/**
 * Trains the dense network by stochastic gradient descent on softmax cross-entropy, with
 * TensorFlow.js. Rejects with ZodError when the plan lacks a training parameter, with Error when
 * the model is not of `denseLayout`, and with the signal's reason when that aborts.
 */
export async function createDenseTrainer(options: DenseOptions): Promise<Trainer> {
  await startBackend();
  return {
    train: (model, plan, signal) => inTurn(signal, () => train(options, model, plan, signal)),
    evaluate: (model, signal) =>
      inTurn(signal, async () => ({
        samples: options.test.count,
        metrics: await evaluate(options.test, model, signal),
      })),
    predict: (model, input) => predict(model, input),
  };
}

async function train(
  { train: samples, device }: DenseOptions,
  model: Model,
  plan: TrainPlan,
  signal: AbortSignal,
): Promise<TrainResult> {
  const training = trainingSchema.parse(plan.training);
  const { epochs, batchSize, seed } = training;
  const random = seededRandom(seedOf(`${seed}/${plan.round}/${device}`));
  // A tidy frees the tensors and keeps the variables made of them.
  const variables = tf.tidy(() => tensorsOf(model).map((tensor) => tf.variable(tensor)));
  const optimizer = tf.train.sgd(learningRateOf(training, plan.round));
  const order = Uint32Array.from({ length: samples.count }, (_, i) => i);
  let losses = 0;
  let steps = 0;
  try {
    for (let epoch = 0; epoch < epochs; epoch++) {
      shuffle(order, random);
      for (let start = 0; start < order.length; start += batchSize) {
        const chosen = order.subarray(start, start + batchSize);
        losses += step(optimizer, variables, samples, chosen) * chosen.length;
        if (++steps % STEPS_AT_ONCE === 0) await setImmediate();
        signal.throwIfAborted();
      }
    }
    const weights = new Map(
      denseLayout.map(({ name }, t) => [name, variables[t]?.dataSync<"float32">().slice()]),
    );
    return {
      weights: weights as Map<string, Float32Array>,
      samples: samples.count,
      metrics: { loss: losses / (epochs * samples.count) },
    };
  } finally {
    optimizer.dispose();
    tf.dispose(variables);
  }
}

function learningRateOf(
  { learningRate, learningRateDecay }: z.infer<typeof trainingSchema>,
  round: string,
): number {
  return learningRate * learningRateDecay ** ((splitNumberedId(round)?.number ?? 1) - 1);
}

/** One step of the optimiser on the chosen samples; their mean loss before it. */
function step(
  optimizer: tf.Optimizer,
  variables: tf.Variable[],
  samples: Samples,
  chosen: Uint32Array,
): number {
  return tf.tidy(() => {
    const images = imagesOf(samples, chosen);
    const wanted = tf.oneHot(labelsOf(samples, chosen), DIGITS);
    const cost = optimizer.minimize(
      () => crossEntropy(wanted, logits(images, variables)),
      true,
      variables,
    );
    return cost?.dataSync()[0] as number;
  });
}

async function evaluate(
  samples: Samples,
  model: Model,
  signal: AbortSignal,
): Promise<{ loss: number; accuracy: number }> {
  let loss = 0;
  let correct = 0;
  for (let start = 0; start < samples.count; start += EVALUATE_BATCH) {
    signal.throwIfAborted();
    const size = Math.min(EVALUATE_BATCH, samples.count - start);
    const chosen = Uint32Array.from({ length: size }, (_, i) => start + i);
    tf.tidy(() => {
      const labels = labelsOf(samples, chosen);
      const answers = logits(imagesOf(samples, chosen), tensorsOf(model));
      const cost = crossEntropy(tf.oneHot(labels, DIGITS), answers);
      loss += (cost.dataSync()[0] as number) * size;
      correct += tf.sum(tf.equal(tf.argMax(answers, 1), labels)).dataSync()[0] as number;
    });
    await setImmediate();
  }
  return { loss: loss / samples.count, accuracy: correct / samples.count };
}

const imageSchema = z.union([
  z.instanceof(Uint8Array),
  z.array(z.number().min(0).max(255)).transform((pixels) => Uint8Array.from(pixels)),
]);

/** `input`: one image, as 784 numbers from 0 to 255 in row-major order. Throws when it is not. */
function predict(model: Model, input: unknown): { digit: number; probabilities: number[] } {
  const pixels = imageSchema.parse(input);
  if (pixels.length !== IMAGE_PIXELS)
    throw new RangeError(`${pixels.length} numbers: an image has ${IMAGE_PIXELS}`);
  const image = { count: 1, pixels, labels: new Uint8Array(1) };
  const probabilities = tf.tidy(() => [
    ...tf.softmax(logits(imagesOf(image, Uint32Array.of(0)), tensorsOf(model))).dataSync(),
  ]);
  return { digit: probabilities.indexOf(Math.max(...probabilities)), probabilities };
}

function logits(images: tf.Tensor2D, [hidden, hiddenBias, output, outputBias]: tf.Tensor[]) {
  const activity = tf.relu(
    tf.add(tf.matMul(images, hidden as tf.Tensor2D), hiddenBias as tf.Tensor),
  );
  return tf.add<tf.Tensor2D>(tf.matMul(activity, output as tf.Tensor2D), outputBias as tf.Tensor);
}

/** The mean over the rows of -log softmax(answers) at the wanted digit. */
function crossEntropy(wanted: tf.Tensor, answers: tf.Tensor2D): tf.Scalar {
  const logLikelihood = tf.sum(tf.mul(wanted, tf.logSoftmax(answers)), 1);
  return tf.mul(tf.mean(logLikelihood), -1);
}

function tensorsOf(model: Model): tf.Tensor[] {
  return denseLayout.map(({ name, shape }) => {
    const tensor = model.tensors.get(name);
    if (tensor === undefined || String(tensor.shape) !== String(shape))
      throw new Error(`the model lacks the tensor ${name} of shape ${shape.join(" x ")}`);
    return tf.tensor(tensor.values, [...shape]);
  });
}

/** Grey levels from 0 to 1, one row for each chosen image. */
function imagesOf(samples: Samples, chosen: Uint32Array): tf.Tensor2D {
  const values = new Float32Array(chosen.length * IMAGE_PIXELS);
  let to = 0;
  for (const index of chosen) {
    const from = index * IMAGE_PIXELS;
    for (let i = from; i < from + IMAGE_PIXELS; i++)
      values[to++] = (samples.pixels[i] as number) / 255;
  }
  return tf.tensor2d(values, [chosen.length, IMAGE_PIXELS]);
}

function labelsOf(samples: Samples, chosen: Uint32Array): tf.Tensor1D {
  return tf.tensor1d(
    Int32Array.from(chosen, (index) => samples.labels[index] as number),
    "int32",
  );
}

function seedOf(text: string): number {
  return Number.parseInt(sha256(text).slice(0, 12), 16);
}

function shuffle(order: Uint32Array, random: Random): void {
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random.next() * (i + 1));
    const kept = order[i] as number;
    order[i] = order[j] as number;
    order[j] = kept;
  }
}
