import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  beginDetached,
  openRound,
  type RoundEffect,
  type RoundEvent,
  type RoundPartial,
  type RoundRules,
  type RoundState,
  restoreRound,
  stepRound,
} from "./round.js";

const rules: RoundRules = {
  absentGraceMs: 100,
  siteQuorum: 2,
  sitesQuorum: 2,
  totalMax: 1_000,
  keepsFailed: false,
};
const siteOf: Readonly<Record<string, string>> = { g1: "one", g2: "two", g3: "three" };
const deadlineAtMs = 10_000;

function open(over: Partial<RoundRules> = {}): RoundState {
  return openRound("s.1", { ...rules, ...over }, deadlineAtMs, {
    g1: { site: "one", roster: ["a", "b", "c"] },
    g2: { site: "two", roster: ["d", "e"] },
    g3: { site: "three", roster: ["f", "g"] },
  });
}

function partial(
  gateway: string,
  devices: string,
  samplesEach = 1,
  site = siteOf[gateway] ?? "",
): RoundPartial {
  return {
    identity: `${gateway}/i/${devices}`,
    gateway,
    sites: { [site]: devices.length },
    contributors: devices.length,
    samples: devices.length * samplesEach,
  };
}

function run(state: RoundState, events: readonly RoundEvent[]) {
  const effects: RoundEffect[] = [];
  let at = state;
  for (const event of events) {
    const step = stepRound(at, event);
    at = step.state;
    effects.push(...step.effects);
  }
  return { state: at, effects, close: effects.find((effect) => effect.kind === "close") };
}

const arrives = (of: RoundPartial, nowMs = 1): RoundEvent => ({
  kind: "partial",
  partial: of,
  nowMs,
});

test("the round closes at once when every gateway delivered or said it has nothing", () => {
  const g1 = partial("g1", "ab");
  const g2 = partial("g2", "de");
  const before = run(open(), [arrives(g1), arrives(g2)]);
  assert.equal(before.close, undefined);
  for (const kind of ["empty", "refused"] as const) {
    const { close } = run(before.state, [{ kind, gateway: "g3", nowMs: 2 }]);
    assert.deepEqual(close, {
      kind: "close",
      outcome: "committed",
      merged: [g1.identity, g2.identity],
      kept: [],
      expired: [],
    });
  }
});

test("a gateway that brings its round in several Partials is waited for until it has brought all", () => {
  const both = [arrives(partial("g1", "ab")), arrives(partial("g2", "de"))];
  const first = { ...partial("g3", "f", 1, "east"), more: true };
  assert.equal(run(open(), [...both, arrives(first)]).close, undefined);
  const second = partial("g3", "g", 1, "west");
  const { close } = run(open({ siteQuorum: 1 }), [...both, arrives(first), arrives(second)]);
  assert.equal(close?.merged.length, 4);
  // It has less than it last said: what it sealed is here already.
  const sealed = { kind: "delivered", gateway: "g3", nowMs: 1 } as const;
  assert.equal(run(open(), [...both, arrives(first), sealed]).close?.outcome, "committed");
});

test("a missing gateway is waited for until its grace ran out, if the quorum of sites is met", () => {
  const { state, effects } = run(open(), [
    arrives(partial("g1", "ab")),
    { kind: "detached", gateway: "g3", nowMs: 50 },
    arrives(partial("g2", "de"), 60),
  ]);
  assert.deepEqual(effects.at(-1), { kind: "wake", atMs: 150 });
  assert.equal(run(state, [{ kind: "tick", nowMs: 149 }]).close, undefined);
  assert.equal(run(state, [{ kind: "tick", nowMs: 150 }]).close?.outcome, "committed");
  const back = run(state, [
    { kind: "attached", gateway: "g3", nowMs: 100 },
    { kind: "tick", nowMs: 5_000 },
  ]);
  assert.equal(back.close, undefined, "attached again, it is waited for");
});

test("the grace counts from the first detachment, and only once", () => {
  const { state } = run(open(), [
    arrives(partial("g1", "ab")),
    arrives(partial("g2", "de")),
    { kind: "detached", gateway: "g3", nowMs: 50 },
    { kind: "detached", gateway: "g3", nowMs: 90 },
  ]);
  assert.equal(run(state, [{ kind: "tick", nowMs: 150 }]).close?.outcome, "committed");
});

