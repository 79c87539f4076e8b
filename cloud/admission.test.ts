import assert from "node:assert/strict";
import { test } from "node:test";
import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { admitPartial, type Counted } from "./admission.js";
import { plan, sumOf } from "./testing/rounds.js";

const rosters = new Map([
  ["s.1", new Set(["a", "b"])],
  ["s.0", new Set(["a", "c"])],
]);
const contributor = { round: "s.1", updates: 1 };
const none = counted();

/** One update each, or as many as are said. */
function counted(...of: readonly (readonly [round: string, device: string, updates?: number])[]) {
  return new Map<string, Counted>(
    of.map(([round, device, updates = 1]) => [`${round}/${device}`, { round, device, updates }]),
  );
}

test("a Partial of the round, within its roster, is admitted", () => {
  assert.deepEqual(admitPartial(plan(), rosters, none, sumOf(plan(), { a: 2, b: 3 })), {
    ok: true,
  });
});

const refusals: Record<string, [Partial<Sum>, string]> = {
  "a round that nobody knows": [
    { contributors: [{ ...contributor, round: "s.2", device: "a", samples: 1 }] },
    "not-in-roster",
  ],
  "a device of another round": [
    { contributors: [{ ...contributor, device: "c", samples: 1 }] },
    "not-in-roster",
  ],
  "another base": [{ base: "s.9" }, "base-mismatch"],
  "another base file": [{ baseDigest: "0".repeat(64) }, "base-mismatch"],
  "another grid": [{ grid: { fractionBits: [5, 5], range: 1 } }, "grid-mismatch"],
  "another layout": [
    {
      layout: [
        { name: "w", shape: [2] },
        { name: "c", shape: [1] },
      ],
    },
    "grid-mismatch",
  ],
  "no values in a training round": [{ sum: new BigInt64Array(0) }, "grid-mismatch"],
  "no contributors": [{ contributors: [] }, "partial-malformed"],
  "a device of another gateway": [
    { contributors: [{ ...contributor, device: "z", samples: 1 }] },
    "not-in-roster",
  ],
  "more samples than nMax": [
    { contributors: [{ ...contributor, device: "a", samples: plan().nMax + 1 }] },
    "bad-sample-count",
  ],
};

for (const [what, [change, code]] of Object.entries(refusals))
  test(`a Partial with ${what} is refused with ${code}`, () => {
    const partial = { ...sumOf(plan(), { a: 1 }), ...change };
    const verdict = admitPartial(plan(), rosters, none, partial);
    assert.equal(verdict.ok ? "ok" : verdict.code, code);
  });

test("a device that is counted already is an overlap, by name", () => {
  const verdict = admitPartial(
    plan(),
    rosters,
    counted(["s.1", "b"]),
    sumOf(plan(), { a: 1, b: 1 }),
  );
  assert.ok(!verdict.ok && verdict.code === "overlap" && verdict.message.includes("s.1/b"));
});

test("a device's contributions to two rounds on one base do not overlap", () => {
  const [first] = sumOf(plan(), { a: 1 }).contributors;
  assert.ok(first !== undefined);
  const partial = {
    ...sumOf(plan(), { a: 2 }),
    contributors: [{ ...first, round: "s.0" }, first],
  };
  assert.deepEqual(admitPartial(plan(), rosters, none, partial), { ok: true });
  const verdict = admitPartial(plan(), rosters, counted(["s.0", "a"]), partial);
  assert.ok(!verdict.ok && verdict.code === "overlap" && verdict.message.includes("s.0/a"));
});

test("an evaluation carries no values", () => {
  const evaluate = plan({ task: "evaluate" });
  const empty = { ...sumOf(evaluate, { a: 1 }), sum: new BigInt64Array(0) };
  assert.deepEqual(admitPartial(evaluate, rosters, none, empty), { ok: true });
  const full = admitPartial(evaluate, rosters, none, sumOf(plan(), { a: 1 }));
  assert.equal(full.ok ? "ok" : full.code, "grid-mismatch");
});

/** Contributions of one sample of device `a` of s.1. */
function stretched(...of: readonly (readonly [round: string, updates: number])[]): Sum {
  const contributors = of.map(([round, updates]) => ({ round, updates, device: "a", samples: 1 }));
  return { ...sumOf(plan(), { a: 1 }), contributors };
}

const withStretches = new Map(
  ["s.1", "s.1.1", "s.1.2", "s.1.5", "s.1.100000", "s.1.999999999"].map((round) => [
    round,
    new Set(["a"]),
  ]),
);
const offline = plan({ siteRounds: 2, offlineSiteRounds: 3 });
const earlier = counted(["s.1", "a", 2], ["s.1.3", "a"], ["s.1.3", "b", 9], ["s.0", "a", 9]);

const siteRounds: Record<string, [Sum, RegExp | undefined, ReturnType<typeof plan>?]> = {
  "a further stretch, where the plan has none, is": [
    stretched(["s.1.2", 1]),
    /no further stretches/,
    plan({ siteRounds: 4 }),
  ],
  "a further stretch from the first site round, after a first without any, is not": [
    stretched(["s.1.1", 1]),
    undefined,
  ],
  "a stretch past the site rounds there can be is": [
    stretched(["s.1.999999999", 1]),
    /begins with 1 to 100000/,
  ],
  "more updates than the plan has site rounds are": [stretched(["s.1", 6]), /the plan's 5/],
  "more updates in several stretches are": [
    stretched(["s.1", 2], ["s.1.2", 2], ["s.1.5", 2]),
    /s\.1\.5\/a: .* the plan's 5/,
  ],
  "more than one update, where the plan has one site round, are": [
    stretched(["s.1", 2]),
    /the plan's 1/,
    plan(),
  ],
  "as many updates as the plan allows, in several stretches, are not": [
    stretched(["s.1", 2], ["s.1.2", 2], ["s.1.100000", 1]),
    undefined,
  ],
};

for (const [what, [partial, message, of = offline]] of Object.entries(siteRounds))
  test(`${what} refused`, () => {
    const verdict = admitPartial(of, withStretches, none, partial);
    if (message === undefined) return assert.deepEqual(verdict, { ok: true });
    assert.ok(!verdict.ok && verdict.code === "partial-malformed");
    assert.match(verdict.message, message);
  });

test("the updates of a device add up over every stretch on record", () => {
  const within = admitPartial(offline, withStretches, earlier, stretched(["s.1.5", 2]));
  assert.deepEqual(within, { ok: true });
  const past = admitPartial(offline, withStretches, earlier, stretched(["s.1.5", 3]));
  assert.ok(!past.ok && past.code === "partial-malformed");
});
