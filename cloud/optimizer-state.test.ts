import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type OptimizerState, startOptimizer, stepOptimizer } from "./optimizer.js";
import { decodeOptimizerState, encodeOptimizerState } from "./optimizer-state.js";
import { optimizerSchema } from "./params.js";

const kinds = ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] as const;

function encoded(state: OptimizerState): Uint8Array {
  return new Uint8Array(Buffer.concat(encodeOptimizerState(state)));
}

function stepped(kind: (typeof kinds)[number]): OptimizerState {
  const params = optimizerSchema.parse({ kind });
  const state = startOptimizer(params, Float64Array.of(0.1, -2, 1e-300));
  return stepOptimizer(params, state, Float64Array.of(0.3, 0.7, -5));
}

for (const kind of kinds)
  test(`a ${kind} state survives its file to the bit`, () => {
    const state = stepped(kind);
    const read = decodeOptimizerState(encoded(state));
    assert.ok(read.ok);
    assert.deepEqual(read.state, state);
  });

test("a state of no parameters survives too", () => {
  const state: OptimizerState = { kind: "fedavg", step: 0, weights: new Float64Array(0) };
  const read = decodeOptimizerState(encoded(state));
  assert.deepEqual(read, { ok: true, state });
});

test("any changed byte and any cut is refused", () => {
  const bytes = encoded(stepped("fedadam"));
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const changed = bytes.slice();
      changed[at] = (changed[at] ?? 0) ^ flip;
      assert.equal(decodeOptimizerState(changed).ok, false);
      assert.equal(decodeOptimizerState(bytes.subarray(0, at)).ok, false);
    }),
    { numRuns: 200 },
  );
});

test("bytes from anywhere are refused without an exception", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      assert.equal(decodeOptimizerState(bytes).ok, false);
    }),
  );
});

test("a newer version is refused with its number", () => {
  const bytes = encoded(stepped("fedavg"));
  bytes[4] = 2;
  const read = decodeOptimizerState(bytes);
  assert.ok(!read.ok && read.message.includes("version 2"));
});
