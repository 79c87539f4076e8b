import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import fc from "fast-check";
import { loadKernel } from "../host/wasm.js";
import { SLAB_BYTES } from "../kernel/kernel.js";
import { type Accumulator, createAccumulator } from "./accumulator.js";
import { type Encoding, encodingFor, type Grid, quantise } from "./grid.js";
import { type Layout, parameterCount } from "./layout.js";
import { mean, merge, type Partial } from "./partial.js";

const kernel = loadKernel();
const subject = { round: "s.1", site: "hall", base: "s.0", baseDigest: "0".repeat(64) };
const plenty = 2n ** 32n;
const open: Accumulator[] = [];
after(() => {
  for (const accumulator of open) accumulator.release();
});

function accumulatorFor(layout: Layout, grid: Grid, totalMax = plenty): Accumulator {
  const accumulator = createAccumulator(kernel, layout, grid, totalMax, subject);
  open.push(accumulator);
  return accumulator;
}

function bytesOf(q: readonly number[], layout: Layout, grid: Grid, encoding: Encoding): Uint8Array {
  const bytes = new Uint8Array(q.length * (encoding === "i16" ? 2 : 4));
  const view = new DataView(bytes.buffer);
  let i = 0;
  for (const [t, spec] of layout.entries()) {
    for (let k = 0; k < parameterCount([spec]); k++, i++) {
      const steps = q[i] as number;
      if (encoding === "i16") view.setInt16(i * 2, steps, true);
      else if (encoding === "i32") view.setInt32(i * 4, steps, true);
      else view.setFloat32(i * 4, steps / 2 ** (grid.fractionBits[t] as number), true);
    }
  }
  return bytes;
}

/** Cuts bytes into pieces of whole values. */
function cut(bytes: Uint8Array, pieceBytes: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    pieces.push(bytes.subarray(at, at + pieceBytes));
  }
  return pieces;
}

const layout: Layout = [
  { name: "a", shape: [3, 7] },
  { name: "none", shape: [0] },
  { name: "b", shape: [] },
  { name: "c", shape: [45] },
];
const size = parameterCount(layout);
const grids: Record<Encoding, Grid> = {
  i16: { fractionBits: [14, 3, 0, 10], range: 1.75 },
  f32: { fractionBits: [24, 3, 0, 10], range: 1 },
  i32: { fractionBits: [30, 3, 0, 10], range: 1.5 },
};

type Sent = { readonly samples: number; readonly q: number[]; readonly pieceBytes: number };

function sentFor(grid: Grid): fc.Arbitrary<Sent> {
  const bits = layout.flatMap((spec, t) =>
    Array(parameterCount([spec])).fill(grid.fractionBits[t]),
  );
  const q = fc.tuple(
    ...bits.map((f: number) => {
      const most = Math.floor(grid.range * 2 ** f);
      return fc.oneof(fc.integer({ min: -most, max: most }), fc.constantFrom(-most, most, 0));
    }),
  ) as unknown as fc.Arbitrary<number[]>;
  const samples = fc.oneof(fc.integer({ min: 1, max: 2 ** 20 - 1 }), fc.constant(2 ** 20 - 1));
  return fc.record({ samples, q, pieceBytes: fc.constantFrom(4, 12, 64, 100, 4096) });
}

