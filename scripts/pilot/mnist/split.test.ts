import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { DIGITS } from "./data.js";
import { SPLIT_DEVICES_MAX, type Split, split, splitTest } from "./split.js";

/** As uneven as a real set: digit d has 60 + 5 d samples, in no order. */
const labels = Array.from({ length: 1_000 }, (_, i) => (i * i + 3 * i) % 10);
for (let digit = 0; digit < DIGITS; digit++)
  labels.push(...new Array<number>(60 + 5 * digit).fill(digit));

const fleets = fc
  .record({
    sites: fc.integer({ min: 2, max: 12 }),
    extra: fc.integer({ min: 0, max: 48 }),
    seed: fc.integer({ min: 0, max: 2 ** 40 }),
  })
  .map(({ sites, extra, seed }) => ({ sites, devices: Math.max(4, sites) + extra, seed }));

function assertSplit({ sites, devices }: Split, of: readonly number[]): void {
  for (const { site, holds, lacks } of sites) {
    assert.ok(lacks.length >= 3, `site ${site} lacks ${lacks}`);
    const held = new Set(devices.filter((d) => d.site === site).flatMap((d) => d.digits));
    assert.deepEqual(
      [...held].sort((a, b) => a - b),
      holds,
    );
    assert.deepEqual(
      [...holds, ...lacks].sort((a, b) => a - b),
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    );
  }
  for (const { device, digits, train } of devices) {
    assert.ok(digits.length === 2 || digits.length === 3, `device ${device} holds ${digits}`);
    const present = [...new Set(train.map((i) => of[i] as number))];
    assert.deepEqual(
      present.sort((a, b) => a - b),
      digits,
    );
  }
  assert.equal(new Set(devices.flatMap((d) => d.digits)).size, DIGITS);
  const used = devices.flatMap((d) => d.train);
  assert.equal(used.length, of.length);
  assert.equal(new Set(used).size, of.length);
}

test("every split hurts, and uses every sample exactly once", () => {
  fc.assert(
    fc.property(fleets, (fleet) => {
      const result = split(labels, fleet);
      assert.equal(result.sites.length, fleet.sites);
      assert.equal(result.devices.length, fleet.devices);
      assertSplit(result, labels);
    }),
    { numRuns: 150 },
  );
});

test("with three sites of three devices or more, no digit lives at one site only", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 3, max: 6 }),
      fc.integer({ min: 3, max: 10 }),
      fc.integer({ min: 0 }),
      (sites, each, seed) => {
        const result = split(labels, { sites, devices: sites * each, seed });
        for (let digit = 0; digit < DIGITS; digit++)
          assert.ok(result.sites.filter((site) => site.holds.includes(digit)).length >= 2);
      },
    ),
    { numRuns: 60 },
  );
});

test("the seed decides the split", () => {
  const fleet = { sites: 3, devices: 24, seed: 1 };
  assert.deepEqual(split(labels, fleet), split(labels, fleet));
  assert.notDeepEqual(split(labels, fleet), split(labels, { ...fleet, seed: 2 }));
});

test("numbers that allow no such split are refused with the bound", () => {
  const refused = (sites: number, devices: number, bound: RegExp) =>
    assert.throws(() => split(labels, { sites, devices, seed: 1 }), bound);
  refused(1, 24, /1 sites: at least 2/);
  refused(2.5, 24, /2.5 sites/);
  refused(2, 3, /3 devices: 2 sites need at least 4/);
  refused(6, 5, /5 devices: 6 sites need at least 6/);
  refused(3, Number.NaN, /NaN devices/);
  refused(3, SPLIT_DEVICES_MAX + 1, new RegExp(`at most ${SPLIT_DEVICES_MAX}`));
  assert.throws(() => split(labels, { sites: 3, devices: 24, seed: 0.5 }), /seed 0.5/);
  assert.throws(
    () => split([0, 1, 2], { sites: 3, devices: 24, seed: 1 }),
    /digit \d has \d samples/,
  );
  assert.throws(() => split([10], { sites: 3, devices: 24, seed: 1 }), /label 10/);
});

test("the devices' test shares are even and cover the test set exactly once", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 60 }),
      fc.integer({ min: 0, max: 400 }),
      fc.integer({ min: 0 }),
      (devices, extra, seed) => {
        const count = devices + extra;
        const shares = splitTest(count, { devices, seed });
        const sizes = shares.map((share) => share.length);
        assert.ok(Math.max(...sizes) - Math.min(...sizes) <= 1);
        assert.deepEqual(
          shares.flat().sort((a, b) => a - b),
          Array.from({ length: count }, (_, i) => i),
        );
      },
    ),
  );
  assert.throws(() => splitTest(3, { devices: 4, seed: 1 }), RangeError);
});
