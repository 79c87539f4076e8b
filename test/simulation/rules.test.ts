import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { ContributionRow, PartialRow } from "@tributary/cloud/store/rows.js";
import { quorumOf } from "./quorum.js";
import { applies, type Moment } from "./rules.js";

const sync = {
  kind: "sync",
  staleness: { kind: "constant" },
  maxStaleness: 2,
} as const;
const buffered = { ...sync, kind: "buffered", contributors: 3 } as const;
const memory = { kind: "site-memory", halfLife: 1 } as const;

/** A Partial that a committed round received, and of which nothing is wrong. */
const well: Moment = {
  aggregation: sync,
  task: "train",
  was: "round",
  ends: "committed",
  made: true,
  over: false,
  age: 0,
  isSuperseded: false,
  hasNoRoom: false,
  isOverflow: false,
  hasSites: true,
  hasSite: true,
  isFull: false,
};
const kept = { ...well, was: "kept" } as const;
const after = { ...well, was: "late", ends: undefined, made: false } as const;

/** By rule: when it applies, and each time one thing that is otherwise. */
const cases: Readonly<Record<string, readonly [Moment, ...Partial<Moment>[]]>> = {
  "max-staleness": [{ ...kept, age: 3 }, { age: 2 }, { age: undefined }, { aggregation: memory }],
  "site-memory-age": [{ ...kept, aggregation: memory, age: 6 }, { age: 5 }, { aggregation: sync }],
  "off-trail": [{ ...kept, age: undefined }, { age: 9 }, { task: "evaluate" }],
  superseded: [
    { ...kept, aggregation: memory, isSuperseded: true },
    { isSuperseded: false },
    { aggregation: sync },
    { made: false },
  ],
  "session-ended": [{ ...after, over: true }, { over: false }, { task: "evaluate" }],
  "late-evaluation": [{ ...after, task: "evaluate" }, { task: "train" }, { was: "round" }],
  "storage-full": [{ ...well, isFull: true }, { isFull: false }, { was: "kept" }],
  "total-overflow": [
    { ...well, isOverflow: true },
    { isOverflow: false },
    { ends: "stopped" },
    { was: "late" },
  ],
  "site-quorum": [
    { ...well, hasSite: false },
    { hasSite: true },
    { ends: "failed" },
    { aggregation: buffered },
  ],
  "sites-quorum": [
    { ...well, ends: "failed", hasSites: false },
    { hasSites: true },
    { ends: "committed" },
    { aggregation: memory },
  ],
  stopped: [{ ...well, ends: "stopped" }, { ends: "failed" }, { was: "kept" }],
};

describe("a rule of expiry", () => {
  for (const [rule, [moment, ...others]] of Object.entries(cases))
    it(`${rule} applies when what it is for is so, and not otherwise`, () => {
      assert.equal(applies(rule, moment), true);
      for (const other of others)
        assert.equal(applies(rule, { ...moment, ...other }), false, JSON.stringify(other));
      assert.equal(applies(rule, well), false);
    });

  it("is one of those that are known", () => {
    assert.equal(applies("because", { ...well, over: true }), false);
    assert.equal(applies(null, { ...well, over: true }), false);
  });

  it("lets what is kept go with the session, unless the last model had room for it", () => {
    const last = { ...kept, ends: "committed", over: true } as const;
    assert.equal(applies("session-ended", last), false);
    assert.equal(applies("session-ended", { ...last, hasNoRoom: true }), true);
    assert.equal(applies("session-ended", { ...last, ends: "stopped", made: false }), true);
  });
});

describe("the quorum of a round's sites", () => {
  const received = (
    site: string | null,
    ...contributions: readonly (readonly [number, string])[]
  ) => ({
    partial: { site } as PartialRow,
    contributions: contributions.map(
      ([round, device]) => ({ round, stretch: 0, device, gateway: "g1" }) as ContributionRow,
    ),
  });
  const nowhereSure = () => new Set(["north", "south"]);

  it("counts contributions to the round, of several Partials of a site together", () => {
    const one = received("north", [4, "d1"]);
    const other = received("north", [4, "d2"], [3, "d3"]);
    const quorum = quorumOf(
      4,
      2,
      [one, other, received("south", [4, "d4"], [3, "d5"])],
      nowhereSure,
      true,
    );
    assert.deepEqual([...quorum.certain], ["north"]);
    assert.deepEqual([...quorum.possible], ["north"]);
  });

  it("is certain only where every contribution's site is", () => {
    const quorum = quorumOf(4, 2, [received(null, [4, "d1"], [4, "d2"])], nowhereSure, true);
    assert.deepEqual([...quorum.certain], []);
    assert.deepEqual([...quorum.possible], ["north", "south"]);
  });

  it("does not take the site on record of what was merged on its way for that of each", () => {
    const merged = [received("north", [4, "d1"], [4, "d2"])];
    assert.deepEqual([...quorumOf(4, 2, merged, nowhereSure, false).possible], ["north", "south"]);
  });
});
