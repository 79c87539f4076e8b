import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { createKernel, SLAB_BYTES } from "./kernel.js";

const wasm = () => new Uint8Array(readFileSync(new URL("./fold.wasm", import.meta.url)));

test("a basin keeps to its slab and its sums", () => {
  const basin = createKernel(wasm()).lease(10);
  assert.throws(() => basin.load(new Uint8Array(SLAB_BYTES + 1)), RangeError);
  assert.throws(() => basin.fold("f32", 0, 0, 11, 1), RangeError);
  assert.throws(() => basin.fold("f32", 0, 8, 3, 1), RangeError);
  assert.throws(() => basin.fold("f32", 0, -1, 1, 1), RangeError);
  assert.throws(() => basin.fold("f32", SLAB_BYTES - 4, 0, 2, 1), RangeError);
  assert.throws(() => basin.check("i16", -2, 1, 1, 1), RangeError);
  assert.throws(() => basin.merge(5, 6), RangeError);
  basin.settle(0);
  assert.ok(basin.read().every((sum) => sum === 0n));
});

test("every tail of every fold, check and merge ends where it should", () => {
  const count = 40;
  const basin = createKernel(wasm()).lease(count);
  const values = {
    f32: Float32Array.from({ length: count }, (_, i) => i - 20),
    i32: Int32Array.from({ length: count }, (_, i) => i - 20),
    i16: Int16Array.from({ length: count }, (_, i) => i - 20),
  };
  for (const encoding of ["f32", "i32", "i16"] as const) {
    for (let length = 0; length < count; length++) {
      basin.clear();
      basin.load(new Uint8Array(values[encoding].buffer));
      basin.fold(encoding, 0, 0, length, 3);
      basin.fold(encoding, 0, length, count - length, 0);
      basin.settle(1);
      const expected = Array.from({ length: count }, (_, i) =>
        i < length ? 3n * BigInt(i - 20) : 0n,
      );
      assert.deepEqual([...basin.read()], expected, `${encoding}, ${length} values`);
      const sums = BigInt64Array.from({ length: count }, () => -(2n ** 40n));
      basin.load(new Uint8Array(sums.buffer));
      basin.merge(0, length);
      const merged = expected.map((sum, i) => (i < length ? sum - 2n ** 40n : sum));
      assert.deepEqual([...basin.read()], merged);
      // Magnitudes fall from 20 at the start; only the first value is past 19.
      basin.load(new Uint8Array(values[encoding].buffer));
      assert.equal(basin.check(encoding, 0, length, 19, 1), length === 0);
      assert.equal(basin.check(encoding, 0, length, 20, 1), true);
    }
  }
});

test("the pool lets memory go beyond its bound", () => {
  const kernel = createKernel(wasm(), 1024 * 1024);
  const basins = Array.from({ length: 4 }, () => kernel.lease(40_000));
  for (const basin of basins) basin.release();
  assert.ok(kernel.pooledBytes() > 0);
  assert.ok(kernel.pooledBytes() <= 1024 * 1024);
});

test("a lease takes the smallest pooled memory that has room", () => {
  const kernel = createKernel(wasm());
  const [small, large] = [kernel.lease(10), kernel.lease(100_000)];
  large.release();
  small.release();
  const before = kernel.pooledBytes();
  const wide = kernel.lease(50_000);
  wide.fold("i16", 0, 49_990, 10, 1);
  assert.ok(before - kernel.pooledBytes() > 800_000);
  const narrow = kernel.lease(5);
  assert.equal(kernel.pooledBytes(), 0);
  narrow.release();
  wide.release();
});
