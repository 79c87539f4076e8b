import assert from "node:assert/strict";
import { test } from "node:test";
import { type CycleStanding, type IdleSources, idleOf } from "./idle.js";

const nothing: IdleSources = { asking: false, attached: true, cycles: [], ended: undefined };
const cycle = (phase: CycleStanding["phase"], empty = 0): CycleStanding[] => [
  { round: "s.3", phase, empty },
];

test("a site says why it asks nobody: the newest round that it knows decides", () => {
  const away = { ...nothing, attached: false };
  const ended = { round: "s.3", offlineSiteRounds: 4 };
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
