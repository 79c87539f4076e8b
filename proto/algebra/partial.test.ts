import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { METRIC_NAMES_MAX } from "./metric.js";
import {
  contributionKey,
  mean,
  meanFloat64,
  merge,
  metricToFixed,
  metricValue,
  type Partial,
  roundsOf,
} from "./partial.js";

const origin = { base: "s.0", baseDigest: "0".repeat(64), site: "hall" };
const plenty = 2n ** 53n;

function partialOf(fields: globalThis.Partial<Partial>): Partial {
  const sum = fields.sum ?? BigInt64Array.of(0n);
  return {
    ...origin,
    grid: { fractionBits: [10], range: 1 },
    layout: [{ name: "w", shape: [sum.length] }],
    weight: (fields.contributors ?? []).reduce((n, c) => n + BigInt(c.samples), 0n),
    contributors: [],
    metrics: {},
    saturated: 0,
    sum,
    ...fields,
  };
}

const from = (device: string, samples: number, sum: bigint[]) =>
  partialOf({
    contributors: [{ round: "s.1", device, samples, updates: 1 }],
    sum: BigInt64Array.from(sum),
  });

function merged(a: Partial, b: Partial, totalMax = plenty): Partial {
  const result = merge(a, b, totalMax);
  assert.ok(result.ok, result.ok ? "" : result.message);
  return result.partial;
}

/** The double nearest to numerator / denominator by comparing neighbours as exact rationals. */
function isNearest(x: number, numerator: bigint, denominator: bigint): boolean {
  const scale = 1n << 1100n;
  const whole = (y: number): bigint => {
    const bits = new BigUint64Array(new Float64Array([y]).buffer)[0] as bigint;
    const exponent = (bits >> 52n) & 0x7ffn;
    const fraction = bits & 0xfffffffffffffn;
    const m = exponent === 0n ? fraction : fraction | (1n << 52n);
    const magnitude = m << ((exponent === 0n ? 1n : exponent) - 1075n + 1100n);
    return y < 0 ? -magnitude : magnitude;
  };
  const distance = (y: number) => {
    const d = whole(y) * denominator - numerator * scale;
    return d < 0n ? -d : d;
  };
  const bits = new BigUint64Array(new Float64Array([x]).buffer)[0] as bigint;
  const neighbour = (step: bigint) =>
    new Float64Array(new BigUint64Array([bits + step]).buffer)[0] as number;
  const here = distance(x);
  return [-1n, 1n].every((step) => {
    if (x === 0) return numerator === 0n;
    const there = distance(neighbour(step));
    return here < there || (here === there && bits % 2n === 0n);
  });
}

test("the mean is the double nearest to the exact rational", () => {
  const sum = fc.oneof(
    fc.bigInt({ min: -(2n ** 62n), max: 2n ** 62n }),
    fc.bigInt({ min: -(2n ** 20n), max: 2n ** 20n }),
    // At and around halves of a double's last place.
    fc
      .tuple(fc.bigInt({ min: 2n ** 53n, max: 2n ** 54n }), fc.nat(8))
      .map(([s, k]) => s << BigInt(k)),
  );
  const weight = fc.oneof(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 2 ** 40 }));
  fc.assert(
    fc.property(sum, weight, fc.nat(40), (s, samples, f) => {
      const partial = { ...from("a", samples, [s]), grid: { fractionBits: [f], range: 1 } };
      const x = meanFloat64(partial)[0] as number;
      assert.ok(isNearest(x, s, BigInt(samples) << BigInt(f)), `${s} / (${samples} 2^${f}) = ${x}`);
      assert.equal(mean(partial)[0], Math.fround(x));
    }),
    { numRuns: 500 },
  );
});

test("a sum halfway between two doubles goes to the even one", () => {
  const means = [2n ** 53n + 1n, 2n ** 53n + 3n, -(2n ** 53n + 1n), 2n ** 62n + 2n ** 9n].map(
    (s) => meanFloat64({ ...from("a", 1, [s]), grid: { fractionBits: [0], range: 1 } })[0],
  );
  assert.deepEqual(means, [2 ** 53, 2 ** 53 + 4, -(2 ** 53), 2 ** 62]);
});

test("a sum that is just past a half is not pulled back to it", () => {
  // (2^53 + 1) + 1/3: past halfway by less than any shortcut through doubles can see.
  const x = meanFloat64({
    ...from("a", 3, [3n * (2n ** 53n + 1n) + 1n]),
    grid: { fractionBits: [0], range: 1 },
  });
  assert.equal(x[0], 2 ** 53 + 2);
});

test("a mean over more weight than a double can hold is still nearest", () => {
  const weight = 2n ** 53n + 1n;
  const s = 2n ** 53n - 1n;
  const partial = { ...from("a", 1, [s]), weight, grid: { fractionBits: [0], range: 1 } };
  assert.ok(isNearest(meanFloat64(partial)[0] as number, s, weight));
});

test("a Partial without contributors has no mean", () => {
  assert.throws(() => mean(partialOf({})), RangeError);
});

test("merging adds with carries through both halves of an int64", () => {
  const whole = fc.bigInt({ min: -(2n ** 62n), max: 2n ** 62n - 1n });
  fc.assert(
    fc.property(fc.array(fc.tuple(whole, whole), { minLength: 1, maxLength: 16 }), (pairs) => {
      const a = from(
        "a",
        1,
        pairs.map(([x]) => x),
      );
      const b = from(
        "b",
        1,
        pairs.map(([, y]) => y),
      );
      assert.deepEqual(
        [...merged(a, b).sum],
        pairs.map(([x, y]) => x + y),
      );
    }),
  );
});

