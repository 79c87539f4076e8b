import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  countRound,
  openRound,
  type RoundEffect,
  type RoundEvent,
  type RoundOpening,
  type RoundState,
  stepRound,
} from "./round.js";

const names = (count: number) => Array.from({ length: count }, (_, i) => `d${i}`);

function opening(changes: Partial<RoundOpening> = {}): RoundOpening {
  const order = changes.order ?? names(4);
  return { round: "s.1", order, fraction: 1, overSelection: 0, present: order, ...changes };
}

/** Runs events from an opening; the final state and all effects in order. */
function play(from: RoundOpening, events: readonly RoundEvent[]) {
  let { state, effects } = openRound(from);
  let all: RoundEffect[] = [...effects];
  for (const event of events) {
    ({ state, effects } = stepRound(state, event));
    all = [...all, ...effects];
  }
  return { state, effects: all };
}

const offersIn = (effects: readonly RoundEffect[]) =>
  effects.flatMap((e) => (e.type === "offer" ? [e.device] : []));
const sealsIn = (effects: readonly RoundEffect[]) =>
  effects.flatMap((e) => (e.type === "seal" ? [e.reason] : []));
const folded = (device: string): RoundEvent => ({ type: "folded", device });
const declined = (device: string): RoundEvent => ({ type: "declined", device });

describe("opening", () => {
  it("offers to the whole connected roster when all is wanted", () => {
    const { state, effects } = play(opening(), []);
    assert.deepEqual(offersIn(effects), names(4));
    assert.equal(state.phase, "open");
  });

  it("asks for a share and a reserve, in the given order", () => {
    const order = names(10);
    const { state, effects } = play(opening({ order, fraction: 0.5, overSelection: 0.4 }), []);
    assert.equal(state.wanted, 5);
    assert.deepEqual(offersIn(effects), order.slice(0, 7));
  });

  it("of an empty roster seals at once", () => {
    assert.deepEqual(sealsIn(play(opening({ order: [] }), []).effects), ["enough"]);
  });

  it("passes over devices that are not of the roster", () => {
    const { effects } = play(opening({ order: ["d0"], present: ["d0", "stranger"] }), [
      { type: "connected", device: "stranger" },
    ]);
    assert.deepEqual(offersIn(effects), ["d0"]);
  });
});

describe("sealing", () => {
  it("follows as soon as enough have folded", () => {
    const { state, effects } = play(opening({ fraction: 0.5, overSelection: 1 }), [
      folded("d0"),
      folded("d1"),
    ]);
    assert.deepEqual(sealsIn(effects), ["enough"]);
    assert.equal(state.phase, "sealing");
  });

  it("follows when every offered device has answered", () => {
    const { effects } = play(opening(), [
      folded("d0"),
      declined("d1"),
      declined("d2"),
      declined("d3"),
    ]);
    assert.deepEqual(sealsIn(effects), ["answered"]);
  });

  it("waits for an offered device that has gone away, until the deadline", () => {
    const events: RoundEvent[] = [
      folded("d0"),
      { type: "disconnected", device: "d1" },
      { type: "grace" },
    ];
    const from = opening({ order: names(2) });
    assert.deepEqual(sealsIn(play(from, events).effects), []);
    assert.deepEqual(sealsIn(play(from, [...events, { type: "deadline" }]).effects), ["deadline"]);
  });

  it("waits a grace for roster devices that have not shown up", () => {
    const from = opening({ order: names(2), present: ["d0"] });
    assert.deepEqual(sealsIn(play(from, [folded("d0")]).effects), []);
    assert.deepEqual(sealsIn(play(from, [folded("d0"), { type: "grace" }]).effects), ["answered"]);
    const late = play(from, [folded("d0"), { type: "connected", device: "d1" }, folded("d1")]);
    assert.deepEqual(offersIn(late.effects), ["d0", "d1"]);
    assert.deepEqual(sealsIn(late.effects), ["enough"]);
  });

  it("dismisses, once done, those still at work, and nobody else", () => {
    const { effects } = play(opening(), [
      folded("d0"),
      declined("d1"),
      { type: "disconnected", device: "d2" },
      { type: "deadline" },
      { type: "sealed" },
      { type: "connected", device: "d2" },
      { type: "connected", device: "d0" },
    ]);
    const dismissed = effects.flatMap((e) => (e.type === "dismiss" ? [e.device] : []));
    assert.deepEqual(dismissed, ["d3", "d2"]);
  });

  it("still counts an update that was on its way through the journal", () => {
    const { state } = play(opening(), [folded("d0"), { type: "closed" }, folded("d1")]);
    assert.deepEqual(countRound(state), { offered: 4, folded: 2, declined: 0 });
  });
});

