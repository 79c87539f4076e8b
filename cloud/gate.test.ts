import assert from "node:assert/strict";
import { test } from "node:test";
import { judge } from "./gate.js";

const accuracy = { metric: "accuracy", direction: "higher", tolerance: 0.125 } as const;
const loss = { metric: "loss", direction: "lower", tolerance: 0.5 } as const;

test("without an evaluated ancestor a candidate passes", () => {
  assert.deepEqual(judge(accuracy, { accuracy: 0.1 }, undefined), { pass: true });
});

test("a candidate may be worse by the tolerance and no more, either way the metric improves", () => {
  assert.equal(judge(accuracy, { accuracy: 0.75 }, 0.875).pass, true);
  assert.deepEqual(judge(accuracy, { accuracy: 0.7499 }, 0.875), { pass: false, reason: "worse" });
  assert.equal(judge(loss, { loss: 1.5 }, 1).pass, true);
  assert.deepEqual(judge(loss, { loss: 1.51 }, 1), { pass: false, reason: "worse" });
  assert.equal(judge(accuracy, { accuracy: 1 }, 0.5).pass, true);
  assert.equal(judge(loss, { loss: 0 }, 5).pass, true);
});

test("a candidate whose metric nobody reported is held", () => {
  const missing = { pass: false, reason: "metric-missing" };
  assert.deepEqual(judge(accuracy, {}, undefined), missing);
  assert.deepEqual(judge(accuracy, { accuracy: Number.NaN }, undefined), missing);
});
