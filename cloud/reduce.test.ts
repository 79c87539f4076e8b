import assert from "node:assert/strict";
import { test } from "node:test";
import { meanFloat64, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import { startOptimizer } from "./optimizer.js";
import { optimizerSchema } from "./params.js";
import { MergeFailure, makeCandidate, mergePartials, metricMeans, sumBytes } from "./reduce.js";
import { plan, sumOf } from "./testing/rounds.js";

const kernel = loadKernel();
const origin = { base: plan().base.model, baseDigest: plan().base.digest };

function each(partials: readonly Sum[]) {
  return async (visit: (partial: Sum) => void) => partials.forEach(visit);
}

test("any order of Partials merges to the same sum, contributors and metrics", async () => {
  const partials = [
    sumOf(plan(), { a: 3 }, { q: 100, metrics: { loss: 0.5 } }),
    sumOf(plan(), { b: 5, c: 2 }, { q: -7, metrics: { loss: 1.5 } }),
    sumOf(plan(), { d: 1 }, { q: 256 }),
  ];
  const forward = await mergePartials(kernel, plan(), origin, each(partials));
  const backward = await mergePartials(kernel, plan(), origin, each([...partials].reverse()));
  assert.deepEqual(forward, backward);
  assert.deepEqual([...forward.sum], [507n, 507n, 507n]);
  assert.equal(forward.weight, 11n);
  assert.deepEqual(metricMeans(forward.metrics), { loss: (0.5 * 3 + 1.5 * 7) / 10 });
});

test("the sum's bytes are int64 little-endian in layout order", async () => {
  const merged = await mergePartials(
    kernel,
    plan(),
    origin,
    each([sumOf(plan(), { a: 1 }, { q: -2 })]),
  );
  const bytes = Buffer.alloc(24);
  for (let i = 0; i < 3; i++) bytes.writeBigInt64LE(-2n, i * 8);
  assert.deepEqual(Buffer.from(sumBytes(merged)), bytes);
});

test("overlapping Partials are a broken invariant, not a wrong sum", async () => {
  const twice = [sumOf(plan(), { a: 1 }), sumOf(plan(), { a: 1 })];
  await assert.rejects(mergePartials(kernel, plan(), origin, each(twice)), MergeFailure);
});

test("an evaluation merges metrics and no values", async () => {
  const evaluate = plan({ task: "evaluate" });
  const merged = await mergePartials(
    kernel,
    evaluate,
    origin,
    each([sumOf(evaluate, { a: 1 }, { metrics: { accuracy: 0.25 } })]),
  );
  assert.equal(merged.sum.length, 0);
  assert.deepEqual(metricMeans(merged.metrics), { accuracy: 0.25 });
});

test("a candidate is the master weights moved by the exact mean, rounded once", () => {
  const params = optimizerSchema.parse({ kind: "fedavg" });
  const from = startOptimizer(params, Float64Array.of(0.1, 0.2, 0.3));
  const candidate = makeCandidate(params, from, meanFloat64(sumOf(plan(), { a: 3 }, { q: 64 })));
  assert.deepEqual(candidate.state.weights, Float64Array.of(0.35, 0.45, 0.55));
  assert.deepEqual(candidate.values, Float32Array.of(0.35, 0.45, 0.55));
  assert.equal(candidate.finite, true);
});

test("a candidate past float32's range is seen as not finite", () => {
  const params = optimizerSchema.parse({ kind: "fedavg", learningRate: 1e300 });
  const from = startOptimizer(params, new Float64Array(3));
  assert.equal(makeCandidate(params, from, new Float64Array(3).fill(0.25)).finite, false);
});
