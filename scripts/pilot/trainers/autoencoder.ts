import { setImmediate } from "node:timers/promises";
import * as tf from "@tensorflow/tfjs-core";
import type { Model, TrainResult } from "@tributary/device-sdk/trainer.js";
import { type Layout, parameterCount, tensorLength } from "@tributary/proto/algebra/layout.js";
import { type Random, seededRandom } from "@tributary/proto/host/random.js";
import type { Scaling, SensorRows } from "./statistics.js";

/** Rows that the network sees at once: the newest and those before it. */
const WINDOW = 4;
const HIDDEN = 32;
/** Scaled values are cut here: one wild reading may not drown the others. */
const CUT = 10;
const STEPS_AT_ONCE = 16;
/** Windows drawn in an epoch, and measured at once: a long log costs no longer round. */
const WINDOWS_MAX = 4096;

/**
 * A dense autoencoder over a window of rows. The scaling travels inside the model, unchanged by
 * training, so that a device can use the model by itself.
 */
export function autoencoderLayout(sensors: number): Layout {
  const inputs = WINDOW * sensors;
  const code = codeUnits(sensors);
  return [
    { name: "scale", shape: [sensors] },
    { name: "encoder.weight", shape: [inputs, HIDDEN] },
    { name: "encoder.bias", shape: [HIDDEN] },
    { name: "code.weight", shape: [HIDDEN, code] },
    { name: "code.bias", shape: [code] },
    { name: "decoder.weight", shape: [code, HIDDEN] },
    { name: "decoder.bias", shape: [HIDDEN] },
    { name: "output.weight", shape: [HIDDEN, inputs] },
    { name: "output.bias", shape: [inputs] },
  ];
}

function codeUnits(sensors: number): number {
  return Math.max(2, Math.min(16, Math.ceil((WINDOW * sensors) / 6)));
}

/** Glorot and Bengio (2010), equation 16, with the scaling in front; equal seeds give equal bits. */
export function initialAutoencoder(scaling: Scaling, seed: number): Float32Array {
  const layout = autoencoderLayout(scaling.length);
  const random = seededRandom(seed);
  const values = new Float32Array(parameterCount(layout));
  let at = 0;
  for (const spec of layout) {
    const [inputs = 0, outputs] = spec.shape;
    const limit = outputs === undefined ? 0 : Math.sqrt(6 / (inputs + outputs));
    const given = spec.name === "scale" ? scaling : undefined;
    for (let i = 0; i < tensorLength(spec); i++, at++) {
      values[at] = given?.[i] ?? (2 * random.next() - 1) * limit;
    }
  }
  return values;
}

export type AutoencoderTraining = {
  readonly epochs: number;
  readonly learningRate: number;
  readonly batchSize: number;
  readonly seed: string;
};

/** Windows of scaled rows, one a row; rows before the first repeat it. */
export function windowsOf({ sensors, values }: SensorRows, model: Model): Float32Array {
  const scale = tensorOf(model, "scale");
  const rows = values.length / sensors;
  const windows = new Float32Array(rows * WINDOW * sensors);
  let at = 0;
  for (let row = 0; row < rows; row++) {
    for (let back = WINDOW - 1; back >= 0; back--) {
      const from = Math.max(0, row - back) * sensors;
      for (let s = 0; s < sensors; s++, at++) {
        const scaled = (values[from + s] ?? 0) / (scale[s] ?? 1);
        windows[at] = Math.max(-CUT, Math.min(CUT, scaled));
      }
    }
  }
  return windows;
}

function tensorOf(model: Model, name: string): Float32Array {
  const found = model.tensors.get(name);
  if (found === undefined)
    throw new Error(`the model has no tensor ${name}; it is not an autoencoder`);
  return found.values;
}

const weightNames = ["encoder", "code", "decoder", "output"].flatMap((layer) => [
  `${layer}.weight`,
  `${layer}.bias`,
]);

