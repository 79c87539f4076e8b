import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs-core";
import type { Model, Tensor, Trainer, TrainPlan } from "@tributary/device-sdk/trainer.js";
import { tensorLength } from "@tributary/proto/algebra/layout.js";
import { IMAGE_PIXELS, type Samples } from "../mnist/data.js";
import { createDenseTrainer, denseLayout, initialDense } from "./dense.js";

const never = new AbortController().signal;

/** Digit d is a bright bar of its own over faint speckle: separable, and quick to learn. */
function bars(count: number): Samples {
  const labels = Uint8Array.from({ length: count }, (_, i) => i % 10);
  const pixels = Uint8Array.from({ length: count * IMAGE_PIXELS }, (_, at) => {
    const image = Math.floor(at / IMAGE_PIXELS);
    const row = Math.floor((at % IMAGE_PIXELS) / 28);
    const speckle = (at * 31 + image * 17) % 40;
    return Math.floor(row / 2.8) === (labels[image] as number) ? 200 + speckle : speckle;
  });
  return { count, pixels, labels };
}

function modelOf(values: Float32Array): Model {
  const tensors = new Map<string, Tensor>();
  let at = 0;
  for (const spec of denseLayout) {
    const end = at + tensorLength(spec);
    tensors.set(spec.name, { shape: spec.shape, values: values.subarray(at, end) });
    at = end;
  }
  return { id: "bars.0", digest: "", tensors };
}

function modelWith(weights: ReadonlyMap<string, Float32Array>): Model {
  const flat = denseLayout.flatMap(({ name }) => [...(weights.get(name) ?? [])]);
  return modelOf(Float32Array.from(flat));
}

function plan(training: TrainPlan["training"]): TrainPlan {
  return { round: "bars.1", session: "bars", training, remainingMs: 60_000 };
}

const usual = { epochs: 2, learningRate: 0.1, batchSize: 32, seed: 1 };

function trainer(count = 310): Promise<Trainer> {
  return createDenseTrainer({ train: bars(count), test: bars(100), device: "0" });
}

test("equal seeds give the same initial network, of the layout's length and Glorot's range", () => {
  assert.deepEqual(initialDense(7), initialDense(7));
  assert.notDeepEqual(initialDense(7), initialDense(8));
  const { tensors } = modelOf(initialDense(7));
  const limit = Math.sqrt(6 / (784 + 64));
  const hidden = tensors.get("hidden.weight")?.values ?? new Float32Array();
  assert.equal(hidden.length, 784 * 64);
  const largest = hidden.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  assert.ok(largest <= Math.fround(limit) && largest > 0.99 * limit, `${largest}`);
  assert.ok(tensors.get("output.bias")?.values.every((value) => value === 0));
});

test("training learns, leaves the model as it was, and answers for every tensor", async () => {
  const subject = await trainer();
  const values = initialDense(1);
  const before = await subject.evaluate(modelOf(values), never);
  const result = await subject.train(modelOf(values), plan(usual), never);
  assert.deepEqual(values, initialDense(1));
  assert.equal(result.samples, 310);
  assert.deepEqual(
    [...result.weights].map(([name, tensor]) => [name, tensor.length]),
    denseLayout.map((spec) => [spec.name, tensorLength(spec)]),
  );
  const after = await subject.evaluate(modelWith(result.weights), never);
  assert.equal(after.samples, 100);
  assert.ok((before.metrics.accuracy ?? 1) < 0.5, `before: ${before.metrics.accuracy}`);
  assert.ok((after.metrics.accuracy ?? 0) > 0.9, `after: ${after.metrics.accuracy}`);
  assert.ok((after.metrics.loss ?? 9) < (before.metrics.loss ?? 0));
  const mean = result.metrics.loss ?? 0;
  assert.ok(mean > (after.metrics.loss ?? 9) && mean < (before.metrics.loss ?? 0) + 0.5);
});

test("one step moves every weight by the learning rate times the analytic gradient", async () => {
  const samples = bars(6);
  const subject = await createDenseTrainer({ train: samples, test: samples, device: "0" });
  const values = initialDense(3);
  const one = { epochs: 1, learningRate: 0.5, batchSize: 6, seed: 1 };
  const { weights } = await subject.train(modelOf(values), plan(one), never);
  const lossAt = async (at: Float32Array) =>
    (await subject.evaluate(modelOf(at), never)).metrics.loss as number;
  // Central differences, at the coordinate that moved most in each tensor.
  let start = 0;
  for (const spec of denseLayout) {
    const moved = weights.get(spec.name) as Float32Array;
    const steps = moved.map((value, i) => value - (values[start + i] as number));
    const most = steps.reduce(
      (best, s, i) => (Math.abs(s) > Math.abs(steps[best] ?? 0) ? i : best),
      0,
    );
    const nudged = async (by: number) => {
      const copy = values.slice();
      copy[start + most] = (copy[start + most] as number) + by;
      return lossAt(copy);
    };
    const slope = ((await nudged(0.02)) - (await nudged(-0.02))) / 0.04;
    const step = steps[most] as number;
    assert.ok(
      Math.abs(step + 0.5 * slope) < 0.05 * Math.abs(step),
      `${spec.name}[${most}]: step ${step}, slope ${slope}`,
    );
    start += moved.length;
  }
});