test("a sum that would pass 64 bits is refused, never wrapped", () => {
  for (const sign of [1n, -1n]) {
    const a = from("a", 1, [sign * 2n ** 62n]);
    const b = from("b", 1, [sign * (2n ** 62n + 1n)]);
    const result = merge(a, b, plenty);
    assert.equal(result.ok ? "merged" : result.code, "total-overflow");
  }
});

test("a weight past NMax is refused", () => {
  const a = from("a", 5, [1n]);
  const b = from("b", 6, [1n]);
  assert.equal(merged(a, b, 11n).weight, 11n);
  const result = merge(a, b, 10n);
  assert.equal(result.ok ? "merged" : result.code, "total-overflow");
});

test("an overlap is refused and named", () => {
  const list = (...keys: string[]) =>
    keys.map((key) => {
      const [round = "", device = ""] = key.split("/");
      return { round, device, samples: 1, updates: 1 };
    });
  const a = partialOf({ contributors: list("s.9/a", "s.9/b", "s.9/d", "s.10/a", "s.10/e") });
  const b = partialOf({ contributors: list("s.9/b", "s.9/c", "s.10/b", "s.10/e") });
  const result = merge(a, b, plenty);
  assert.ok(!result.ok);
  assert.equal(result.code, "overlap");
  assert.deepEqual(result.overlap, ["s.9/b", "s.10/e"]);
});

test("Partials of different rounds on one base merge; a device may be in both", () => {
  const list = (round: string, ...devices: string[]) =>
    devices.map((device) => ({ round, device, samples: 2, updates: 1 }));
  const a = partialOf({
    contributors: [...list("s.9", "a", "b"), ...list("s.10", "b")],
    sum: BigInt64Array.of(1n),
  });
  const b = partialOf({
    contributors: [...list("s.9", "c"), ...list("s.10", "a", "c")],
    sum: BigInt64Array.of(2n),
  });
  const both = merged(a, b);
  assert.deepEqual(both, merged(b, a));
  assert.deepEqual(both.contributors.map(contributionKey), [
    "s.9/a",
    "s.9/b",
    "s.9/c",
    "s.10/a",
    "s.10/b",
    "s.10/c",
  ]);
  assert.deepEqual(roundsOf(both), ["s.9", "s.10"]);
  assert.deepEqual([both.weight, both.sum[0]], [12n, 3n]);
});

test("a merged Partial keeps its site when it is the same, and has none otherwise", () => {
  const [a, b] = [from("a", 1, [1n]), from("b", 1, [1n])];
  assert.equal(merged(a, b).site, "hall");
  assert.equal(merged(a, { ...b, site: "yard" }).site, null);
  assert.equal(merged({ ...a, site: null }, { ...b, site: null }).site, null);
});

test("Partials of different bases, grids or layouts do not merge", () => {
  const a = from("a", 1, [1n]);
  const others: [globalThis.Partial<Partial>, string][] = [
    [{ base: "s.9" }, "base-mismatch"],
    [{ baseDigest: "1".repeat(64) }, "base-mismatch"],
    [{ grid: { fractionBits: [11], range: 1 } }, "grid-mismatch"],
    [{ grid: { fractionBits: [10], range: 2 } }, "grid-mismatch"],
    [{ layout: [{ name: "v", shape: [1] }] }, "grid-mismatch"],
    [{ layout: [{ name: "w", shape: [1, 1] }] }, "grid-mismatch"],
    [{ sum: new BigInt64Array(0) }, "grid-mismatch"],
  ];
  for (const [difference, code] of others) {
    const result = merge(a, { ...from("b", 1, [1n]), ...difference }, plenty);
    assert.equal(result.ok ? "merged" : result.code, code);
  }
});

test("metrics are weighted exactly, over those that report them", () => {
  const fixed = (value: number) => {
    const whole = metricToFixed(value);
    assert.equal(typeof whole, "bigint");
    return whole as bigint;
  };
  const a = { ...from("a", 3, [0n]), metrics: { loss: { sum: 3n * fixed(0.5), weight: 3n } } };
  const b = {
    ...from("b", 1, [0n]),
    metrics: { loss: { sum: fixed(1), weight: 1n }, acc: { sum: fixed(0.25), weight: 1n } },
  };
  const { metrics } = merged(a, b);
  assert.equal(metricValue(metrics.loss as Partial["metrics"][string]), 0.625);
  assert.equal(metricValue(metrics.acc as Partial["metrics"][string]), 0.25);
  assert.equal(fixed(2 ** -21), 0n);
  assert.equal(fixed(3 * 2 ** -21), 2n);
  assert.equal(fixed(2 ** 20), 2n ** 40n);
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, 2 ** 20 + 1]) {
    assert.notEqual(typeof metricToFixed(bad), "bigint");
  }
});

test("the bound on metric names gives the same names in any order", () => {
  const names = (device: string, start: number, count: number) => ({
    ...from(device, 1, [0n]),
    metrics: Object.fromEntries(
      Array.from({ length: count }, (_, i) => [
        `m${String(start + i).padStart(3, "0")}`,
        { sum: 1n, weight: 1n },
      ]),
    ),
  });
  const a = names("a", 40, 50);
  const b = names("b", 0, 50);
  const c = names("c", 60, 60);
  const left = merged(merged(a, b), c);
  const right = merged(a, merged(c, b));
  assert.equal(Object.keys(left.metrics).length, METRIC_NAMES_MAX);
  assert.deepEqual(left, right);
});
