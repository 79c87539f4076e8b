import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { predictOnce, runDevice } from "./main.js";
import { openTestGateway } from "./testing/gateway.js";
import { sampleModel, samplePlan } from "./testing/sample.js";
import { until } from "./testing/wait.js";
import { loadTrainerModule } from "./trainer-module.js";

const trainerModule = `
export function createTrainer({ step }) {
  return {
    async train(model) {
      const weights = new Map();
      for (const [name, { values }] of model.tensors) weights.set(name, values.map((v) => v + step));
      return { weights, samples: 3, metrics: {} };
    },
    async evaluate() {
      return { samples: 3, metrics: { loss: 1 } };
    },
    predict: (model, input) => model.tensors.get("b").values[0] * input.times,
  };
}
`;

async function withFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "tributary-device-"));
  try {
    await run(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

const code = (expected: string) => (error: unknown) =>
  (error as { code?: string }).code === expected;

test("devices of one config run in one process, on disk, and one answers offline afterwards", () =>
  withFolder(async (folder) => {
    const gateway = await openTestGateway("north");
    const base = sampleModel("s.0");
    const file = join(folder, "device.yaml");
    await writeFile(join(folder, "trainer.mjs"), trainerModule);
    await writeFile(
      file,
      `site: north
gateway: ${gateway.url}
dataDir: data
auditDir: audit
log: json
trainer: { module: ./trainer.mjs, options: { step: 0.25 } }
devices:
  - device: one
  - device: two
    options: { step: 0.5 }
`,
    );
    const lines: string[] = [];
    const place = { file, env: {} };
    try {
      gateway.serve(base);
      gateway.offer(samplePlan("s.1", base));
      const running = await runDevice({ ...place, write: (line) => lines.push(line) });
      await until("both have receipts", () => gateway.receipted.size === 2);
      await assert.rejects(runDevice({ ...place, write: () => {} }), code("data-dir-locked"));
      await running.close();
    } finally {
      await gateway.close();
    }
    const first = (device: string): number | undefined =>
      new Float32Array(gateway.receipted.get(`s.1 ${device}`)?.slice().buffer ?? [])[0];
    assert.deepEqual([first("one"), first("two")], [0.25, 0.5]);
    assert.ok(lines.some((line) => JSON.parse(line).name === "link-up"));

    const inputFile = join(folder, "input.json");
    await writeFile(inputFile, `{ "times": 4 }`);
    const predicted = await predictOnce({ ...place, inputFile, device: "two" });
    assert.deepEqual(predicted, { ok: true, output: 2 });
    await assert.rejects(predictOnce({ ...place, inputFile }), code("config-device"));
    await assert.rejects(
      predictOnce({ ...place, inputFile: file, device: "one" }),
      code("config-input"),
    );
  }));

test("the README's trainer trains", () =>
  withFolder(async (folder) => {
    const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
    const source = /```js\n([^`]*createTrainer[^`]*)```/.exec(readme)?.[1];
    const path = join(folder, "trainer.mjs");
    await writeFile(path, source ?? "");
    const create = await loadTrainerModule(path);
    const trainer = await create({ xs: [1, 2, 3], ys: [2, 4, 6] });
    const zero = { shape: [1], values: new Float32Array(1) };
    const tensors = new Map([
      ["w", zero],
      ["b", zero],
    ]);
    const model = { id: "s.0", digest: "", tensors };
    const training = { epochs: 200, learningRate: 0.05 };
    const plan = { round: "s.1", session: "s", training, remainingMs: 1000 };
    const { weights } = await trainer.train(model, plan, new AbortController().signal);
    assert.ok(Math.abs((weights.get("w")?.[0] ?? 0) - 2) < 0.05);
    assert.equal(trainer.predict?.(model, 4), 0);
  }));

test("a trainer module that is missing, or no trainer, is a config error", () =>
  withFolder(async (folder) => {
    const file = join(folder, "device.json");
    const run = async (source: string | undefined): Promise<unknown> => {
      const name = `t${source?.length ?? 0}.mjs`;
      if (source !== undefined) await writeFile(join(folder, name), source);
      const config = {
        ...{ site: "north", gateway: "mqtt://127.0.0.1:1", device: "one" },
        trainer: { module: name },
      };
      await writeFile(file, JSON.stringify(config));
      return runDevice({ file, env: {}, write: () => {} });
    };
    for (const source of [
      undefined,
      "export const x = 1;",
      "export const createTrainer = () => ({});",
      "not javascript",
    ])
      await assert.rejects(run(source), code("config-trainer"));
  }));