test("a round's seed decides the result to the bit, and the round number changes the order", async () => {
  const subject = await trainer();
  const from = modelOf(initialDense(1));
  const first = await subject.train(from, plan(usual), never);
  const again = await subject.train(from, plan(usual), never);
  assert.deepEqual(again, first);
  const next = await subject.train(from, { ...plan(usual), round: "bars.2" }, never);
  assert.notDeepEqual(next.weights, first.weights);
});

test("the learning rate decays with the round's number", async () => {
  const samples = bars(6);
  const subject = await createDenseTrainer({ train: samples, test: samples, device: "0" });
  const values = initialDense(3);
  const from = modelOf(values);
  // One step over all samples, so that the order drawn for the round hardly matters.
  const once = { epochs: 1, learningRate: 0.5, batchSize: 6, seed: 1, learningRateDecay: 0.5 };
  const stepIn = async (round: string) => {
    const { weights } = await subject.train(from, { ...plan(once), round }, never);
    return (weights.get("output.bias") as Float32Array)[0] as number;
  };
  const first = await stepIn("bars.1");
  const third = await stepIn("bars.3");
  assert.ok(Math.abs(third / first - 0.25) < 1e-3, `${third} of ${first}`);
});

test("training and evaluating keep no tensor and no buffer", async () => {
  const subject = await trainer();
  const from = modelOf(initialDense(1));
  await subject.train(from, plan(usual), never);
  const { numTensors } = tf.memory();
  const buffers = tf.backend().numDataIds();
  await subject.train(from, plan(usual), never);
  await subject.evaluate(from, never);
  subject.predict?.(from, bars(1).pixels);
  assert.equal(tf.memory().numTensors, numTensors);
  assert.equal(tf.backend().numDataIds(), buffers);
});

test("an aborted task rejects, before its turn or in it, and the next one runs", async () => {
  const subject = await trainer();
  const from = modelOf(initialDense(1));
  await assert.rejects(
    subject.train(from, plan(usual), AbortSignal.abort(new Error("round over"))),
    /round over/,
  );
  const { numTensors } = tf.memory();
  const control = new AbortController();
  const running = subject.train(from, plan({ ...usual, epochs: 100_000 }), control.signal);
  setImmediate(() => control.abort(new Error("closed")));
  await assert.rejects(running, /closed/);
  assert.equal(tf.memory().numTensors, numTensors);
  assert.equal((await subject.train(from, plan(usual), never)).samples, 310);
});

test("a plan without its parameters, another model or no image is refused", async () => {
  const subject = await trainer();
  const from = modelOf(initialDense(1));
  await assert.rejects(
    subject.train(from, plan({ epochs: 1, batchSize: 8 }), never),
    /learningRate/,
  );
  await assert.rejects(subject.train(from, plan({ ...usual, batchSize: 0 }), never), /batchSize/);
  const partial = { ...from, tensors: new Map([...from.tensors].slice(1)) };
  await assert.rejects(subject.evaluate(partial, never), /hidden\.weight of shape 784 x 64/);
  const bias = from.tensors.get("hidden.bias") as Tensor;
  const turned = new Map([...from.tensors, ["hidden.bias", { ...bias, shape: [1, 64] }]]);
  await assert.rejects(subject.evaluate({ ...from, tensors: turned }, never), /hidden\.bias/);
  assert.throws(() => subject.predict?.(from, [1, 2, 3]), /an image has 784/);
  assert.throws(() => subject.predict?.(from, "image"));
});

test("a trained model names the digit of an image", async () => {
  const subject = await trainer();
  const { weights } = await subject.train(modelOf(initialDense(1)), plan(usual), never);
  const image = [...bars(10).pixels.subarray(4 * IMAGE_PIXELS, 5 * IMAGE_PIXELS)];
  const answer = subject.predict?.(modelWith(weights), image) as {
    digit: number;
    probabilities: number[];
  };
  assert.equal(answer.digit, 4);
  assert.ok(Math.abs(answer.probabilities.reduce((a, b) => a + b) - 1) < 1e-5);
});