for (const encoding of ["i16", "f32", "i32"] as const) {
  test(`any tree of folds and merges of ${encoding} updates gives the bits of whole-number sums`, () => {
    const grid = grids[encoding];
    assert.equal(encodingFor(grid), encoding);
    const updates = fc.array(sentFor(grid), { minLength: 1, maxLength: 8 });
    // Each number picks two Partials of those left, until one is left: a random tree.
    const tree = fc.infiniteStream(fc.nat(1000));
    const groups = fc.infiniteStream(fc.nat(2));
    fc.assert(
      fc.property(updates, groups, tree, (sent, groupOf, picks) => {
        const leaves: Accumulator[] = [];
        for (const [k, { samples, q, pieceBytes }] of sent.entries()) {
          const group = groupOf.next().value as number;
          leaves[group] ??= accumulatorFor(layout, grid);
          const bytes = bytesOf(q, layout, grid, encoding);
          for (const [i, piece] of cut(bytes, pieceBytes).entries()) {
            const verdict = leaves[group].check(piece, encoding, i * pieceBytes);
            assert.ok(verdict.ok, verdict.ok ? "" : verdict.message);
          }
          const device = `d${(k * 7) % 8}`;
          const added = leaves[group].add(
            cut(bytes, pieceBytes),
            encoding,
            { device, samples },
            { loss: k * 1000 - 3 },
            k,
          );
          assert.ok(added.ok, added.ok ? "" : added.message);
        }
        let partials = leaves.filter((leaf) => leaf !== undefined).map((leaf) => leaf.snapshot());
        for (const leaf of leaves) leaf?.release();
        while (partials.length > 1) {
          const i = (picks.next().value as number) % partials.length;
          const [a] = partials.splice(i, 1) as [Partial];
          const j = (picks.next().value as number) % partials.length;
          const [b] = partials.splice(j, 1) as [Partial];
          const result = merge(a, b, plenty);
          assert.ok(result.ok);
          partials = [...partials, result.partial];
        }
        const root = partials[0] as Partial;
        for (let i = 0; i < size; i++) {
          const exact = sent.reduce((s, u) => s + BigInt(u.samples) * BigInt(u.q[i] as number), 0n);
          assert.equal(root.sum[i], exact);
        }
        const weight = sent.reduce((n, u) => n + BigInt(u.samples), 0n);
        assert.equal(root.weight, weight);
        assert.equal(root.metrics.loss?.weight, weight);
        assert.equal(
          root.metrics.loss?.sum,
          sent.reduce((s, u, k) => s + BigInt(u.samples) * BigInt(k * 1000 - 3), 0n),
        );
        assert.equal(root.saturated, (sent.length * (sent.length - 1)) / 2);
        const devices = sent.map((_, k) => `d${(k * 7) % 8}`).sort();
        assert.deepEqual(
          root.contributors.map((c) => c.device),
          devices,
        );
      }),
      { numRuns: 40 },
    );
  });
}

type VectorCase = {
  readonly name: string;
  readonly fractionBits: number;
  readonly contributions: readonly { readonly samples: number; readonly delta: string[] }[];
  readonly sum: string[];
  readonly weight: string;
  readonly meanFloat32Bits: string[];
};

function parseHexFloat(text: string): number {
  const match = /^(-?)0x1\.([0-9a-f]+)p(-?\d+)$/.exec(text);
  assert.ok(match, text);
  const [, sign, digits, exponent] = match as unknown as [string, string, string, string];
  const value = (1 + Number.parseInt(digits, 16) / 16 ** digits.length) * 2 ** Number(exponent);
  return sign === "-" ? -value : value;
}

test("the test vectors hold", () => {
  const file = new URL("../../vectors/exact-sum.json", import.meta.url);
  const { cases } = JSON.parse(readFileSync(file, "utf8")) as { cases: VectorCase[] };
  assert.ok(cases.length > 0);
  for (const { fractionBits, contributions, ...expected } of cases) {
    const shape: Layout = [{ name: "w", shape: [expected.sum.length] }];
    const grid: Grid = { fractionBits: [fractionBits], range: 1 };
    const accumulator = accumulatorFor(shape, grid);
    for (const [k, { samples, delta }] of contributions.entries()) {
      const floats = Float32Array.from(delta.map(parseHexFloat));
      const quantised = quantise(floats, shape, grid, { saturate: false });
      assert.ok(quantised.ok);
      accumulator.add(quantised.values, encodingFor(grid), { device: `d${k}`, samples }, {}, 0);
    }
    const partial = accumulator.snapshot();
    assert.deepEqual([...partial.sum].map(String), expected.sum);
    assert.equal(String(partial.weight), expected.weight);
    const bits = new DataView(new ArrayBuffer(4));
    const patterns = [...mean(partial)].map((x) => {
      bits.setFloat32(0, x);
      return bits.getUint32(0).toString(16).padStart(8, "0");
    });
    assert.deepEqual(patterns, expected.meanFloat32Bits);
  }
});

