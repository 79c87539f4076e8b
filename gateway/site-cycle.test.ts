import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  type CycleEffect,
  type CycleEvent,
  type CycleOpening,
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
  if (effect.type === "compose" && effect.last) return "compose last";
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
const detached: CycleEvent = { type: "detached", present: true };
const due: CycleEvent = { type: "due" };
const closed: CycleEvent = { type: "closed", present: true };
const over: CycleEvent = { type: "over" };
const waited: CycleEvent = { type: "waited", present: true };

describe("a cycle with its uplink", () => {
  it("runs kappa2 site rounds and hands over", () => {
    const steps = play(opening(), sealed(), sealed());
    assert.deepEqual(steps, [["open 1"], ["open 2"], ["compose last"]]);
  });

  it("ends with a site round that nobody contributed to", () => {
    assert.deepEqual(play(opening({ siteRounds: 5 }), sealed(), sealed(0)).at(-1), [
      "compose last",
    ]);
  });

  it("cuts the running site round at the site deadline, and when the upstream closes it", () => {
    for (const event of [due, closed])
      assert.deepEqual(play(opening(), event, sealed()), [["open 1"], ["cut"], ["compose last"]]);
  });

  it("is not cut short by its upstream where the plan says to finish first", () => {
    const steps = play(opening({ finishFirst: true }), closed, sealed(), due, sealed());
    assert.deepEqual(steps, [["open 1"], [], ["open 2"], ["cut"], ["compose last"]]);
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
      ["compose last"],
    ]);
  });

  it("hands over as if it were there where the plan allows no offline site rounds", () => {
    const steps = play(opening({ attached: false }), sealed(), sealed());
    assert.deepEqual(steps.at(-1), ["compose last"]);
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

describe("a cycle that has handed over", () => {
  const plan = opening({ siteRounds: 1, offlineSiteRounds: 3 });
  const handed = [sealed()];

  it("waits, and begins a further stretch once the uplink is away for longer than a grace", () => {
    const steps = play(plan, ...handed, closed, detached, waited, sealed(), sealed());
    assert.deepEqual(steps, [
      ["open 1"],
      ["compose"],
      [],
      ["pause grace"],
      ["open 2"],
      ["open 3"],
      ["open 4"],
    ]);
  });

  it("does not train because its uplink reconnects", () => {
    const steps = play(plan, ...handed, detached, attached, waited, detached);
    assert.deepEqual(steps.slice(2), [["pause grace"], [], [], ["pause grace"]]);
  });

  it("hands the further stretch over when the uplink is back, and begins another", () => {
    const cutOff = [detached, waited, sealed()];
    const steps = play(plan, ...handed, ...cutOff, attached, sealed(0), detached, waited, sealed());
    assert.deepEqual(steps.slice(4), [
      ["open 3"],
      ["cut"],
      ["compose"],
      ["pause grace"],
      ["open 4"],
      ["open 5"],
    ]);
  });

  it("lets the running site round end where the plan says to finish first", () => {
    const patient = { ...plan, finishFirst: true };
    const steps = play(patient, ...handed, detached, waited, over, attached, sealed());
    assert.deepEqual(steps.slice(4), [[], [], ["compose last"]]);
  });

  it("says nothing of a further stretch that nobody contributed to", () => {
    const steps = play(plan, ...handed, detached, waited, attached, sealed(0));
    assert.deepEqual(steps.slice(4), [["cut"], []]);
  });

  it("ends with its allowance", () => {
    const three = [sealed(), sealed(), sealed()];
    assert.deepEqual(play(plan, ...handed, detached, waited, ...three, attached).slice(6), [
      ["compose last"],
      [],
    ]);
  });

  it("ends when the session goes on: at once, or with the site round that runs", () => {
    assert.deepEqual(play(plan, ...handed, over, detached).slice(2), [["end"], []]);
    assert.deepEqual(play(plan, ...handed, detached, waited, over, sealed()).slice(4), [
      ["cut"],
      ["compose last"],
    ]);
    // Nothing follows the first stretch, either.
    assert.deepEqual(play(plan, over, sealed(), detached), [
      ["open 1"],
      ["cut"],
      ["compose last"],
      [],
    ]);
  });

  it("waits for its devices, too", () => {
    const gone: CycleEvent = { type: "detached", present: false };
    const steps = play(plan, ...handed, gone, { type: "connected" }, waited);
    assert.deepEqual(steps.slice(2), [[], ["pause grace"], ["open 2"]]);
  });

  it("goes on after a restart as it was", () => {
    const again = { ...plan, done: 1, handed: 1, number: 1 };
    assert.deepEqual(play({ ...again, attached: false }, attached, detached, waited), [
      ["pause grace"],
      [],
      ["pause grace"],
      ["open 2"],
    ]);
    const stretch = { ...plan, done: 2, handed: 1, number: 3 };
    assert.deepEqual(play({ ...stretch, running: true }, attached, sealed()), [
      [],
      ["cut"],
      ["compose"],
    ]);
    assert.deepEqual(play({ ...plan, done: 4, handed: 4, number: 4 }), [["end"]]);
  });
});

describe("a cycle after a restart", () => {
  it("goes on in the site round that ran", () => {
    const steps = play(opening({ done: 1, number: 2, running: true }), sealed());
    assert.deepEqual(steps, [[], ["compose last"]]);
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
  type Answer = { readonly type: "answer"; readonly n: number; readonly present: boolean };
  type Restart = { readonly type: "restart"; readonly present: boolean };
  const withPresent = (type: "attached" | "detached" | "closed" | "restart") =>
    fc.record({ type: fc.constant(type), present: fc.boolean() });
  const happenings = fc.array(
    fc.oneof(
      fc.constantFrom<CycleEvent>(due, over, { type: "connected" }),
      withPresent("attached"),
      withPresent("detached"),
      withPresent("closed"),
      withPresent("restart"),
      {
        weight: 4,
        arbitrary: fc.record({
          type: fc.constant("answer" as const),
          n: fc.nat(2),
          present: fc.boolean(),
        }),
      },
    ),
    { maxLength: 80 },
  ) as fc.Arbitrary<(CycleEvent | Answer | Restart)[]>;

  /**
   * What a driver does: seals a site round that runs, ends a pause that was asked for, and hands
   * over at once. A restart knows what is durable.
   */
  function drive(from: CycleOpening, happens: readonly (CycleEvent | Answer | Restart)[]) {
    let { state, effects } = openCycle(from);
    const seen = {
      opened: [] as number[],
      contributed: 0,
      handed: undefined as number | undefined,
    };
    let ended = false;
    let sealedLast = false;
    const note = () => {
      for (const effect of effects) {
        if (effect.type === "open") {
          assert.ok(!ended, "a site round after the end");
          seen.opened.push(effect.number);
        }
        if (effect.type === "compose") {
          assert.equal(effect.done, seen.contributed, "a contribution is left out");
          assert.equal(effect.number, seen.opened.at(-1) ?? from.number ?? 0);
          assert.notEqual(effect.done, seen.handed, "a stretch is handed over twice");
          seen.handed = effect.done;
        }
        if (effect.type === "end") assert.equal(seen.handed, seen.contributed);
        if (effect.type === "end" || (effect.type === "compose" && effect.last)) {
          assert.ok(!ended, "it ends twice");
          ended = true;
        }
        const again = effect.type === "open" && sealedLast && state.empty > 0;
        assert.ok(!again, "no pause after a site round without contributors");
      }
      if (state.phase === "handed") assert.equal(seen.handed, seen.contributed, "work lies idle");
      assert.equal(state.phase === "ended", ended);
    };
    note();
    const step = (event: CycleEvent) => {
      ({ state, effects } = stepCycle(state, event));
      sealedLast = event.type === "sealed";
      note();
    };
    const answer = (n: number, present: boolean) => {
      if (state.phase === "running") {
        if (n > 0) seen.contributed++;
        step({ type: "sealed", contributors: n, present });
      } else if (state.phase === "paused") step({ type: "waited", present });
    };
    const restart = (present: boolean) => {
      const { phase, number, done, handed, due } = state;
      const running = phase === "running";
      const known = { number, done, handed, due, running, attached: false, present };
      ({ state, effects } = openCycle({ ...from, ...known }));
      sealedLast = false;
      note();
    };
    for (const event of happens) {
      if (event.type === "answer") answer(event.n, event.present);
      else if (event.type === "restart") {
        if (!ended) restart(event.present);
      } else step(event);
    }
    // In the end the uplink comes back and stays, and every site round ends.
    step({ type: "attached", present: true });
    for (let rest = 0; state.phase !== "ended" && state.phase !== "handed"; rest++) {
      assert.ok(rest <= from.siteRounds + 1, "it does not end");
      answer(1, true);
    }
    step(over);
    assert.ok(ended, "it outlives its session");
    return seen;
  }

  it("hands over what there is once the uplink is back, nothing twice, within its allowance", () => {
    fc.assert(
      fc.property(openings, happenings, (from, happens) => {
        const { opened, contributed, handed } = drive(from, happens);
        assert.equal(handed, contributed);
        assert.ok(contributed <= siteRoundsMax(from));
        assert.deepEqual(
          opened,
          opened.toSorted((a, b) => a - b),
        );
        assert.equal(new Set(opened).size, opened.length);
      }),
      { numRuns: 2000 },
    );
  });
});
