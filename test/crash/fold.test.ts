import assert from "node:assert/strict";
import { test } from "node:test";
import { digestOf, fedAvg, meanOf, startFrom, sumOf } from "../floor/expected.js";
import type { Entry } from "./account.js";
import { createFold, type FoldOptions, type ModelClaim } from "./fold.js";

const bitsOf = () => 12;
const a = { device: "a", site: "x", samples: 3 };
const b = { device: "b", site: "y", samples: 5 };
const start = { id: "start.0", values: Float32Array.of(0.5, -0.25, 1) };
const from = startFrom(start.values);

const entry = (
  round: number,
  device: string,
  model: string,
  change: Partial<Entry> = {},
): Entry => ({
  ...{ round, device, model, stretch: 0, outcome: "model", rule: null, updates: 1 },
  ...change,
});

function foldOf(books: readonly Entry[], change: Partial<FoldOptions> = {}) {
  const baseOf = new Map([
    [1, "start.0"],
    [2, "s.1"],
  ]);
  const given = { session: "s", start, members: [a, b], bitsOf, range: 1, baseOf, books };
  return createFold({ ...given, siteRounds: false, receipts: [], ...change });
}

const first = fedAvg(from, 1, [a], bitsOf);
const firstClaim: ModelClaim = {
  ...{ id: "s.1", parent: "start.0" },
  ...{ sumDigest: first.sumDigest, values: first.values },
};

test("a model is right to the bit, or it is said what is wrong", () => {
  const check = (change: Partial<ModelClaim>) =>
    foldOf([entry(1, "a", "s.1")]).check({ ...firstClaim, ...change });
  assert.equal(check({}), undefined);
  const [x = 0, y = 0, z = 0] = first.values;
  const off = Float32Array.of(x, y + 2 ** -24, z);
  assert.match(check({ values: off }) ?? "", /^value 1 is /);
  assert.match(check({ values: first.values.slice(0, 2) }) ?? "", /^value/);
  assert.match(check({ sumDigest: fedAvg(from, 1, [b], bitsOf).sumDigest }) ?? "", /^its sums/);
  assert.match(check({ parent: "s.7" }) ?? "", /^its parent s\.7 /);
  assert.equal(foldOf([]).check(firstClaim), "it holds nothing");
  const strange = foldOf([entry(3, "a", "s.1")]).check(firstClaim);
  assert.match(strange ?? "", /not on its trail$/);
});

test("what is late counts 1 / sqrt(1 + age), over the samples of all", () => {
  const late = sumOf(from.values, 1, [b], bitsOf);
  const fresh = sumOf(first.values, 2, [a], bitsOf);
  const [old, young] = [meanOf(late, 5, bitsOf), meanOf(fresh, 3, bitsOf)];
  const step = (i: number) =>
    ((5 * (1 / Math.sqrt(2))) / 8) * (old[i] ?? 0) + (3 / 8) * (young[i] ?? 0);
  const master = first.master.map((value, i) => value + step(i));
  const values = Float32Array.from(master);
  const books = [entry(1, "a", "s.1"), entry(1, "b", "s.2"), entry(2, "a", "s.2")];
  const fold = foldOf(books);
  assert.equal(fold.check(firstClaim), undefined);
  const claim = { id: "s.2", parent: "s.1", sumDigest: digestOf([late, fresh]), values };
  assert.equal(fold.check(claim), undefined);
  assert.deepEqual(fold.checked, { models: 2, sums: 3, late: 1, composed: 0, further: 0 });
});

test("site rounds count once for each device, and a further stretch is what came after the first", () => {
  const receipts = ["s.1.1", "s.1.2", "s.1.3"].map((round) => ({ round, device: "a" }));
  const values = (delta: readonly number[]) =>
    from.values.map((value, i) => value + (delta[i] ?? 0));
  let delta = [0, 0, 0];
  const deltas = [1, 2, 3].map((number) => {
    const mean = meanOf(sumOf(values(delta), number, [a], bitsOf), 3, bitsOf);
    delta = delta.map((value, i) => value + (mean[i] ?? 0));
    return delta;
  });
  const [, two = [], three = []] = deltas;
  const times = (q: readonly number[]) =>
    q.map((value) => 3n * BigInt(Math.max(-4096, Math.min(4096, Math.round(value * 4096)))));
  const both = times(two);
  const last = times(three.map((value, i) => value - (two[i] ?? 0)));
  const claimOf = (sum: bigint[]): ModelClaim => {
    const mean = meanOf(sum, 3, bitsOf);
    const master = from.master.map((value, i) => value + (mean[i] ?? 0));
    const id = "s.1";
    return { id, parent: "start.0", sumDigest: digestOf([sum]), values: Float32Array.from(master) };
  };
  const options = { receipts, siteRounds: true };
  const further = entry(1, "a", "s.9", { stretch: 3 });
  const stretches = [entry(1, "a", "s.1", { updates: 2 }), further];
  assert.equal(foldOf(stretches, options).check(claimOf(both)), undefined);
  const later = [{ ...further, model: "s.1" }, entry(1, "a", "s.9", { updates: 2 })];
  const fold = foldOf(later, options);
  assert.equal(fold.check(claimOf(last)), undefined);
  assert.equal(fold.checked.further, 1);
  const short = [entry(1, "a", "s.1"), further];
  const wrong = foldOf(short, options).check(claimOf(both));
  assert.equal(wrong, "a: 1 updates, 2 receipts of site x in round 1");
});