test("an update larger than a slab folds whole, tensors across slab ends included", () => {
  const half = SLAB_BYTES / 4 - 5;
  const wide: Layout = [
    { name: "a", shape: [half] },
    { name: "b", shape: [SLAB_BYTES / 2 + 3] },
  ];
  const grid: Grid = { fractionBits: [20, 10], range: 1 };
  const q = Array.from({ length: parameterCount(wide) }, (_, i) => (i % 2001) - 1000);
  const bytes = bytesOf(q, wide, grid, "f32");
  const accumulator = accumulatorFor(wide, grid);
  assert.ok(accumulator.check(bytes, "f32", 0).ok);
  for (let k = 0; k < 3; k++) {
    assert.ok(accumulator.add(bytes, "f32", { device: `d${k}`, samples: 3 }, {}, 0).ok);
  }
  const { sum } = accumulator.snapshot();
  assert.ok(q.every((steps, i) => sum[i] === 9n * BigInt(steps)));
});

test("the fold is exact at the edge of its bound and any number of folds", () => {
  const shape: Layout = [{ name: "w", shape: [19] }];
  const grid: Grid = { fractionBits: [30], range: 2 - 2 ** -30 };
  const most = 2 ** 31 - 1;
  const accumulator = accumulatorFor(shape, grid, 2n ** 31n);
  const up = bytesOf(Array(19).fill(most), shape, grid, "i32");
  const down = bytesOf(Array(19).fill(-most), shape, grid, "i32");
  const samples = 2 ** 20;
  let expected = 0n;
  for (let k = 0; k < 300; k++) {
    const bytes = k % 3 === 2 ? down : up;
    assert.ok(accumulator.add(bytes, "i32", { device: `d${k}`, samples }, {}, 0).ok);
    expected += BigInt(samples) * BigInt(k % 3 === 2 ? -most : most);
    if (k % 100 === 50) assert.equal(accumulator.snapshot().sum[18], expected);
  }
  assert.ok(accumulator.snapshot().sum.every((s) => s === expected));
});

test("check finds what is not finite, out of range or off the grid, wherever it is", () => {
  const shape: Layout = [
    { name: "a", shape: [40] },
    { name: "b", shape: [37] },
  ];
  const grid: Grid = { fractionBits: [20, 4], range: 1.25 };
  const accumulator = accumulatorFor(shape, grid);
  const faults: [number, string][] = [
    [Number.NaN, "not-finite"],
    [-Number.NaN, "not-finite"],
    [Number.NEGATIVE_INFINITY, "not-finite"],
    [1.3125, "out-of-range"],
    [-3e38, "out-of-range"],
    [2 ** -21, "off-grid"],
    [1e-45, "off-grid"],
  ];
  for (const index of [0, 1, 17, 39, 40, 55, 63, 76]) {
    for (const [value, code] of faults) {
      const values = new Float32Array(77).fill(-1.25);
      values[index] = value;
      const start = Math.floor(index / 2);
      const piece = new Uint8Array(values.buffer, start * 4);
      const verdict = accumulator.check(piece, "f32", start * 4);
      assert.ok(!verdict.ok, `${value} at ${index}`);
      assert.equal(verdict.code, code);
      assert.equal(verdict.index, index);
    }
  }
  const coarse = new Float32Array(77);
  coarse[39] = 2 ** -20;
  assert.ok(accumulator.check(new Uint8Array(coarse.buffer), "f32", 0).ok);
  coarse[40] = 2 ** -20; // on the first tensor's grid, off the second's
  const verdict = accumulator.check(new Uint8Array(coarse.buffer), "f32", 0);
  assert.equal(verdict.ok ? undefined : verdict.index, 40);
});

