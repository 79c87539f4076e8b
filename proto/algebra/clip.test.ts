import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { loadKernel } from "../host/wasm.js";
import { createAccumulator } from "./accumulator.js";
import { clipUpdate } from "./clip.js";
import { decodePartial, encodePartial } from "./frame.js";
import { type Encoding, encodingFor, type Grid, stepsMax } from "./grid.js";
import type { Layout } from "./layout.js";
import { mean, meanFloat64, merge } from "./partial.js";

type Vector = {
  name: string;
  encoding: Encoding;
  layout: Layout;
  fractionBits: number[];
  range: number;
  clipNorm: number;
  update: string;
  norm: number;
  clipped: boolean;
  becomes: string;
};
const file = new URL("../../vectors/clip.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8")) as Vector[];
const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex, "hex"));

/** An update of one tensor, of whole steps. */
function updateOf(steps: readonly number[], grid: Grid): Uint8Array {
  const [f = 0] = grid.fractionBits;
  const encoding = encodingFor(grid);
  if (encoding === "i16") return new Uint8Array(Int16Array.from(steps).buffer);
  if (encoding === "i32") return new Uint8Array(Int32Array.from(steps).buffer);
  return new Uint8Array(Float32Array.from(steps, (q) => q / 2 ** f).buffer);
}

function stepsOf(update: Uint8Array, grid: Grid): number[] {
  const [f = 0] = grid.fractionBits;
  const { buffer } = update.slice();
  const encoding = encodingFor(grid);
  if (encoding === "i16") return [...new Int16Array(buffer)];
  if (encoding === "i32") return [...new Int32Array(buffer)];
  return [...new Float32Array(buffer)].map((value) => value * 2 ** f);
}

const line = (length: number): Layout => [{ name: "w", shape: [length] }];

test("the vectors hold, at any place in memory", () => {
  assert.ok(vectors.length >= 6);
  for (const { name, encoding, layout, clipNorm, update, becomes, ...vector } of vectors) {
    const { norm, clipped, ...grid } = vector;
    for (const offset of [0, 1]) {
      const bytes = new Uint8Array(update.length / 2 + offset).subarray(offset);
      bytes.set(bytesOf(update));
      assert.deepEqual(
        clipUpdate(bytes, encoding, layout, grid, clipNorm),
        { norm, clipped },
        name,
      );
      assert.equal(Buffer.from(bytes).toString("hex"), becomes, name);
    }
  }
  const [half] = vectors;
  assert.deepEqual([...new Int16Array(bytesOf(half?.becomes ?? "").buffer)], [1, -2]);
});

test("an update comes out on the grid, no longer than the bound, and near to where it pointed", () => {
  const grids = [
    { fractionBits: [0], range: 30_000 },
    { fractionBits: [20], range: 8 },
    { fractionBits: [28], range: 7 },
  ];
  fc.assert(
    fc.property(
      fc.constantFrom(...grids),
      fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 1, maxLength: 40 }),
      fc.double({ min: 1e-3, max: 2, noNaN: true }),
      (grid, shares, part) => {
        const [f = 0] = grid.fractionBits;
        const most = stepsMax(grid, f);
        const steps = shares.map((share) => Math.trunc(share * most) + 0);
        const exact = (list: readonly number[]) =>
          list.reduce((sum, q) => sum + BigInt(q) * BigInt(q), 0n);
        const clipNorm = part * grid.range;
        const update = updateOf(steps, grid);
        const { clipped } = clipUpdate(
          update,
          encodingFor(grid),
          line(steps.length),
          grid,
          clipNorm,
        );
        const after = stepsOf(update, grid);
        if (!clipped) assert.deepEqual(after, steps);
        const bound = clipNorm * 2 ** f;
        // The exact norm in steps, squared: within a hair of a double's rounding.
        assert.ok(Number(exact(after)) <= bound * bound * (1 + 1e-12));
        const factor = clipped ? bound / Math.sqrt(Number(exact(steps))) : 1;
        for (const [i, q] of after.entries()) {
          assert.ok(Number.isInteger(q) && !Object.is(q, -0));
          const wanted = (steps[i] as number) * factor;
          assert.ok(Math.abs(q) <= Math.abs(steps[i] as number));
          assert.ok(Math.abs(q - wanted) <= 1 + Math.abs(wanted) * 1e-12, `${q} for ${wanted}`);
        }
      },
    ),
  );
});

