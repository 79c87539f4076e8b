import assert from "node:assert/strict";
import { test } from "node:test";
import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { admitPartial } from "./admission.js";
import { plan, sumOf } from "./testing/rounds.js";

const rosters = new Map([
  ["s.1", new Set(["a", "b"])],
  ["s.0", new Set(["a", "c"])],
]);
const contributor = { round: "s.1", updates: 1 };
const none = new Set<string>();

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
  const verdict = admitPartial(plan(), rosters, new Set(["s.1/b"]), sumOf(plan(), { a: 1, b: 1 }));
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
  const verdict = admitPartial(plan(), rosters, new Set(["s.0/a"]), partial);
  assert.ok(!verdict.ok && verdict.code === "overlap" && verdict.message.includes("s.0/a"));
});

test("an evaluation carries no values", () => {
  const evaluate = plan({ task: "evaluate" });
  const empty = { ...sumOf(evaluate, { a: 1 }), sum: new BigInt64Array(0) };
  assert.deepEqual(admitPartial(evaluate, rosters, none, empty), { ok: true });
  const full = admitPartial(evaluate, rosters, none, sumOf(plan(), { a: 1 }));
  assert.equal(full.ok ? "ok" : full.code, "grid-mismatch");
});
