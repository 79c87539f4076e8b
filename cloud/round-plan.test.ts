import assert from "node:assert/strict";
import { test } from "node:test";
import { sha256 } from "@tributary/proto/host/digest.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import { aggregationSchema } from "./aggregation.js";
import { makePlan, readPlan } from "./round-plan.js";
import { paramsOf } from "./testing/cloud.js";
import { layout, modelBytes } from "./testing/rounds.js";

const base = { manifest: makeManifest("s.0", modelBytes, sha256), layout };

function made(number: number, over: Parameters<typeof paramsOf>[0] = {}) {
  const plan = makePlan(paramsOf(over), number, "train", base);
  assert.ok(plan.ok, JSON.stringify(plan));
  return plan;
}

test("a plan's bytes read back as the plan, and are the same each time", () => {
  const { plan, bytes } = made(3);
  assert.deepEqual(made(3).bytes, bytes);
  assert.deepEqual(readPlan(bytes), plan);
  assert.equal(plan.round, "s.3");
  assert.equal(plan.siteDeadlineMs, 50_000);
});

test("the trainer's seed follows from the session's seed and the round", () => {
  const seedOf = (number: number, over = {}) => made(number, over).plan.training.seed;
  assert.equal(seedOf(1), seedOf(1));
  assert.notEqual(seedOf(1), seedOf(2));
  assert.notEqual(seedOf(1), seedOf(1, { seed: 2 }));
  assert.ok(Number.isInteger(seedOf(1)));
});

test("training parameters of the user's own travel unchanged", () => {
  const { training } = made(1, {
    training: { epochs: 2, learningRate: 0.5, batchSize: 8, kind: "special" },
  }).plan;
  const { seed: _, ...rest } = training;
  assert.deepEqual(rest, { epochs: 2, learningRate: 0.5, batchSize: 8, kind: "special" });
});

test("fraction bits of tensors that the model lacks are refused", () => {
  const params = paramsOf({ grid: { fractionBits: { default: 8, tensors: { x: 9 } }, range: 1 } });
  const refused = makePlan(params, 1, "train", base);
  assert.equal(refused.ok ? "ok" : refused.code, "plan-invalid");
});

test("the bound of an update's norm is in a training plan that asks for one", () => {
  assert.ok(!("clipNorm" in made(1).plan));
  const params = paramsOf({ clipNorm: 0.25 });
  for (const task of ["train", "evaluate"] as const) {
    const plan = makePlan(params, 1, task, base);
    assert.equal(plan.ok && readPlan(plan.bytes).clipNorm, task === "train" ? 0.25 : undefined);
  }
});

test("what follows from the aggregation is in a training plan, and only what is asked for", () => {
  const flagsOf = (over: Parameters<typeof paramsOf>[0], task: "train" | "evaluate" = "train") => {
    const plan = makePlan(paramsOf(over), 1, task, base);
    assert.ok(plan.ok);
    const { siteRounds, offlineSiteRounds, perSite, finishFirst } = plan.plan;
    return [siteRounds, offlineSiteRounds, perSite, finishFirst];
  };
  assert.deepEqual(flagsOf({}), [1, 0, false, false]);
  assert.deepEqual(flagsOf({ siteRounds: 5, offlineSiteRounds: 40 }), [5, 40, false, false]);
  const memory = aggregationSchema.parse({ kind: "site-memory" });
  assert.deepEqual(flagsOf({ aggregation: memory }), [1, 0, true, false]);
  const buffered = aggregationSchema.parse({ kind: "buffered", contributors: 4 });
  assert.deepEqual(flagsOf({ aggregation: buffered }), [1, 0, false, true]);
  assert.deepEqual(flagsOf({ aggregation: buffered, siteRounds: 5 }, "evaluate"), [
    1,
    0,
    false,
    false,
  ]);
});