for (const [encoding, fractionBits, bad] of [
  ["i16", 14, [16385, -16385, -32768]],
  ["i32", 30, [2 ** 30 + 1, -(2 ** 30) - 1, -(2 ** 31)]],
] as const) {
  test(`check finds ${encoding} steps out of range`, () => {
    const shape: Layout = [{ name: "a", shape: [37] }];
    const grid: Grid = { fractionBits: [fractionBits], range: 1 };
    const accumulator = accumulatorFor(shape, grid);
    const q = Array(37).fill(2 ** fractionBits);
    assert.ok(accumulator.check(bytesOf(q, shape, grid, encoding), encoding, 0).ok);
    for (const steps of bad) {
      for (const index of [0, 31, 36]) {
        const bytes = bytesOf(q.with(index, steps), shape, grid, encoding);
        const verdict = accumulator.check(bytes, encoding, 0);
        assert.ok(!verdict.ok);
        assert.deepEqual([verdict.code, verdict.index], ["out-of-range", index]);
      }
    }
  });
}

test("what is refused changes nothing", () => {
  const grid = grids.f32;
  const accumulator = accumulatorFor(layout, grid, 10n);
  const bytes = bytesOf(Array(size).fill(1), layout, grid, "f32");
  const add = (values: Uint8Array | Uint8Array[], device: string, samples: number) => {
    const verdict = accumulator.add(values, "f32", { device, samples }, { loss: 1 }, 1);
    return verdict.ok ? "added" : verdict.code;
  };
  assert.equal(add(bytes, "a", 6), "added");
  const before = accumulator.snapshot();
  assert.equal(add(bytes, "a", 1), "overlap");
  assert.equal(add(bytes, "b", 5), "total-overflow");
  assert.equal(add(bytes, "b", 0), "bad-sample-count");
  assert.equal(add(bytes, "b", 1.5), "bad-sample-count");
  assert.equal(add(bytes, "b", 2 ** 40), "bad-sample-count");
  assert.equal(add(bytes.subarray(4), "b", 1), "wrong-shape");
  assert.equal(add([bytes.subarray(0, 6), bytes.subarray(6)], "b", 1), "wrong-shape");
  const foreign = accumulator.merge({ ...before, base: "s.2" });
  assert.equal(foreign.ok ? "merged" : foreign.code, "base-mismatch");
  const twice = accumulator.merge(before);
  assert.deepEqual(twice.ok ? [] : twice.overlap, ["s.1/a"]);
  const stranger = { round: "s.2", device: "a", samples: 6, updates: 1 };
  const heavy = accumulator.merge({ ...before, contributors: [stranger] });
  assert.equal(heavy.ok ? "merged" : heavy.code, "total-overflow");
  const late = accumulator.restore({ ...before, weight: 11n });
  assert.equal(late.ok ? "restored" : late.code, "total-overflow");
  assert.deepEqual(accumulator.snapshot(), before);
  assert.equal(add(bytes, "b", 4), "added");
});

test("a restored accumulator goes on to the same bits", () => {
  const grid = grids.f32;
  const bytes = (q: number) => bytesOf(Array(size).fill(q), layout, grid, "f32");
  const a = accumulatorFor(layout, grid);
  a.add(bytes(3), "f32", { device: "a", samples: 2 }, { loss: 5 }, 0);
  const checkpoint = a.snapshot();
  a.add(bytes(-7), "f32", { device: "b", samples: 5 }, { loss: 6 }, 1);
  const b = accumulatorFor(layout, grid);
  b.add(bytes(1), "f32", { device: "stray", samples: 1 }, {}, 9);
  assert.ok(b.restore(checkpoint).ok);
  b.add(bytes(-7), "f32", { device: "b", samples: 5 }, { loss: 6 }, 1);
  assert.deepEqual(b.snapshot(), a.snapshot());
});

test("merging into an accumulator equals merging Partials", () => {
  const grid = grids.i32;
  const one = (device: string, q: number) => {
    const accumulator = accumulatorFor(layout, grid);
    const bytes = bytesOf(Array(size).fill(q), layout, grid, "i32");
    accumulator.add(bytes, "i32", { device, samples: 9 }, { loss: q }, 1);
    return accumulator;
  };
  const a = one("a", 1);
  const b = one("b", -1).snapshot();
  const flat = merge(a.snapshot(), b, plenty);
  assert.ok(flat.ok);
  assert.ok(a.merge(b).ok);
  assert.deepEqual(a.snapshot(), flat.partial);
});

