import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  type BranchEffect,
  type BranchEvent,
  type BranchOpening,
  branchCounts,
  OWN,
  openBranch,
  stepBranch,
} from "./branch.js";

const member = (name: string, received = 0) => ({ name, detached: false, received });

function opening(changes: Partial<BranchOpening> = {}): BranchOpening {
  const members = [member("g1"), member("g2"), member(OWN)];
  return { round: "s.1", finishFirst: false, members, complete: false, ...changes };
}

/** Runs events from an opening; the final state and all effects in order. */
function play(from: BranchOpening, events: readonly BranchEvent[]) {
  let { state, effects } = openBranch(from);
  const all: BranchEffect[] = [...effects];
  for (const event of events) {
    ({ state, effects } = stepBranch(state, event));
    all.push(...effects);
  }
  return { state, effects: all };
}

const sealed = (name: string, folded: number): BranchEvent => ({
  type: "progress",
  member: name,
  counts: { offered: folded + 1, folded, declined: 1 },
  sealed: true,
});
const received = (name: string, contributions: number): BranchEvent => ({
  type: "received",
  member: name,
  contributions,
});
const refused = (name: string): BranchEvent => ({ type: "refused", member: name });
const detached = (name: string): BranchEvent => ({ type: "detached", member: name });
const attached = (name: string): BranchEvent => ({ type: "attached", member: name });

const reasons = (effects: readonly BranchEffect[]) =>
  effects.flatMap((effect) => (effect.type === "complete" ? [effect.reason] : []));

describe("completing", () => {
  it("waits for what every member said it sealed", () => {
    const early = [sealed("g1", 2), received("g1", 2), sealed("g2", 3), received("g2", 2)];
    assert.deepEqual(reasons(play(opening(), [...early, sealed(OWN, 0)]).effects), []);
    const { effects, state } = play(opening(), [...early, sealed(OWN, 0), received("g2", 1)]);
    assert.deepEqual(reasons(effects), ["answered"]);
    assert.deepEqual(
      [...state.members.values()].map(({ standing }) => standing),
      ["delivered", "delivered", "empty"],
    );
  });

  it("takes a Partial that comes before the report of its sealing", () => {
    const events = [received("g1", 2), sealed("g1", 2), refused("g2"), sealed(OWN, 0)];
    assert.deepEqual(reasons(play(opening(), events).effects), ["answered"]);
  });

  it("does not take a Partial for the whole before the member has sealed", () => {
    const events = [received("g1", 2), refused("g2"), sealed(OWN, 0)];
    assert.deepEqual(reasons(play(opening(), events).effects), []);
  });

  it("counts a refused plan as empty", () => {
    const { effects } = play(opening(), [refused("g1"), refused("g2"), sealed(OWN, 0)]);
    assert.deepEqual(reasons(effects), ["answered"]);
  });

  it("does not wait past the deadline, and completes once", () => {
    const { effects } = play(opening(), [
      { type: "deadline" },
      { type: "closed" },
      { type: "deadline" },
    ]);
    assert.deepEqual(reasons(effects), ["deadline"]);
  });

  it("follows the upstream's close, unless the plan says to finish first", () => {
    assert.deepEqual(reasons(play(opening(), [{ type: "closed" }]).effects), ["closed"]);
    const { state, effects } = play(opening({ finishFirst: true }), [{ type: "closed" }]);
    assert.deepEqual(effects, []);
    assert.equal(state.complete, false);
  });

  it("of no member at all is immediate", () => {
    assert.deepEqual(reasons(play(opening({ members: [] }), []).effects), ["answered"]);
  });
});

describe("members that are detached", () => {
  const answered = [sealed("g1", 0), sealed(OWN, 0)];

  it("are waited for until their time is over", () => {
    const { effects } = play(opening(), [...answered, detached("g2")]);
    assert.deepEqual(effects.at(-1), { type: "absent", absent: true });
    assert.deepEqual(
      reasons(play(opening(), [...answered, detached("g2"), { type: "grace" }]).effects),
      ["absent"],
    );
  });

  it("that come back are waited for again", () => {
    const events = [...answered, detached("g2"), attached("g2"), { type: "grace" } as const];
    const { effects } = play(opening(), events);
    assert.deepEqual(reasons(effects), []);
    assert.deepEqual(effects.at(-1), { type: "absent", absent: false });
  });

  it("start no time while others are still at work", () => {
    const { effects } = play(opening(), [detached("g2"), { type: "grace" }]);
    assert.deepEqual(effects, []);
  });

  it("whose result is here are not missed", () => {
    const events = [sealed("g2", 1), received("g2", 1), detached("g2"), ...answered];
    assert.deepEqual(reasons(play(opening(), events).effects), ["answered"]);
  });
});

describe("what the upstream is told", () => {
  it("is the sum over the members", () => {
    const { state } = play(opening(), [sealed("g1", 2), sealed("g2", 3)]);
    assert.deepEqual(branchCounts(state), { offered: 7, folded: 5, declined: 2 });
  });

  it("is, once complete, what is durable here, and what an attached member announced", () => {
    const early = [sealed("g1", 2), received("g1", 2), sealed("g2", 3)];
    const folded = (...late: BranchEvent[]) => {
      const { state, effects } = play(opening(), [...early, { type: "deadline" }, ...late]);
      return [branchCounts(state).folded, effects.at(-1)?.type];
    };
    assert.deepEqual(folded(), [5, "report"]);
    assert.deepEqual(folded(detached("g2")), [2, "report"]);
    assert.deepEqual(folded(detached("g2"), attached("g2")), [5, "report"]);
    assert.deepEqual(folded(refused("g2")), [2, "report"]);
    assert.deepEqual(folded(received("g2", 3)), [5, "report"]);
  });

  it("grows with what comes late, which travels by itself", () => {
    const { state, effects } = play(opening(), [
      { type: "deadline" },
      sealed("g2", 3),
      received("g2", 3),
    ]);
    assert.deepEqual(effects.slice(-2), [{ type: "late" }, { type: "report" }]);
    assert.equal(branchCounts(state).folded, 3);
  });
});

it("a branch that was restored goes on from what was received", () => {
  const members = [member("g1", 2), member("g2", 0)];
  const { effects } = play(opening({ members }), [sealed("g1", 2), sealed("g2", 0)]);
  assert.deepEqual(reasons(effects), ["answered"]);
  const done = play(opening({ members, complete: true }), [sealed("g1", 2), { type: "deadline" }]);
  assert.deepEqual(reasons(done.effects), []);
});

it("a stranger changes nothing", () => {
  const { effects } = play(opening(), [sealed("gx", 1), received("gx", 1), detached("gx")]);
  assert.deepEqual(effects, []);
});

it("in any order of answers, completes exactly once, when the last one is in", () => {
  const names = ["g1", "g2", OWN];
  const answers = names.flatMap((name, i) =>
    i === 0 ? [refused(name)] : [sealed(name, i), received(name, i)],
  );
  const order = fc.shuffledSubarray(answers, { minLength: answers.length });
  const noise = fc.array(fc.constantFrom(...names.map(detached), ...names.map(attached)));
  fc.assert(
    fc.property(order, noise, (events, links) => {
      const before = play(opening(), [...links, ...events.slice(0, -1)]);
      assert.deepEqual(reasons(before.effects), []);
      const { state, effects } = play(opening(), [...links, ...events]);
      assert.deepEqual(reasons(effects), ["answered"]);
      assert.equal(branchCounts(state).folded, 3);
    }),
  );
});