describe("replacing", () => {
  it("asks the next device when one declines or goes away", () => {
    const from = opening({ order: names(4), fraction: 0.5 });
    const { effects } = play(from, [declined("d0"), { type: "disconnected", device: "d1" }]);
    assert.deepEqual(offersIn(effects), ["d0", "d1", "d2", "d3"]);
  });

  it("offers again to a device that comes back without having answered", () => {
    const away: RoundEvent[] = [
      { type: "disconnected", device: "d0" },
      { type: "connected", device: "d0" },
    ];
    const order = names(2);
    assert.deepEqual(offersIn(play(opening({ order }), away).effects), ["d0", "d1", "d0"]);
    const answeredBefore = play(opening({ order }), [folded("d0"), ...away]);
    assert.deepEqual(offersIn(answeredBefore.effects), ["d0", "d1"]);
  });
});

describe("a restart", () => {
  it("waits for those who were asked, and does not ask contributors again", () => {
    const from = opening({
      order: names(3),
      present: [],
      asks: [
        ["d0", "folded"],
        ["d1", "offered"],
        ["d2", "declined"],
      ],
    });
    const back: RoundEvent[] = names(3).map((device) => ({ type: "connected", device }));
    const { state, effects } = play(from, [{ type: "grace" }, ...back]);
    assert.deepEqual(offersIn(effects), ["d1"]);
    assert.equal(state.phase, "open");
    assert.deepEqual(sealsIn(play(from, [...back, folded("d1")]).effects), ["answered"]);
  });

  it("with enough folded seals at once", () => {
    const from = opening({ order: names(1), present: [], asks: [["d0", "folded"]] });
    assert.deepEqual(sealsIn(play(from, []).effects), ["enough"]);
  });
});

const deviceEvents = ["connected", "disconnected", "declined", "folded"] as const;
const plainEvents = ["grace", "deadline", "closed", "sealed"] as const;
const event: fc.Arbitrary<RoundEvent> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      type: fc.constantFrom(...deviceEvents),
      device: fc.constantFrom(...names(8)),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constantFrom(...plainEvents) }) },
);
const anyOpening: fc.Arbitrary<RoundOpening> = fc
  .record({
    size: fc.nat(7),
    fraction: fc.double({ min: 0.01, max: 1, noNaN: true }),
    overSelection: fc.double({ min: 0, max: 2, noNaN: true }),
    present: fc.subarray(names(8)),
  })
  .map(({ size, ...rest }) => ({ round: "s.1", order: names(size), ...rest }));

describe("any sequence of events", () => {
  const everywhere = (
    check: (
      before: RoundState,
      e: RoundEvent,
      effects: readonly RoundEffect[],
      after: RoundState,
    ) => void,
  ) =>
    fc.assert(
      fc.property(anyOpening, fc.array(event, { maxLength: 60 }), (from, events) => {
        let { state } = openRound(from);
        for (const e of events) {
          const before = state;
          const frozen = JSON.stringify([...before.asks, ...before.present, before.phase]);
          const step = stepRound(before, e);
          assert.equal(JSON.stringify([...before.asks, ...before.present, before.phase]), frozen);
          check(before, e, step.effects, step.state);
          state = step.state;
        }
      }),
    );

  it("seals at most once, offers only while open, and only to connected roster devices", () => {
    everywhere((before, _, effects, after) => {
      const seals = sealsIn(effects).length;
      assert.ok(seals <= 1);
      if (before.phase !== "open") {
        assert.equal(seals, 0);
        assert.deepEqual(offersIn(effects), []);
        assert.notEqual(after.phase, "open");
      }
      for (const device of offersIn(effects)) {
        assert.ok(after.order.includes(device) && after.present.has(device));
        assert.equal(after.asks.get(device), "offered");
      }
    });
  });

  it("never leaves an open round with nothing to wait for", () => {
    everywhere((_, __, ___, after) => {
      if (after.phase !== "open") return;
      const { folded: done } = countRound(after);
      assert.ok(done < after.wanted);
      const outstanding = [...after.asks.values()].some((ask) => ask === "offered");
      const missing = after.order.some((d) => !after.asks.has(d) && !after.present.has(d));
      assert.ok(outstanding || (missing && !after.graceOver));
    });
  });

  it("does not forget a contributor", () => {
    everywhere((before, _, __, after) => {
      for (const [device, ask] of before.asks) {
        if (ask === "folded") assert.equal(after.asks.get(device), "folded");
      }
    });
  });
});
