import assert from "node:assert/strict";
import { test } from "node:test";
import { sampleModel, samplePlan } from "./testing/sample.js";
import type { TrainResult } from "./trainer.js";
import { makeEvaluateUpdate, makeTrainUpdate, updateDigest } from "./update.js";

const base = sampleModel("s.0");
const stored = { ...base, digest: base.manifest.digest };
const plan = samplePlan("s.1", base);
const origin = { device: "press-7", gateway: "gw-1", plan };

function result(changes: Partial<TrainResult> = {}): TrainResult {
  const w = base.values.slice(0, 6).map((value) => value + 0.25);
  const weights = new Map([
    ["b", Float32Array.of(0.25, 0.5 + 2 ** -17)],
    ["w", w],
  ]);
  return { weights, samples: 5, metrics: { loss: 0.1 }, ...changes };
}

function refusal(changes: object): string {
  const made = makeTrainUpdate(origin, stored, result(changes));
  assert.ok(!made.ok && made.code === "train-failed");
  return made.message;
}

test("deltas go onto the grid in layout order, whatever the order of the trainer's map", () => {
  const made = makeTrainUpdate(origin, stored, result());
  assert.ok(made.ok);
  const { begin, payload, fractionBits, lengths } = made.update;
  // 2^-17 lies half way between two points of the grid, and goes to the even one.
  const expected = [...new Array(6).fill(0.25), -0.25, 0];
  assert.deepEqual([...new Float32Array(payload.slice().buffer)], expected);
  const { digest, ...head } = begin;
  assert.equal(digest, updateDigest("press-7", head, payload));
  assert.deepEqual(begin.metrics, { loss: 104_858 });
  assert.deepEqual(fractionBits, [16, 16]);
  assert.deepEqual(lengths, [6, 2]);
});

test("what a trainer gets wrong is refused, and says what", () => {
  const b = new Float32Array(2);
  const weights = (w: unknown) => ({ weights: new Map([...Object.entries({ w, b })]) });
  assert.match(refusal({ weights: { w: b } }), /not a Map/);
  assert.match(
    refusal({ weights: new Map([["b", b]]) }),
    /no Float32Array of weights for tensor w/,
  );
  assert.match(refusal(weights(new Float64Array(6))), /no Float32Array/);
  assert.match(refusal(weights(new Float32Array(5))), /5 weights for tensor w; it has 6/);
  const more = new Map([...result().weights, ["x", b]]);
  assert.match(refusal({ weights: more }), /does not have/);
  assert.match(refusal(weights(new Float32Array(6).fill(Number.NaN))), /not-finite at tensor w/);
  for (const samples of [0, -1, 1.5, Number.NaN, 1001, "5", undefined])
    assert.match(refusal({ samples }), /samples; a whole number from 1 to 1000/);
  assert.match(refusal({ metrics: { loss: Number.POSITIVE_INFINITY } }), /metric loss/);
  assert.match(refusal({ metrics: { loss: 2 ** 21 } }), /metric loss/);
  assert.match(refusal({ metrics: { "Bad name": 1 } }), /metrics Bad name/);
  const many = Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`m${i}`, 1]));
  assert.match(refusal({ metrics: many }), /at most 16/);
});

test("a value past the range is clamped and counted, or refused, as the plan says", () => {
  const far = result({ weights: new Map([...result().weights, ["b", Float32Array.of(9, -9)]]) });
  const made = makeTrainUpdate(origin, stored, far);
  assert.ok(made.ok && made.update.begin.saturated === 2);
  const strict = { ...origin, plan: { ...plan, saturate: false } };
  const refused = makeTrainUpdate(strict, stored, far);
  assert.ok(!refused.ok && /out-of-range at tensor b/.test(refused.message));
});

test("an evaluation has no bytes and the plan's encoding", () => {
  const made = makeEvaluateUpdate(origin, { samples: 2, metrics: { accuracy: 1 } });
  assert.ok(made.ok);
  assert.equal(made.update.payload.length, 0);
  assert.equal(made.update.begin.bytes, 0);
  assert.equal(makeEvaluateUpdate(origin, { samples: 0, metrics: {} }).ok, false);
});
