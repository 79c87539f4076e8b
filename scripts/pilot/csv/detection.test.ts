import assert from "node:assert/strict";
import { test } from "node:test";
import { confusion, detection, pooled, smoothed, threshold } from "./detection.js";

test("F1, false and missed alarms come from hand-counted rows", () => {
  const counts = confusion([true, true, false, false, true], [1, 0, 0, 1, 1]);
  assert.deepEqual(counts, { tp: 2, fp: 1, tn: 1, fn: 1 });
  assert.deepEqual(detection(counts), { f1: 4 / 6, falseAlarmRate: 0.5, missedAlarmRate: 1 / 3 });
});

test("counts are pooled before rates are taken", () => {
  const all = pooled([
    { tp: 1, fp: 0, tn: 9, fn: 0 },
    { tp: 0, fp: 3, tn: 0, fn: 1 },
  ]);
  assert.deepEqual(all, { tp: 1, fp: 3, tn: 9, fn: 1 });
});

test("nothing to find and nothing found divides nothing by zero", () => {
  assert.deepEqual(detection({ tp: 0, fp: 0, tn: 0, fn: 0 }), {
    f1: 0,
    falseAlarmRate: 0,
    missedAlarmRate: 0,
  });
});

test("a glitch is smoothed away, a lasting error is not", () => {
  const glitch = smoothed([0, 0, 10, 0, 0]);
  const lasting = smoothed([0, 0, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]);
  assert.ok(Math.max(...glitch) <= 2 + 1e-12);
  assert.ok((lasting.at(-1) ?? 0) > 8);
});

test("the threshold stands above the calibration scores by its margin", () => {
  const scores = Float64Array.from({ length: 100 }, (_, i) => 100 - i);
  assert.equal(threshold(scores), 1.5 * 99);
});
