import assert from "node:assert/strict";
import { test } from "node:test";
import { type CycleStanding, fullIdleOf, type Idle, type IdleSources, idleOf } from "./idle.js";

const nothing: IdleSources = { asking: false, attached: true, cycles: [], ended: undefined };
const cycle = (phase: CycleStanding["phase"], empty = 0): CycleStanding[] => [
  { round: "s.3", phase, empty },
];

test("a site says why it asks nobody: the newest round that it knows decides", () => {
  const away = { ...nothing, attached: false };
  const ended = { session: "s", round: "s.3", offlineSiteRounds: 4 };
  const cases: [IdleSources, string | undefined][] = [
    [nothing, "unasked"],
    [{ ...nothing, asking: true }, undefined],
    [{ ...nothing, cycles: cycle("handed") }, "next-round"],
    [{ ...away, cycles: cycle("running") }, undefined],
    [{ ...away, cycles: cycle("paused") }, "reconnecting"],
    [{ ...away, cycles: cycle("paused", 2) }, "unanswered"],
    [{ ...away, cycles: cycle("absent") }, "absent"],
    [{ ...nothing, ended }, "next-round"],
    [{ ...away, ended }, "allowance"],
    [{ ...away, ended: { ...ended, offlineSiteRounds: 0 } }, "not-allowed"],
  ];
  for (const [sources, why] of cases) assert.equal(idleOf(sources)?.why, why);
});

test("a gateway with others below is idle when none of them is at work either", () => {
  const own: Idle = { why: "unasked", round: null };
  const over = { sealed: true, atWork: [] };
  const cut = { own, rounds: [over], known: ["s.1", "s.2"], attached: false };
  assert.deepEqual(fullIdleOf(cut), { why: "link", round: "s.2" });
  assert.deepEqual(fullIdleOf({ ...cut, attached: true }), { why: "next-round", round: "s.2" });
  assert.equal(fullIdleOf({ ...cut, rounds: [over, { sealed: true, atWork: ["g1"] }] }), undefined);
  assert.equal(fullIdleOf({ ...cut, rounds: [{ sealed: false, atWork: [] }] }), undefined);
  assert.deepEqual(fullIdleOf({ ...cut, rounds: [], known: [] }), own);
  const allowance: Idle = { why: "allowance", round: "s.2" };
  assert.deepEqual(fullIdleOf({ ...cut, own: allowance }), allowance);
  assert.equal(fullIdleOf({ ...cut, own: undefined }), undefined);
});