test("an accumulator takes further rounds on its base, and tells whether its sites are one", () => {
  const grid = grids.f32;
  const accumulator = accumulatorFor(layout, grid);
  const bytes = bytesOf(Array(size).fill(1), layout, grid, "f32");
  assert.ok(accumulator.add(bytes, "f32", { device: "a", samples: 1 }, {}, 0).ok);
  const one = accumulator.snapshot();
  assert.deepEqual(one.contributors, [{ round: "s.1", device: "a", samples: 1, updates: 1 }]);
  const composed = { round: "s.2", device: "a", samples: 1, updates: 7 };
  assert.ok(accumulator.merge({ ...one, contributors: [composed] }).ok);
  assert.equal(accumulator.snapshot().site, "hall");
  const elsewhere = { round: "s.2", device: "b", samples: 1, updates: 1 };
  assert.ok(accumulator.merge({ ...one, site: "yard", contributors: [elsewhere] }).ok);
  const all = accumulator.snapshot();
  assert.equal(all.site, null);
  assert.deepEqual(all.contributors, [one.contributors[0], composed, elsewhere]);
  assert.ok(accumulator.restore(one).ok);
  assert.deepEqual(accumulator.snapshot(), one);
});

test("an evaluation round sums metrics and no values", () => {
  const evaluation = { ...subject, evaluation: true };
  const accumulator = createAccumulator(kernel, layout, grids.f32, plenty, evaluation);
  open.push(accumulator);
  const none = new Uint8Array(0);
  assert.ok(accumulator.add(none, "f32", { device: "a", samples: 4 }, { acc: 7 }, 0).ok);
  const { sum, metrics } = accumulator.snapshot();
  assert.equal(sum.length, 0);
  assert.deepEqual(metrics, { acc: { sum: 28n, weight: 4n } });
});

test("released memory is used again, and starts from zero", () => {
  const own = loadKernel();
  const grid = grids.f32;
  const bytes = bytesOf(Array(size).fill(5), layout, grid, "f32");
  const first = createAccumulator(own, layout, grid, plenty, subject);
  first.add(bytes, "f32", { device: "a", samples: 1 }, {}, 0);
  first.release();
  first.release();
  const pooled = own.pooledBytes();
  assert.ok(pooled > 0);
  const second = createAccumulator(own, layout, grid, plenty, subject);
  assert.equal(own.pooledBytes(), 0);
  assert.ok(second.snapshot().sum.every((s) => s === 0n));
  second.release();
  assert.equal(own.pooledBytes(), pooled);
});

test("a grid without headroom cannot have an accumulator", () => {
  assert.throws(() => createAccumulator(kernel, layout, grids.f32, 2n ** 40n, subject), RangeError);
});

test("a piece that splits a value or lies outside the update is an error", () => {
  const accumulator = accumulatorFor([{ name: "a", shape: [4] }], {
    fractionBits: [20],
    range: 1,
  });
  const piece = (bytes: number) => new Uint8Array(bytes);
  assert.throws(() => accumulator.check(piece(4), "f32", 2), /split/);
  assert.throws(() => accumulator.check(piece(6), "f32", 0), /split/);
  assert.throws(() => accumulator.check(piece(4), "f32", -4), /outside/);
  assert.throws(() => accumulator.check(piece(8), "f32", 12), /outside/);
});

test("check keeps to the range where the range is no float32 or no int16", () => {
  const shape: Layout = [{ name: "a", shape: [16] }];
  // R lies between two float32 and nearer to the upper one.
  const accumulator = accumulatorFor(shape, {
    fractionBits: [30],
    range: 1 + 2 ** -24 + 2 ** -25,
  });
  const check = (value: number) => {
    const bytes = new Uint8Array(new Float32Array(16).fill(value).buffer);
    const verdict = accumulator.check(bytes, "f32", 0);
    return verdict.ok ? "accepted" : verdict.code;
  };
  assert.equal(check(1), "accepted");
  assert.equal(check(1 + 2 ** -23), "out-of-range");
  const shorts = new Uint8Array(new Int16Array(16).fill(-32768).buffer);
  assert.ok(accumulator.check(shorts, "i16", 0).ok);
});
