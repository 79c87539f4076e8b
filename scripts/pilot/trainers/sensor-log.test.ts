import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { Model, Trainer } from "@tributary/device-sdk/trainer.js";
import { type Layout, tensorLength } from "@tributary/proto/algebra/layout.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { autoencoderLayout, initialAutoencoder } from "./autoencoder.js";
import { createTrainer, type DeviceResult } from "./sensor-log.js";
import {
  averageStatistics,
  initialStatistics,
  scalingOf,
  statisticsLayout,
  statisticsRounds,
} from "./statistics.js";

const training = { epochs: 2, learningRate: 0.003, batchSize: 32 };
const signal = new AbortController().signal;

function modelOf(layout: Layout, values: ArrayLike<number>): Model {
  const flat = Float32Array.from(values);
  let at = 0;
  const tensors = layout.map((spec) => {
    at += tensorLength(spec);
    return [
      spec.name,
      { shape: spec.shape, values: flat.subarray(at - tensorLength(spec), at) },
    ] as const;
  });
  return { id: "s.0", digest: "", tensors: new Map(tensors) };
}

type Answer = { weights: ReadonlyMap<string, Float32Array>; samples: number };

/** FedAvg in one process. */
async function rounds(
  layout: Layout,
  start: Float32Array,
  count: number,
  train: (model: Model) => Promise<Answer>[],
) {
  let model = modelOf(layout, start);
  for (let round = 0; round < count; round++) {
    const answers = await Promise.all(train(model));
    const total = answers.reduce((sum, { samples }) => sum + samples, 0);
    const mean = layout.flatMap(({ name }) =>
      Array.from(
        answers[0]?.weights.get(name) ?? [],
        (_, i) =>
          answers.reduce(
            (sum, { weights, samples }) => sum + (weights.get(name)?.[i] ?? 0) * samples,
            0,
          ) / total,
      ),
    );
    model = modelOf(layout, mean);
  }
  return model;
}

test("the pooled deviation of any unit comes out, whatever each device holds of it", async () => {
  const random = seededRandom(3);
  const units = [1e-9, 1, 1e9, 0];
  const devices = [100, 300].map((rows) =>
    Float64Array.from(
      { length: rows * units.length },
      (_, i) => (random.next() - 0.5) * (units[i % units.length] ?? 0),
    ),
  );
  const layout = statisticsLayout(units.length);
  const model = await rounds(layout, initialStatistics(units.length), statisticsRounds, (current) =>
    devices.map(async (values) => averageStatistics(current, { sensors: units.length, values })),
  );
  const expected = units.map((_, sensor) => {
    const own = devices.flatMap((values) =>
      [...values].filter((_, i) => i % units.length === sensor),
    );
    return Math.sqrt(own.reduce((sum, x) => sum + x * x, 0) / own.length);
  });
  scalingOf(model).forEach((deviation, sensor) => {
    // A sensor that never changes is left as it is.
    const wanted = expected[sensor] === 0 ? 1 : (expected[sensor] ?? 0);
    assert.ok(Math.abs(deviation / wanted - 1) < 1e-3, `${deviation} for ${wanted}`);
  });
});

/** Two related sensors and a third; in the anomaly the relation breaks. */
function syntheticLog(seed: number, level: number): string {
  const random = seededRandom(seed);
  const lines = ["time;a;b;c;anomaly"];
  for (let i = 0; i < 500; i++) {
    const isAnomaly = i >= 380 && i < 440;
    const load = Math.sin(i / 9);
    const noise = () => (random.next() - 0.5) * 0.1;
    const b = isAnomaly ? -2 * load + 3 : 2 * load;
    lines.push(
      `${i};${level + load + noise()};${level * 1000 + b + noise()};${1e-4 * (load * load + noise())};${isAnomaly ? 1 : 0}`,
    );
  }
  return `${lines.join("\n")}\n`;
}

test("a fleet flags what none of its devices was told, and leaves counts alone", async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-sensor-log-"));
  try {
    const trainers = await Promise.all(
      [1, 2].map(async (seed): Promise<Trainer> => {
        const file = join(dir, `${seed}.csv`);
        await writeFile(file, syntheticLog(seed, seed * 5));
        return createTrainer({
          file,
          device: `d${seed}`,
          sensors: ["a", "b", "c"],
          result: join(dir, `${seed}.json`),
          rounds: 15,
          training,
        });
      }),
    );
    const plan = {
      round: "s.1",
      session: "s",
      training: { ...training, seed: 1 },
      remainingMs: 1e6,
    };
    const train = (model: Model) => trainers.map((trainer) => trainer.train(model, plan, signal));
    const statistics = await rounds(
      statisticsLayout(3),
      initialStatistics(3),
      statisticsRounds,
      train,
    );
    const model = await rounds(
      autoencoderLayout(3),
      initialAutoencoder(scalingOf(statistics), 1),
      15,
      train,
    );
    const evaluated = await Promise.all(trainers.map((trainer) => trainer.evaluate(model, signal)));
    for (const [i, { samples, metrics }] of evaluated.entries()) {
      const text = await readFile(join(dir, `${i + 1}.json`), "utf8");
      const result = JSON.parse(text) as DeviceResult;
      assert.equal(samples, 300);
      assert.equal(result.testRows, 300);
      assert.equal(Math.round((metrics.tp ?? 0) * samples), result.federated?.tp);
      assert.ok((result.federated?.tp ?? 0) > 45, text);
      assert.ok((result.federated?.fp ?? 300) < 60, text);
      assert.ok(!/\./.test(text.replaceAll("d1", "").replaceAll("d2", "")), "only counts leave");
    }
    const answer = trainers[0]?.predict?.(model, [[5, 5000, 0]]) as number[];
    assert.equal(answer.length, 1);
    assert.throws(() => trainers[0]?.predict?.(model, [[5, 5000]]), /each row must hold 3 values/);
  } finally {
    await rm(dir, { recursive: true });
  }
});
