import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Aggregation, aggregationSchema } from "./aggregation.js";
import { decidePool, type PoolEntry } from "./pool.js";

const sync = aggregationSchema.parse({ kind: "sync", maxStaleness: 3 });
const memory = aggregationSchema.parse({ kind: "site-memory", halfLife: 2 });

/** The head is s.20; a base that is named otherwise is not on its trail. */
const ageOf = (base: string) => (base.startsWith("s.") ? 20 - Number(base.slice(2)) : undefined);
const populations = new Map([
  ["north", 3],
  ["south", 1],
]);

function decide(aggregation: Aggregation, entries: readonly PoolEntry[], totalMax = 1_000) {
  return decidePool({ aggregation, totalMax, ageOf, populations }, entries);
}

let made = 0;
function entry(base: string, over: Partial<PoolEntry> = {}): PoolEntry {
  const identity = `g.i.${++made}`;
  return { identity, site: "north", base, samples: 10, contributors: 2, applied: false, ...over };
}

const rulesOf = ({ dropped }: ReturnType<typeof decide>) =>
  dropped.map((drop) => [drop.entry.identity, drop.rule]);

test("a round alone is one group, and its mean is the step", () => {
  const entries = [entry("s.20"), entry("s.20", { site: "south" })];
  const { groups, dropped, waiting } = decide(sync, entries);
  assert.deepEqual(
    groups.map(({ age, coefficient, samples, entries: of }) => [age, coefficient, samples, of]),
    [[0, 1, 20, entries]],
  );
  assert.deepEqual([dropped, waiting], [[], []]);
});

test("late Partials are grouped by base, oldest first, and discounted", () => {
  const entries = [entry("s.20"), entry("s.17", { samples: 20 }), entry("s.19"), entry("s.17")];
  const { groups } = decide(sync, entries);
  assert.deepEqual(
    groups.map(({ base, samples, coefficient }) => [base, samples, coefficient]),
    [
      ["s.17", 30, 15 / 50],
      ["s.19", 10, (10 * (1 / Math.sqrt(2))) / 50],
      ["s.20", 10, 10 / 50],
    ],
  );
});

test("what is too old, or on no ancestor of the head, expires by name", () => {
  const [old, off, last] = [entry("s.16"), entry("gone.3"), entry("s.17")];
  const decision = decide(sync, [old, off, last]);
  assert.deepEqual(rulesOf(decision), [
    [old.identity, "max-staleness"],
    [off.identity, "off-trail"],
  ]);
  assert.deepEqual(decision.groups[0]?.entries, [last]);
});

test("a group takes no more samples than a sum may have; the rest waits", () => {
  const [first, second, third] = [entry("s.20"), entry("s.20"), entry("s.19")];
  const { groups, waiting } = decide(sync, [first, second, third], 15);
  assert.deepEqual(waiting, [second]);
  assert.deepEqual(
    groups.map(({ entries }) => entries),
    [[third], [first]],
  );
});

test("a site's newest base wins: what is replaced unused is superseded", () => {
  const used = entry("s.15", { applied: true });
  const unused = entry("s.16");
  const fresh = entry("s.20");
  const south = entry("s.14", { site: "south", applied: true });
  const decision = decide(memory, [fresh, used, unused, south]);
  assert.deepEqual(rulesOf(decision), [
    [used.identity, "superseded"],
    [unused.identity, "superseded"],
  ]);
  assert.deepEqual(
    decision.groups.map(({ site, coefficient, carried }) => [site, coefficient, carried]),
    [
      ["south", 0.25 * 2 ** (-6 / 2), 2],
      ["north", 0.75, 0],
    ],
  );
});

test("a slot grows exactly on its own base, and what a model holds stays in it", () => {
  const [late, used] = [entry("s.15"), entry("s.15", { applied: true })];
  const whole = decide(memory, [late, used]);
  assert.deepEqual(whole.groups[0]?.entries, [used, late]);
  assert.deepEqual([whole.groups[0]?.contributors, whole.groups[0]?.carried], [4, 2]);
  const tight = decide(memory, [late, used], 15);
  assert.deepEqual(tight.waiting, [late]);
});

test("a slot is given up beyond five half-lives", () => {
  const [old, limit] = [entry("s.9"), entry("s.10", { site: "south" })];
  const decision = decide(memory, [old, limit]);
  assert.deepEqual(rulesOf(decision), [[old.identity, "site-memory-age"]]);
  assert.deepEqual(decision.groups[0]?.entries, [limit]);
});

test("every entry is in a group, dropped or waiting, and in one of them only", () => {
  const arbitrary = fc.record({
    site: fc.constantFrom("north", "south", "west"),
    base: fc.constantFrom("s.20", "s.19", "s.15", "s.2", "x.1"),
    samples: fc.integer({ min: 1, max: 20 }),
    contributors: fc.integer({ min: 1, max: 5 }),
    applied: fc.boolean(),
  });
  fc.assert(
    fc.property(
      fc.array(arbitrary, { maxLength: 20 }),
      fc.constantFrom(sync, memory),
      (given, aggregation) => {
        const entries = given.map((of, i) => ({ ...of, identity: `${i}` }));
        const { groups, dropped, waiting } = decide(aggregation, entries, 40);
        const seen = [
          ...groups.flatMap((group) => group.entries),
          ...dropped.map((drop) => drop.entry),
          ...waiting,
        ].map(({ identity }) => identity);
        assert.deepEqual(seen.sort(), entries.map(({ identity }) => identity).sort());
        for (const { samples, base, entries: of } of groups) {
          assert.ok(samples <= 40 && of.every((one) => one.base === base));
          assert.equal(
            of.reduce((sum, one) => sum + one.samples, 0),
            samples,
          );
        }
      },
    ),
  );
});
