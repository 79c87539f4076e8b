import assert from "node:assert/strict";
import { test } from "node:test";
import { randomContract } from "./random.contract.js";
import { jitteredBackoff, seededRandom, systemRandom } from "./random.js";

randomContract("system random", systemRandom);
randomContract("seeded random", () => seededRandom(7));

const draw = (seed: number | string) => {
  const random = seededRandom(seed);
  return [random.next(), random.next(), random.id(8)];
};

test("seeds tell sequences apart, in text and in their high bits too", () => {
  const seeds = [0, 1, -1, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER, "1", "gateway-a", ""];
  assert.equal(new Set(seeds.map((seed) => JSON.stringify(draw(seed)))).size, seeds.length);
  for (const seed of seeds) assert.deepEqual(draw(seed), draw(seed));
});

test("what is no seed is refused, not rounded", () => {
  for (const seed of [0.5, Number.NaN, 2 ** 53])
    assert.throws(() => seededRandom(seed), RangeError);
});

test("the first back-off is within its base, and attempts without end stay at the cap", () => {
  const highest = { ...seededRandom(1), next: () => 1 - 2 ** -53 };
  const bounds = { baseMs: 100, capMs: 5_000 };
  const waits = [0, 1, 2, 10, 5_000].map((attempt) => jitteredBackoff(highest, attempt, bounds));
  assert.deepEqual(waits, [100, 200, 400, 5_000, 5_000]);
  assert.equal(jitteredBackoff({ ...highest, next: () => 0 }, 3, bounds), 0);
});