test("absent gateways without the quorum of sites are waited for until the deadline", () => {
  const { state } = run(open(), [
    arrives(partial("g1", "ab")),
    { kind: "detached", gateway: "g2", nowMs: 5 },
    { kind: "detached", gateway: "g3", nowMs: 5 },
    { kind: "tick", nowMs: deadlineAtMs - 1 },
  ]);
  assert.equal(state.closed, undefined);
  const { close } = run(state, [{ kind: "tick", nowMs: deadlineAtMs }]);
  assert.equal(close?.outcome, "failed");
  assert.deepEqual(close?.expired, [{ identity: "g1/i/ab", rule: "sites-quorum" }]);
});

test("at the deadline the round commits with what it has", () => {
  const { close } = run(open(), [
    arrives(partial("g1", "ab")),
    arrives(partial("g2", "de")),
    { kind: "tick", nowMs: deadlineAtMs },
  ]);
  assert.equal(close?.outcome, "committed");
});

test("a site below its quorum expires under its own rule; its other gateways count towards it", () => {
  const state = openRound("s.1", { ...rules, sitesQuorum: 1 }, deadlineAtMs, {
    g1: { site: "one", roster: ["a"] },
    g2: { site: "one", roster: ["b"] },
    g3: { site: "two", roster: ["c"] },
  });
  const [g1, g2] = [partial("g1", "a"), partial("g2", "b", 1, "one")];
  const g3 = partial("g3", "c", 1, "two");
  const { close } = run(state, [arrives(g1), arrives(g3), arrives(g2)]);
  assert.deepEqual(close?.merged, [g1.identity, g2.identity]);
  assert.deepEqual(close?.expired, [{ identity: g3.identity, rule: "site-quorum" }]);
});

test("a Partial past the round's total weight is recorded as expired, never wrapped", () => {
  const { state, effects } = run(open({ totalMax: 3 }), [
    arrives(partial("g1", "ab")),
    arrives(partial("g2", "de")),
  ]);
  assert.deepEqual(
    effects.filter((effect) => effect.kind === "expired"),
    [{ kind: "expired", identity: "g2/i/de", rule: "total-overflow" }],
  );
  assert.equal(state.samples, 2);
  const { close } = run(state, [{ kind: "tick", nowMs: deadlineAtMs }]);
  assert.deepEqual(close?.expired, [
    { identity: "g2/i/de", rule: "total-overflow" },
    { identity: "g1/i/ab", rule: "sites-quorum" },
  ]);
});

test("a restored round goes on as the one that was interrupted", () => {
  const arrivals = [partial("g1", "ab"), partial("g2", "de", 600)];
  for (const totalMax of [1_000, 2_000]) {
    const before = run(open({ totalMax }), [
      ...arrivals.map((of) => arrives(of)),
      { kind: "empty", gateway: "g3", nowMs: 1 },
    ]);
    const restored = restoreRound(open({ totalMax }), arrivals, [
      { gateway: "g3", standing: "empty" },
    ]);
    assert.deepEqual(run(restored, [{ kind: "tick", nowMs: 2 }]).close, before.close);
  }
});

test("a restored round that is complete closes at its first tick, whoever is away", () => {
  const arrivals = [partial("g1", "ab"), partial("g2", "de"), partial("g3", "fg")];
  const restored = beginDetached(restoreRound(open(), arrivals, []), ["g1", "g2", "g3"], 5);
  assert.equal(restored.closed, undefined, "nothing is decided before the tick");
  const { close } = run(restored, [{ kind: "tick", nowMs: 5 }]);
  assert.equal(close?.merged.length, 3);
});

test("a stopped round expires what it holds, and takes no more", () => {
  const { state, close } = run(open(), [arrives(partial("g1", "ab")), { kind: "stop", nowMs: 2 }]);
  assert.equal(close?.outcome, "stopped");
  assert.deepEqual(close?.expired, [{ identity: "g1/i/ab", rule: "stopped" }]);
  assert.deepEqual(run(state, [arrives(partial("g2", "de"))]), {
    state,
    effects: [],
    close: undefined,
  });
});

test("a gateway that delivered is not made empty by a later word", () => {
  const { state } = run(open(), [
    arrives(partial("g1", "ab")),
    { kind: "empty", gateway: "g1", nowMs: 2 },
  ]);
  assert.equal(state.members.g1?.standing, "delivered");
});

test("words of a gateway that is no member change nothing", () => {
  for (const kind of ["empty", "refused", "attached", "detached", "gone"] as const) {
    const { state } = run(open(), [{ kind, gateway: "stranger", nowMs: 1 }]);
    assert.deepEqual(state, open());
  }
});

