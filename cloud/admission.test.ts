import assert from "node:assert/strict";
import { test } from "node:test";
import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { admitPartial } from "./admission.js";
import { plan, sumOf } from "./testing/rounds.js";

const roster = new Set(["a", "b"]);
const none = new Set<string>();

test("a Partial of the round, within its roster, is admitted", () => {
  assert.deepEqual(admitPartial(plan(), roster, none, sumOf(plan(), { a: 2, b: 3 })), { ok: true });
});

const refusals: Record<string, [Partial<Sum>, string]> = {
  "another round": [{ round: "s.2" }, "base-mismatch"],
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
  "a device of another gateway": [{ contributors: [{ device: "z", samples: 1 }] }, "not-in-roster"],
  "more samples than nMax": [
    { contributors: [{ device: "a", samples: plan().nMax + 1 }] },
    "bad-sample-count",
  ],
};

for (const [what, [change, code]] of Object.entries(refusals))
  test(`a Partial with ${what} is refused with ${code}`, () => {
    const partial = { ...sumOf(plan(), { a: 1 }), ...change };
    const verdict = admitPartial(plan(), roster, none, partial);
    assert.equal(verdict.ok ? "ok" : verdict.code, code);
  });

test("a device that is counted already is an overlap, by name", () => {
  const verdict = admitPartial(plan(), roster, new Set(["b"]), sumOf(plan(), { a: 1, b: 1 }));
  assert.ok(!verdict.ok && verdict.code === "overlap" && verdict.message.includes("b"));
});

test("an evaluation carries no values", () => {
  const evaluate = plan({ task: "evaluate" });
  const empty = { ...sumOf(evaluate, { a: 1 }), sum: new BigInt64Array(0) };
  assert.deepEqual(admitPartial(evaluate, roster, none, empty), { ok: true });
  const full = admitPartial(evaluate, roster, none, sumOf(plan(), { a: 1 }));
  assert.equal(full.ok ? "ok" : full.code, "grid-mismatch");
});