test("one poisoned device moves the mean by no more than its share of the bound", () => {
  const grid = { fractionBits: [20], range: 8 };
  const layout = line(64);
  const clipNorm = 0.5;
  const kernel = loadKernel();
  const length = (values: ArrayLike<number>) =>
    Math.sqrt(Array.from(values).reduce((sum, value) => sum + value * value, 0));
  const meanOf = (updates: readonly { steps: number[]; samples: number }[]) => {
    const subject = { round: "s.1", site: "hall", base: "s.0", baseDigest: "0".repeat(64) };
    const accumulator = createAccumulator(kernel, layout, grid, 2n ** 32n, subject);
    for (const [i, { steps, samples }] of updates.entries()) {
      const update = updateOf(steps, grid);
      const { clipped } = clipUpdate(update, "f32", layout, grid, clipNorm);
      const contributor = { device: `d${i}`, samples, clipped };
      assert.ok(accumulator.add(update, "f32", contributor, {}, 0).ok);
    }
    const partial = accumulator.snapshot();
    accumulator.release();
    return partial;
  };
  const steps = fc.array(fc.integer({ min: -(2 ** 23), max: 2 ** 23 }), {
    minLength: 64,
    maxLength: 64,
  });
  const honest = fc.record({
    steps: fc.array(fc.integer({ min: -50_000, max: 50_000 }), { minLength: 64, maxLength: 64 }),
    samples: fc.integer({ min: 1, max: 500 }),
  });
  fc.assert(
    fc.property(
      fc.array(honest, { minLength: 1, maxLength: 6 }),
      steps,
      fc.integer({ min: 1, max: 500 }),
      (others, poison, samples) => {
        const silent = meanOf([...others, { steps: new Array(64).fill(0), samples }]);
        const poisoned = meanOf([...others, { steps: poison, samples }]);
        const before = meanFloat64(silent);
        const moved = meanFloat64(poisoned).map((value, i) => value - (before[i] as number));
        const share = samples / Number(poisoned.weight);
        assert.ok(length(moved) <= share * clipNorm * (1 + 1e-9), `${length(moved)}`);
      },
    ),
  );
});

test("how many updates were clipped travels with the sum, and older bytes say none", () => {
  const grid = { fractionBits: [10], range: 4 };
  const kernel = loadKernel();
  const partialOf = (device: string, clipped: boolean) => {
    const subject = { round: "s.1", site: "hall", base: "s.0", baseDigest: "0".repeat(64) };
    const accumulator = createAccumulator(kernel, line(2), grid, 100n, subject);
    const update = updateOf([1, 2], grid);
    assert.ok(accumulator.add(update, "i16", { device, samples: 1, clipped }, {}, 0).ok);
    const partial = accumulator.snapshot();
    assert.ok(accumulator.restore(partial).ok);
    assert.deepEqual(accumulator.snapshot(), partial);
    accumulator.release();
    return partial;
  };
  const [none, one, other] = [partialOf("a", false), partialOf("b", true), partialOf("c", true)];
  assert.ok(!("clipped" in none));
  const both = merge(one, other, 100n);
  assert.ok(both.ok);
  assert.equal(both.partial.clipped, 2);
  const all = merge(both.partial, none, 100n);
  assert.ok(all.ok);
  for (const partial of [none, one, all.partial]) {
    const decoded = decodePartial(Buffer.concat(encodePartial(partial)));
    assert.ok(decoded.ok);
    assert.deepEqual(decoded.partial.clipped, partial.clipped);
    assert.deepEqual(mean(decoded.partial), mean(partial));
  }
});