const gateways = ["g1", "g2", "g3"] as const;
const rosters = { g1: "abc", g2: "de", g3: "fg" };
const arbitraryEvent: fc.Arbitrary<RoundEvent> = fc.oneof(
  fc.record({ gateway: fc.constantFrom(...gateways), size: fc.integer({ min: 1, max: 3 }) }).map(
    ({ gateway, size }): RoundEvent => ({
      kind: "partial",
      partial: partial(gateway, rosters[gateway].slice(0, size), 2),
      nowMs: 0,
    }),
  ),
  fc
    .record({
      kind: fc.constantFrom("empty", "refused", "attached", "detached", "gone"),
      gateway: fc.constantFrom(...gateways),
    })
    .map(({ kind, gateway }) => ({ kind, gateway, nowMs: 0 }) as RoundEvent),
  fc.constant<RoundEvent>({ kind: "tick", nowMs: 0 }),
  fc
    .record({
      contributors: fc.integer({ min: 0, max: 6 }),
      samples: fc.integer({ min: 0, max: 40 }),
    })
    .map((kept): RoundEvent => ({ kind: "pooled", ...kept, nowMs: 0 })),
  fc.constant<RoundEvent>({ kind: "full", nowMs: 0 }),
  fc.constant<RoundEvent>({ kind: "stop", nowMs: 0 }),
);

test("a gateway that came back as another incarnation is not waited for, and may still deliver", () => {
  const g3 = partial("g3", "fg");
  const two = [arrives(partial("g1", "ab")), arrives(partial("g2", "de"))];
  const gone: RoundEvent = { kind: "gone", gateway: "g3", nowMs: 3 };
  assert.equal(run(open(), [...two, gone]).close?.outcome, "committed");
  const { state } = run(open(), [gone, arrives(g3), ...two.slice(0, 1)]);
  assert.equal(state.members.g3?.standing, "delivered");
  assert.equal(run(state, [gone]).state.members.g3?.standing, "delivered");
  assert.equal(run(state, two.slice(1)).close?.merged.length, 3);
});

test("a Partial of several sites counts for each of them, and is not taken apart", () => {
  const regional = { ...partial("g1", "abc"), sites: { one: 2, two: 2, four: 1 } };
  const { close } = run(open(), [
    arrives(regional),
    arrives(partial("g2", "d")),
    { kind: "empty", gateway: "g3", nowMs: 2 },
  ]);
  assert.equal(close?.outcome, "committed");
  assert.deepEqual(close?.merged, [regional.identity, "g2/i/d"]);
});

test("a buffered round commits as soon as it and what is kept hold enough", () => {
  const buffered = open({ bufferMin: 5, siteQuorum: 1 });
  const one = run(buffered, [arrives(partial("g1", "abc"))]);
  assert.equal(one.close, undefined);
  assert.equal(run(one.state, [arrives(partial("g2", "de"))]).close?.outcome, "committed");
  const pooled: RoundEvent = { kind: "pooled", contributors: 2, samples: 2, nowMs: 2 };
  assert.deepEqual(run(one.state, [pooled]).close?.merged, ["g1/i/abc"]);
  const full = { ...pooled, contributors: 5 };
  assert.deepEqual(run(buffered, [full]).close?.merged, [], "of what is kept alone");
});

test("a buffered round without enough ends when nobody is left to wait for, and keeps what came", () => {
  const buffered = open({ bufferMin: 5, siteQuorum: 1 });
  const empty = (gateway: string): RoundEvent => ({ kind: "empty", gateway, nowMs: 2 });
  const events = [arrives(partial("g1", "ab")), empty("g2"), empty("g3")];
  const { close } = run(buffered, events);
  assert.deepEqual([close?.outcome, close?.kept], ["short", ["g1/i/ab"]]);
  const late = run(buffered, [...events.slice(0, 2), { kind: "tick", nowMs: deadlineAtMs }]);
  assert.equal(late.close?.outcome, "short");
  const nothing = run(buffered, [empty("g1"), empty("g2"), empty("g3")]);
  assert.equal(nothing.close?.outcome, "failed");
});

