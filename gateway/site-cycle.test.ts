import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  type CycleEffect,
  type CycleEvent,
  type CycleOpening,
  type CycleState,
  openCycle,
  siteRoundsMax,
  stepCycle,
} from "./site-cycle.js";

const opening = (changes: Partial<CycleOpening> = {}): CycleOpening => ({
  siteRounds: 2,
  offlineSiteRounds: 0,
  finishFirst: false,
  attached: true,
  due: false,
  present: true,
  ...changes,
});

const text = (effect: CycleEffect): string => {
  if (effect.type === "open") return `open ${effect.number}`;
  return effect.type === "pause" ? `pause ${effect.why}` : effect.type;
};

/** The effects of an opening and of each event after it. */
function play(from: CycleOpening, ...events: CycleEvent[]): string[][] {
  let { state, effects } = openCycle(from);
  const all = [effects.map(text)];
  for (const event of events) {
    ({ state, effects } = stepCycle(state, event));
    all.push(effects.map(text));
  }
  return all;
}

const sealed = (contributors = 1, present = true): CycleEvent => ({
  type: "sealed",
  contributors,
  present,
});
const attached: CycleEvent = { type: "attached", present: true };
const detached: CycleEvent = { type: "detached" };
const due: CycleEvent = { type: "due" };
const closed: CycleEvent = { type: "closed" };
const waited: CycleEvent = { type: "waited", present: true };

describe("a cycle with its uplink", () => {
  it("runs kappa2 site rounds and hands over", () => {
    const steps = play(opening(), sealed(), sealed());
    assert.deepEqual(steps, [["open 1"], ["open 2"], ["compose"]]);
  });

  it("ends with a site round that nobody contributed to", () => {
    assert.deepEqual(play(opening({ siteRounds: 5 }), sealed(), sealed(0)).at(-1), ["compose"]);
  });

  it("cuts the running site round at the site deadline, and when the upstream closes it", () => {
    for (const event of [due, closed])
      assert.deepEqual(play(opening(), event, sealed()), [["open 1"], ["cut"], ["compose"]]);
  });

  it("is not cut short by its upstream where the plan says to finish first", () => {
    const steps = play(opening({ finishFirst: true }), closed, sealed(), due, sealed());
    assert.deepEqual(steps, [["open 1"], [], ["open 2"], ["cut"], ["compose"]]);
  });
});

describe("a cycle without its uplink", () => {
  const offline = opening({ offlineSiteRounds: 3, attached: false });

  it("goes on past kappa2 and the deadline, after a grace, until the allowance is used up", () => {
    const steps = play(offline, due, sealed(), waited, sealed(), sealed(), sealed(), sealed());
    assert.deepEqual(steps, [
      ["open 1"],
      [],
      ["pause grace"],
      ["open 2"],
      ["open 3"],
      ["open 4"],
      ["open 5"],
      ["compose"],
    ]);
  });

  it("hands over as if it were there where the plan allows no offline site rounds", () => {
    const steps = play(opening({ attached: false }), sealed(), sealed());
    assert.deepEqual(steps.at(-1), ["compose"]);
  });

  it("hands over when the uplink comes back: at once in a pause, else by a cut", () => {
    assert.deepEqual(play(offline, sealed(), sealed(), attached).at(-1), ["compose"]);
    const cutShort = play(offline, sealed(), sealed(), waited, attached, sealed(0));
    assert.deepEqual(cutShort.slice(-3), [["open 3"], ["cut"], ["compose"]]);
  });

  it("lets a running site round end where the plan says to finish first", () => {
    const patient = { ...offline, finishFirst: true };
    const steps = play(patient, sealed(), sealed(), waited, attached, sealed());
    assert.deepEqual(steps.slice(-2), [[], ["compose"]]);
  });

  it("goes on as planned when the uplink comes back in time", () => {
    const steps = play(offline, attached, sealed(), sealed());
    assert.deepEqual(steps, [["open 1"], [], ["open 2"], ["compose"]]);
  });

  it("pauses when nobody contributes, and waits without a timer when nobody is there", () => {
    const steps = play(
      offline,
      sealed(0),
      waited,
      sealed(0, false),
      { type: "connected" },
      { type: "waited", present: false },
      { type: "connected" },
      waited,
    );
    assert.deepEqual(steps, [
      ["open 1"],
      ["pause empty"],
      ["open 2"],
      [],
      ["pause empty"],
      [],
      ["pause empty"],
      ["open 3"],
    ]);
  });
});

