import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { checkHeadroom, encodingFor, type Grid, quantise } from "./grid.js";
import type { Layout } from "./layout.js";

const line = (length: number): Layout => [{ name: "w", shape: [length] }];
const grid = (fractionBits: number, range: number): Grid => ({
  fractionBits: [fractionBits],
  range,
});

function quantised(delta: readonly number[], g: Grid, saturate = false) {
  const result = quantise(Float32Array.from(delta), line(delta.length), g, { saturate });
  assert.ok(result.ok, result.ok ? "" : result.message);
  const view = new DataView(result.values.buffer);
  const encoding = encodingFor(g);
  const q = delta.map((_, i) => {
    if (encoding === "i16") return view.getInt16(i * 2, true);
    if (encoding === "i32") return view.getInt32(i * 4, true);
    return view.getFloat32(i * 4, true) * 2 ** (g.fractionBits[0] as number);
  });
  return { q, saturated: result.saturated, bytes: result.values };
}

/** round(x 2^f), ties to even, in whole numbers only. */
function oracleSteps(x: number, f: number): bigint {
  const scaled = BigInt(Math.fround(x) * 2 ** 149) << BigInt(f); // every float32 is whole in 2^-149
  const one = 1n << 149n;
  const floor = scaled >= 0n ? scaled / one : -((-scaled + one - 1n) / one);
  const twice = (scaled - floor * one) * 2n;
  if (twice < one) return floor;
  if (twice > one) return floor + 1n;
  return floor % 2n === 0n ? floor : floor + 1n;
}

test("ties go to the even step in every encoding", () => {
  const delta = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, -0.51];
  const expected = [0, 2, 2, 0, -2, -2, 0, -1];
  for (const range of [100, 2 ** 20, 2 ** 30]) {
    assert.deepEqual(quantised(delta, grid(0, range)).q, expected);
  }
});

test("quantising agrees with whole-number rounding", () => {
  const value = fc.float({ min: -8, max: 8, noNaN: true });
  fc.assert(
    fc.property(fc.array(value, { minLength: 1, maxLength: 20 }), fc.nat(27), (delta, f) => {
      const { q, saturated } = quantised(delta, grid(f, 8));
      assert.equal(saturated, 0);
      assert.deepEqual(
        q.map(BigInt),
        delta.map((x) => oracleSteps(x, f)),
      );
    }),
  );
});

test("a negative zero travels as zero", () => {
  const { bytes } = quantised([-0, -1e-9], grid(20, 8));
  assert.deepEqual([...bytes], [0, 0, 0, 0, 0, 0, 0, 0]);
});

test("the encoding is the smallest that holds R 2^f", () => {
  assert.equal(encodingFor(grid(0, 32767)), "i16");
  assert.equal(encodingFor(grid(0, 32767.5)), "f32");
  assert.equal(encodingFor(grid(0, 2 ** 24)), "f32");
  assert.equal(encodingFor(grid(0, 2 ** 24 + 1)), "i32");
  assert.equal(encodingFor(grid(0, 2 ** 31 - 1)), "i32");
  assert.throws(() => encodingFor(grid(0, 2 ** 31)), RangeError);
  assert.equal(encodingFor({ fractionBits: [2, 20], range: 1 }), "f32");
});

test("a value past the range is refused, or clamped and counted", () => {
  const g = grid(4, 1.03); // the last grid point in range is 1
  const delta = [1.03125, -2, 1, 0.5];
  const refused = quantise(Float32Array.from(delta), line(4), g, { saturate: false });
  assert.ok(!refused.ok);
  assert.equal(refused.code, "out-of-range");
  assert.match(refused.message, /tensor w, index 0/);
  const { q, saturated } = quantised(delta, g, true);
  assert.deepEqual(q, [16, -16, 16, 8]);
  assert.equal(saturated, 2);
});

test("NaN and infinities are refused even where clamping is allowed", () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const refused = quantise(Float32Array.from([0, bad]), line(2), grid(4, 1), { saturate: true });
    assert.ok(!refused.ok);
    assert.equal(refused.code, "not-finite");
    assert.match(refused.message, /index 1/);
  }
});

test("a refusal names the tensor and the index within it", () => {
  const layout = [
    { name: "a", shape: [2] },
    { name: "none", shape: [0] },
    { name: "b", shape: [2] },
  ];
  const g = { fractionBits: [4, 4, 4], range: 1 };
  const refused = quantise(Float32Array.from([0, 0, 0, 9]), layout, g, { saturate: false });
  assert.ok(!refused.ok);
  assert.match(refused.message, /tensor b, index 1/);
});

test("a delta of another length than its layout is an error", () => {
  assert.throws(
    () => quantise(new Float32Array(3), line(2), grid(4, 1), { saturate: true }),
    RangeError,
  );
});

test("headroom is decided exactly at both bounds", () => {
  const g = grid(24, 0.5); // R 2^f = 2^23
  const ok = (nMax: bigint | number, totalMax: bigint) => checkHeadroom(g, nMax, totalMax).ok;
  assert.equal(ok(2 ** 28 - 1, 2n ** 40n - 1n), true);
  assert.equal(ok(2 ** 28, 2n ** 40n - 1n), false);
  assert.equal(ok(2 ** 28 - 1, 2n ** 40n), false);
  // One unit in the last place of R past the bound, where double arithmetic would not tell.
  const above = grid(24, 0.5 + 2 ** -53);
  assert.equal(checkHeadroom(above, 2 ** 28 - 1, 2n ** 40n - 1n).ok, true);
  assert.equal(checkHeadroom(grid(0, 1 / 3), 1, 3n * 2n ** 63n).ok, true);
  assert.equal(checkHeadroom(grid(0, 1 / 3), 1, 3n * 2n ** 63n + 2n ** 12n).ok, false);
});

test("headroom is asked of every tensor and of the grid itself", () => {
  const refusedCodes = [
    checkHeadroom({ fractionBits: [0, 30], range: 1 }, 2 ** 21, 2n ** 21n),
    checkHeadroom(grid(41, 1e-9), 1, 1n),
    checkHeadroom(grid(-1, 1), 1, 1n),
    checkHeadroom(grid(1.5, 1), 1, 1n),
    checkHeadroom(grid(0, Number.POSITIVE_INFINITY), 1, 1n),
    checkHeadroom(grid(0, 0), 1, 1n),
    checkHeadroom(grid(0, 1), 1.5, 1n),
    checkHeadroom(grid(31, 1), 1, 1n),
  ].map((verdict) => (verdict.ok ? "accepted" : verdict.code));
  assert.deepEqual(refusedCodes, Array(8).fill("plan-headroom"));
});

test("a value in range whose nearest grid point is not is clamped and counted", () => {
  const { q, saturated } = quantised([1.035, -1.035, 1.03], grid(4, 1.04), true);
  assert.deepEqual(q, [16, -16, 16]);
  assert.equal(saturated, 2);
});