test("a buffered round whose K does not fit makes its model of what fits, and loses nothing", () => {
  const buffered = open({ bufferMin: 100, siteQuorum: 1, totalMax: 10 });
  const [one, two] = [partial("g1", "ab", 3), partial("g2", "de", 3)];
  const first = run(buffered, [arrives(one)]);
  assert.equal(first.close, undefined, "6 of 10 samples: there is room for more");
  const close = run(first.state, [arrives(two)]).close;
  assert.deepEqual(
    [close?.outcome, close?.merged, close?.expired],
    ["committed", [one.identity, two.identity], []],
  );
  // What is kept on the same base takes up the room too.
  const kept = (samples: number): RoundEvent => ({
    kind: "pooled",
    contributors: 1,
    samples,
    nowMs: 2,
  });
  assert.equal(run(first.state, [kept(4)]).close, undefined);
  assert.equal(run(first.state, [kept(5)]).close?.outcome, "committed");
  assert.deepEqual(run(buffered, [kept(11)]).close?.merged, [], "of what is kept alone");
});

test("a buffered round makes its model of what there is when no more can be kept", () => {
  const buffered = open({ bufferMin: 100, siteQuorum: 1 });
  const full: RoundEvent = { kind: "full", nowMs: 2 };
  const nothing = run(buffered, [full]);
  assert.equal(nothing.close, undefined, "there is nothing to make it of");
  const one = partial("g1", "ab");
  for (const events of [
    [full, arrives(one)],
    [arrives(one), full],
  ])
    assert.deepEqual(run(buffered, events).close?.merged, [one.identity]);
});

test("a Partial that fits no model of a session that buffers expires, and is not kept for ever", () => {
  const buffered = open({ bufferMin: 100, siteQuorum: 1, totalMax: 10 });
  const [heavy, light] = [partial("g1", "ab", 6), partial("g2", "de")];
  const { close, effects } = run(buffered, [
    arrives(heavy),
    arrives(light),
    { kind: "empty", gateway: "g3", nowMs: 2 },
  ]);
  const expiry = { identity: heavy.identity, rule: "total-overflow" } as const;
  assert.deepEqual(effects[0], { kind: "expired", ...expiry });
  assert.deepEqual(
    [close?.outcome, close?.kept, close?.expired],
    ["short", [light.identity], [expiry]],
  );
});

test("a failed round keeps what it brought where the session says so", () => {
  const events = [arrives(partial("g1", "ab")), { kind: "tick", nowMs: deadlineAtMs } as const];
  const { close } = run(open({ keepsFailed: true }), events);
  assert.deepEqual([close?.outcome, close?.kept, close?.expired], ["failed", ["g1/i/ab"], []]);
});

test("any order of events gives every contribution exactly one fate", () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(arbitraryEvent, fc.integer({ min: 0, max: 200 })), { maxLength: 40 }),
      fc.record({
        siteQuorum: fc.integer({ min: 1, max: 3 }),
        sitesQuorum: fc.integer({ min: 1, max: 3 }),
        totalMax: fc.integer({ min: 4, max: 40 }),
        keepsFailed: fc.boolean(),
        bufferMin: fc.option(fc.integer({ min: 1, max: 9 }), { nil: undefined }),
      }),
      (timed, { bufferMin, ...rest }) => {
        const over = bufferMin === undefined ? rest : { ...rest, bufferMin };
        const delivered = new Set<string>();
        const fates = new Map<string, number>();
        const fate = (identity: string) => fates.set(identity, (fates.get(identity) ?? 0) + 1);
        const apply = ({ state, effects }: ReturnType<typeof stepRound>): RoundState => {
          for (const effect of effects) {
            if (effect.kind !== "close") continue;
            effect.merged.forEach(fate);
            effect.kept.forEach(fate);
            for (const { identity } of effect.expired) fate(identity);
          }
          return state;
        };
        let state = open(over);
        let nowMs = 0;
        for (const [event, passedMs] of timed) {
          nowMs += passedMs;
          if (event.kind === "partial") {
            // What comes after the close is none of the round's: the session keeps it as late.
            if (state.closed !== undefined) continue;
            // The inbox answers a repeated identity from its receipt; the machine sees it once.
            if (delivered.has(event.partial.identity)) continue;
            delivered.add(event.partial.identity);
          }
          state = apply(stepRound(state, { ...event, nowMs }));
        }
        state = apply(stepRound(state, { kind: "tick", nowMs: deadlineAtMs }));
        assert.notEqual(state.closed, undefined, "the deadline closes every round");
        assert.deepEqual([...fates.keys()].sort(), [...delivered].sort());
        assert.ok([...fates.values()].every((count) => count === 1));
      },
    ),
    { numRuns: 300 },
  );
});
