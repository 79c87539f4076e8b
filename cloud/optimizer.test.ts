import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { allFinite, publishedWeights, startOptimizer, stepOptimizer } from "./optimizer.js";
import { type OptimizerParams, optimizerSchema } from "./params.js";

type Vectors = {
  problem: {
    w0: number[];
    clients: { n: number; a: number[]; c: number[] }[];
    K: number;
    eta_l: number;
  };
  tolerance: number;
  d1: number[];
  steps: Record<string, number[][]>;
};

const vectors: Vectors = JSON.parse(
  readFileSync(new URL("../optimizer.vectors.json", import.meta.url), "utf8"),
);

/** The vectors' local problem: K gradient steps on 0.5 * sum(a (w - c)^2), n-weighted mean delta. */
function meanDelta(w: Float64Array): Float64Array {
  const { clients, K, eta_l } = vectors.problem;
  const total = clients.reduce((sum, client) => sum + client.n, 0);
  const delta = new Float64Array(w.length);
  for (const { n, a, c } of clients) {
    const y = Float64Array.from(w);
    for (let k = 0; k < K; k++)
      for (let i = 0; i < y.length; i++) {
        const at = y[i] ?? Number.NaN;
        y[i] = at - eta_l * (a[i] ?? Number.NaN) * (at - (c[i] ?? Number.NaN));
      }
    for (let i = 0; i < y.length; i++)
      delta[i] = (delta[i] ?? 0) + (n / total) * ((y[i] ?? 0) - (w[i] ?? 0));
  }
  return delta;
}

function close(actual: Float64Array, expected: readonly number[], what: string): void {
  assert.equal(actual.length, expected.length);
  expected.forEach((value, i) => {
    const off = Math.abs((actual[i] ?? Number.NaN) - value);
    assert.ok(off <= vectors.tolerance, `${what}[${i}]: ${actual[i]} is ${off} from ${value}`);
  });
}

test("the local problem reproduces the vectors' first delta", () => {
  close(meanDelta(Float64Array.from(vectors.problem.w0)), vectors.d1, "d1");
});

for (const kind of ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] as const) {
  test(`${kind} with default parameters follows the vectors for three steps`, () => {
    const params: OptimizerParams = optimizerSchema.parse({ kind });
    let state = startOptimizer(params, Float64Array.from(vectors.problem.w0));
    const steps = vectors.steps[kind] ?? [];
    assert.equal(steps.length, 3);
    steps.forEach((expected, i) => {
      state = stepOptimizer(params, state, meanDelta(state.weights));
      close(state.weights, expected, `${kind} step ${i + 1}`);
    });
    assert.equal(state.step, 3);
  });
}

test("a step changes neither the state nor the delta it is given", () => {
  for (const kind of ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] as const) {
    const params = optimizerSchema.parse({ kind });
    const state = stepOptimizer(
      params,
      startOptimizer(params, Float64Array.of(1, 2)),
      Float64Array.of(0.5, -0.5),
    );
    const before = structuredClone(state);
    const delta = Float64Array.of(0.25, 0.125);
    stepOptimizer(params, state, delta);
    assert.deepEqual(state, before);
    assert.deepEqual(delta, Float64Array.of(0.25, 0.125));
  }
});

test("a state of another optimiser keeps its weights and starts its moments anew", () => {
  const adam = optimizerSchema.parse({ kind: "fedadam" });
  const averaged = stepOptimizer(
    optimizerSchema.parse({ kind: "fedavg" }),
    startOptimizer(optimizerSchema.parse({ kind: "fedavg" }), Float64Array.of(1)),
    Float64Array.of(1),
  );
  const delta = Float64Array.of(0.5);
  assert.deepEqual(
    stepOptimizer(adam, averaged, delta),
    stepOptimizer(adam, startOptimizer(adam, averaged.weights), delta),
  );
});

test("a delta of another length is refused", () => {
  const params = optimizerSchema.parse({ kind: "fedavg" });
  assert.throws(
    () => stepOptimizer(params, startOptimizer(params, new Float64Array(2)), new Float64Array(3)),
    RangeError,
  );
});

test("the published weights are the nearest float32, and finiteness is seen", () => {
  const params = optimizerSchema.parse({ kind: "fedavg" });
  const weights = publishedWeights(startOptimizer(params, Float64Array.of(0.1, 1e300)));
  assert.equal(weights[0], Math.fround(0.1));
  assert.equal(allFinite(weights), false, "a float64 past float32's range is infinite");
  assert.equal(allFinite(Float64Array.of(0, Number.NaN)), false);
  assert.equal(allFinite(Float64Array.of(0, 1)), true);
});