describe("a cycle after a restart", () => {
  it("goes on in the site round that ran", () => {
    const steps = play(opening({ done: 1, number: 2, running: true }), sealed());
    assert.deepEqual(steps, [[], ["compose"]]);
  });

  it("opens the next when none ran, and waits for its uplink when enough was done", () => {
    assert.deepEqual(play(opening({ done: 1, number: 1 })), [["open 2"]]);
    const offline = opening({ done: 2, number: 2, offlineSiteRounds: 9, attached: false });
    assert.deepEqual(play(offline, attached), [["pause grace"], ["compose"]]);
  });
});

describe("any cycle", () => {
  const openings = fc.record({
    siteRounds: fc.integer({ min: 1, max: 4 }),
    offlineSiteRounds: fc.integer({ min: 0, max: 4 }),
    finishFirst: fc.boolean(),
    attached: fc.boolean(),
    due: fc.boolean(),
    present: fc.boolean(),
  });
  const weather = fc.oneof(
    fc.constantFrom<CycleEvent>(detached, due, closed, { type: "connected" }),
    fc.record({ type: fc.constant("attached" as const), present: fc.boolean() }),
  );
  const happenings = fc.array(
    fc.oneof(
      weather,
      fc.record({ type: fc.constant("answer" as const), n: fc.nat(2), present: fc.boolean() }),
    ),
    { maxLength: 60 },
  );

  /** What a driver does: seals a site round that runs, ends a pause that was asked for. */
  function drive(from: CycleOpening, happens: readonly (CycleEvent | Answer)[]) {
    let { state, effects } = openCycle(from);
    const seen = { opened: [] as number[], contributed: 0, composed: 0, idle: 0 };
    let sealedLast = false;
    const note = (state: CycleState) => {
      for (const effect of effects) {
        if (effect.type === "open") {
          assert.equal(seen.composed, 0, "a site round after the end");
          seen.opened.push(effect.number);
        }
        if (effect.type === "compose") {
          seen.composed++;
          assert.equal(state.done, seen.contributed, "a contribution is left out");
        }
        const again = effect.type === "open" && sealedLast && state.empty > 0;
        assert.ok(!again, "no pause after a site round without contributors");
      }
    };
    note(state);
    const step = (event: CycleEvent) => {
      ({ state, effects } = stepCycle(state, event));
      sealedLast = event.type === "sealed";
      note(state);
    };
    const answer = (n: number, present: boolean) => {
      if (state.phase === "running") {
        if (n > 0) seen.contributed++;
        step({ type: "sealed", contributors: n, present });
      } else if (state.phase === "paused") step({ type: "waited", present });
    };
    for (const event of happens) {
      if (event.type === "answer") answer(event.n, event.present);
      else step(event);
    }
    // In the end the uplink comes back and stays, and every site round ends.
    step({ type: "attached", present: true });
    let rest = 0;
    for (; state.phase !== "ended"; rest++) {
      assert.ok(rest <= from.siteRounds + 1, "it does not end");
      answer(1, true);
    }
    return seen;
  }
  type Answer = { readonly type: "answer"; readonly n: number; readonly present: boolean };

  it("ends once the uplink is back, hands over once, and keeps to the allowance", () => {
    fc.assert(
      fc.property(openings, happenings, (from, happens) => {
        const { opened, contributed, composed } = drive(from, happens);
        assert.equal(composed, 1);
        assert.ok(contributed <= siteRoundsMax(from));
        assert.deepEqual(
          opened,
          opened.toSorted((a, b) => a - b),
        );
        assert.equal(new Set(opened).size, opened.length);
      }),
      { numRuns: 1000 },
    );
  });
});
