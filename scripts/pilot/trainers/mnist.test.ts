import assert from "node:assert/strict";
import { test } from "node:test";
import { readMnist } from "../mnist/data.js";
import { split } from "../mnist/split.js";
import { denseLayout, initialDense } from "./dense.js";
import { createTrainer } from "./mnist.js";

const fleet = { sites: 3, devices: 24, seed: 1 };
const never = new AbortController().signal;

test("a device trains on its own share of MNIST and evaluates an even one", async () => {
  const { train } = await readMnist();
  const own = split(train.labels, fleet).devices[5]?.train.length;
  const trainer = await createTrainer({ ...fleet, device: 5 });
  const flat = initialDense(1);
  let at = 0;
  const tensors = denseLayout.map(({ name, shape }) => {
    const size = shape.reduce((product: number, n: number) => product * n, 1);
    at += size;
    return [name, { shape, values: flat.subarray(at - size, at) }] as const;
  });
  const model = { id: "first.0", digest: "", tensors: new Map(tensors) };
  const training = { epochs: 1, learningRate: 0.1, batchSize: 128, seed: 1 };
  const plan = { round: "first.1", session: "first", training, remainingMs: 60_000 };
  const result = await trainer.train(model, plan, never);
  assert.equal(result.samples, own);
  // Two or three digits are learnt within one epoch, so the mean loss falls far below ln 10.
  assert.ok((result.metrics.loss ?? 9) < 0.8, `${result.metrics.loss}`);
  const { samples } = await trainer.evaluate(model, never);
  assert.ok(samples === 416 || samples === 417, `${samples}`);
});

test("options with a typo or a device outside the fleet are refused", async () => {
  await assert.rejects(createTrainer({ ...fleet, device: 24 }), /device must be below devices/);
  await assert.rejects(createTrainer({ ...fleet, device: 1, site: 2 }), /site/);
  await assert.rejects(createTrainer({ devices: 4, seed: 1, device: 0 }), /sites/);
});