/** Trains by Adam on the mean squared error of the windows. */
export async function trainAutoencoder(
  model: Model,
  windows: Float32Array,
  training: AutoencoderTraining,
  signal: AbortSignal,
): Promise<TrainResult> {
  const inputs = windowLength(model);
  const rows = windows.length / inputs;
  const drawn = Math.min(rows, WINDOWS_MAX);
  const random = seededRandom(hash(training.seed));
  const order = Uint32Array.from({ length: rows }, (_, i) => i);
  const variables = tf.tidy(() => weightNames.map((name) => tf.variable(weightOf(model, name))));
  const optimizer = tf.train.adam(training.learningRate);
  let loss = 0;
  let steps = 0;
  try {
    for (let epoch = 0; epoch < training.epochs; epoch++) {
      shuffle(order, random);
      loss = 0;
      for (let start = 0; start < drawn; start += training.batchSize) {
        const chosen = order.subarray(start, Math.min(drawn, start + training.batchSize));
        loss += step(optimizer, variables, gather(windows, inputs, chosen), inputs) * chosen.length;
        if (++steps % STEPS_AT_ONCE === 0) await setImmediate();
        signal.throwIfAborted();
      }
    }
    const weights = new Map(
      [...model.tensors].map(([name, { values }]) => [name, Float32Array.from(values)]),
    );
    weightNames.forEach((name, i) => {
      const trained = variables[i]?.dataSync<"float32">();
      if (trained !== undefined) weights.set(name, trained.slice());
    });
    return { weights, samples: rows, metrics: { loss: loss / drawn } };
  } finally {
    optimizer.dispose();
    tf.dispose(variables);
  }
}

function step(
  optimizer: tf.Optimizer,
  variables: tf.Variable[],
  batch: Float32Array,
  inputs: number,
): number {
  return tf.tidy(() => {
    const windows = tf.tensor2d(batch, [batch.length / inputs, inputs]);
    const cost = optimizer.minimize(
      () => tf.mean(tf.square(tf.sub(reconstruct(windows, variables), windows))) as tf.Scalar,
      true,
      variables,
    );
    return cost?.dataSync()[0] ?? Number.NaN;
  });
}

function reconstruct(windows: tf.Tensor2D, layers: readonly tf.Tensor[]): tf.Tensor2D {
  const dense = (input: tf.Tensor, layer: number) =>
    tf.add(
      tf.matMul(input as tf.Tensor2D, layers[layer * 2] as tf.Tensor2D),
      layers[layer * 2 + 1] as tf.Tensor,
    );
  const encoded = tf.tanh(dense(windows, 0));
  const code = tf.tanh(dense(encoded, 1));
  return dense(tf.tanh(dense(code, 2)), 3) as tf.Tensor2D;
}

/** Mean squared error of each window under the model. */
export function reconstructionErrors(model: Model, windows: Float32Array): Float32Array {
  const inputs = windowLength(model);
  const errors = new Float32Array(windows.length / inputs);
  for (let from = 0; from < errors.length; from += WINDOWS_MAX) {
    const some = windows.subarray(from * inputs, (from + WINDOWS_MAX) * inputs);
    errors.set(errorsOf(model, some, inputs), from);
  }
  return errors;
}

function errorsOf(model: Model, windows: Float32Array, inputs: number): Float32Array {
  return tf.tidy(() => {
    const layers = weightNames.map((name) => weightOf(model, name));
    const all = tf.tensor2d(windows, [windows.length / inputs, inputs]);
    const errors = tf.mean(tf.square(tf.sub(reconstruct(all, layers), all)), 1);
    return errors.dataSync<"float32">().slice();
  });
}

function windowLength(model: Model): number {
  return tensorOf(model, "output.bias").length;
}

function weightOf(model: Model, name: string): tf.Tensor {
  const found = model.tensors.get(name);
  if (found === undefined)
    throw new Error(`the model has no tensor ${name}; it is not an autoencoder`);
  return tf.tensor(found.values, [...found.shape]);
}

function gather(windows: Float32Array, inputs: number, chosen: Uint32Array): Float32Array {
  const batch = new Float32Array(chosen.length * inputs);
  chosen.forEach((row, i) => {
    batch.set(windows.subarray(row * inputs, (row + 1) * inputs), i * inputs);
  });
  return batch;
}

function shuffle(order: Uint32Array, random: Random): void {
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random.next() * (i + 1));
    [order[i], order[j]] = [order[j] ?? 0, order[i] ?? 0];
  }
}

/** FNV-1a, 32 bits: a seed from a text. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193);
  return value >>> 0;
}
