import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Fleet,
  newSession,
  type SessionEffect,
  type SessionEvent,
  type SessionRules,
  type SessionState,
  stepSession,
} from "./session.js";

const rules: SessionRules = {
  rounds: 2,
  evaluateEvery: 0,
  sitesQuorum: 2,
  devicesMin: 3,
  failedRoundsMax: 3,
  pauseMs: 10,
  pauseMaxMs: 15,
  gate: { metric: "accuracy", direction: "higher", tolerance: 0.1 },
};

/** An event, or the news that the fleet has changed. */
type Happening = SessionEvent | { readonly kind: "fleet"; readonly fleet: Fleet };

function step(state: SessionState, event: Happening) {
  return stepSession("fleet" in event ? { ...state, fleet: event.fleet } : state, event);
}

const ready: Happening = { kind: "fleet", fleet: { sitesReady: 2, devices: 3 } };

function run(state: SessionState, ...events: readonly Happening[]) {
  let at = state;
  let effects: readonly SessionEffect[] = [];
  for (const event of events) ({ state: at, effects } = step(at, event));
  return { state: at, effects };
}

const session = (over: Partial<SessionRules> = {}) => newSession({ ...rules, ...over }, "s.0");
const trained = (model: string, finite = true): SessionEvent => ({
  kind: "trained",
  model,
  finite,
});

test("a session waits for its sites and its devices, then opens round 1 from the initial model", () => {
  const fewSites = run(session(), { kind: "fleet", fleet: { sitesReady: 1, devices: 9 } });
  assert.deepEqual(fewSites.effects, []);
  const fewDevices = run(session(), { kind: "fleet", fleet: { sitesReady: 2, devices: 2 } });
  assert.deepEqual(fewDevices.effects, []);
  assert.deepEqual(run(fewDevices.state, ready).effects, [
    { kind: "open", round: 1, task: "train", base: "s.0" },
  ]);
});

test("without evaluation every finite model is published, until the rounds are done", () => {
  const first = run(session(), ready, trained("s.1"));
  assert.deepEqual(first.effects, [
    { kind: "publish", model: "s.1" },
    { kind: "open", round: 2, task: "train", base: "s.1" },
  ]);
  const last = run(first.state, trained("s.2"));
  assert.deepEqual(last.effects, [{ kind: "publish", model: "s.2" }]);
  assert.deepEqual(last.state.phase, { kind: "finished" });
  assert.equal(last.state.head, "s.2");
});

test("a model that is not finite is held and the session goes on from the parent", () => {
  const { state, effects } = run(session(), ready, trained("s.1", false));
  assert.deepEqual(effects, [
    { kind: "hold", model: "s.1", reason: "not-finite" },
    { kind: "open", round: 2, task: "train", base: "s.0" },
  ]);
  assert.equal(state.head, "s.0");
});

test("an evaluated candidate is published or held by the gate, against the last evaluated one", () => {
  const evaluating = session({ evaluateEvery: 1, rounds: 9 });
  const first = run(evaluating, ready, trained("s.1"));
  assert.deepEqual(first.effects, [{ kind: "open", round: 2, task: "evaluate", base: "s.1" }]);
  const published = run(first.state, { kind: "evaluated", metrics: { accuracy: 0.8 } });
  assert.deepEqual(published.effects, [
    { kind: "publish", model: "s.1" },
    { kind: "open", round: 3, task: "train", base: "s.1" },
  ]);
  const held = run(published.state, trained("s.3"), {
    kind: "evaluated",
    metrics: { accuracy: 0.5 },
  });
  assert.deepEqual(held.effects, [
    { kind: "hold", model: "s.3", reason: "worse" },
    { kind: "open", round: 5, task: "train", base: "s.1" },
  ]);
  assert.deepEqual(held.state.baseline, { model: "s.1", value: 0.8 });
});

test("evaluation comes every n models, and after the last one", () => {
  const tasks: string[] = [];
  let state = session({ evaluateEvery: 2, rounds: 3 });
  let event: Happening = ready;
  for (let i = 0; i < 10 && state.phase.kind !== "finished"; i++) {
    const next = step(state, event);
    state = next.state;
    const open = next.effects.find((effect) => effect.kind === "open");
    if (open === undefined) break;
    tasks.push(open.task);
    event =
      open.task === "train"
        ? trained(`s.${open.round}`)
        : { kind: "evaluated", metrics: { accuracy: 0.9 } };
  }
  assert.deepEqual(tasks, ["train", "train", "evaluate", "train", "evaluate"]);
  assert.equal(state.phase.kind, "finished");
});

test("a failed round is tried again from the same base after a growing pause, then the session fails", () => {
  const failed: SessionEvent = { kind: "round-failed", reason: "sites-quorum", nowMs: 100 };
  const first = run(session(), ready, failed);
  assert.deepEqual(first.effects, [{ kind: "wake", atMs: 110 }]);
  assert.deepEqual(run(first.state, { kind: "tick", nowMs: 109 }).effects, [
    { kind: "wake", atMs: 110 },
  ]);
  const second = run(first.state, { kind: "tick", nowMs: 110 });
  assert.deepEqual(second.effects, [{ kind: "open", round: 2, task: "train", base: "s.0" }]);
  const third = run(second.state, failed);
  assert.deepEqual(third.effects, [{ kind: "wake", atMs: 115 }], "the pause is bounded");
  const over = run(third.state, { kind: "tick", nowMs: 115 }, failed);
  assert.equal(over.state.phase.kind, "failed");
  const again = run(over.state, { kind: "resume" });
  assert.deepEqual(again.effects, [{ kind: "open", round: 4, task: "train", base: "s.0" }]);
  assert.equal(again.state.failedRounds, 0);
});

test("a success between failures starts the count anew", () => {
  const failed: SessionEvent = { kind: "round-failed", reason: "sites-quorum", nowMs: 100 };
  const { state } = run(
    session({ rounds: 5 }),
    ready,
    failed,
    { kind: "tick", nowMs: 200 },
    trained("s.2"),
  );
  assert.equal(state.failedRounds, 0);
});

test("a failed evaluation is repeated, never skipped", () => {
  const failed: SessionEvent = { kind: "round-failed", reason: "sites-quorum", nowMs: 0 };
  const { effects } = run(session({ evaluateEvery: 1 }), ready, trained("s.1"), failed, {
    kind: "tick",
    nowMs: 50,
  });
  assert.deepEqual(effects, [{ kind: "open", round: 3, task: "evaluate", base: "s.1" }]);
});

test("stop ends the open round first; resume goes on with the next number", () => {
  const stopping = run(session(), ready, { kind: "stop" });
  assert.deepEqual(stopping.effects, [{ kind: "stop-round", round: 1 }]);
  const stopped = run(stopping.state, { kind: "round-stopped" });
  assert.deepEqual(stopped.state.phase, { kind: "stopped" });
  assert.deepEqual(run(stopped.state, ready).effects, [], "a stopped session opens nothing");
  assert.deepEqual(run(stopped.state, { kind: "resume" }).effects, [
    { kind: "open", round: 2, task: "train", base: "s.0" },
  ]);
});

test("stop during the last step of a round keeps the model it made", () => {
  const { state, effects } = run(session(), ready, { kind: "stop" }, trained("s.1"));
  assert.deepEqual(effects, [{ kind: "publish", model: "s.1" }]);
  assert.deepEqual(state.phase, { kind: "stopped" });
  assert.equal(state.head, "s.1");
});

test("activation moves the head, holds the pending candidate and stops the open round", () => {
  const pending = run(session({ evaluateEvery: 1 }), ready, trained("s.1"));
  const { state, effects } = run(pending.state, {
    kind: "activate",
    model: "s.0",
    baseline: { model: "s.0", value: 0.4 },
  });
  assert.deepEqual(effects, [
    { kind: "hold", model: "s.1", reason: "superseded" },
    { kind: "publish", model: "s.0" },
    { kind: "stop-round", round: 2 },
  ]);
  assert.deepEqual(state.baseline, { model: "s.0", value: 0.4 });
  assert.deepEqual(run(state, { kind: "round-stopped" }).effects, [
    { kind: "open", round: 3, task: "train", base: "s.0" },
  ]);
});

test("activation without an evaluation leaves nothing to compare with", () => {
  const evaluated = run(session({ evaluateEvery: 1, rounds: 9 }), ready, trained("s.1"), {
    kind: "evaluated",
    metrics: { accuracy: 0.9 },
  });
  const { state } = run(evaluated.state, { kind: "activate", model: "s.0" });
  assert.equal(state.baseline, undefined);
});

const arbitraryEvent: fc.Arbitrary<Happening> = fc.oneof(
  fc
    .record({ sitesReady: fc.integer({ min: 0, max: 3 }), devices: fc.integer({ min: 0, max: 5 }) })
    .map((fleet): Happening => ({ kind: "fleet", fleet })),
  fc.constantFrom<SessionEvent>({ kind: "stop" }, { kind: "resume" }),
  fc.integer({ min: 0, max: 100 }).map((nowMs): SessionEvent => ({ kind: "tick", nowMs })),
  fc.constant<SessionEvent>({ kind: "activate", model: "s.0" }),
);
const arbitraryEnd = fc.constantFrom("model", "failed", "stopped");

test("round numbers are never reused, one round is open at a time, and models are decided once", () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(arbitraryEvent, arbitraryEnd), { maxLength: 60 }),
      fc.integer({ min: 0, max: 3 }),
      (steps, evaluateEvery) => {
        let state = session({ evaluateEvery, rounds: 4 });
        let open: Extract<SessionEffect, { kind: "open" }> | undefined;
        let lastRound = 0;
        const decided = new Map<string, number>();
        const apply = (event: Happening) => {
          const next = step(state, event);
          state = next.state;
          for (const effect of next.effects) {
            if (effect.kind === "open") {
              assert.equal(open, undefined, "a second round while one is open");
              assert.ok(effect.round > lastRound);
              lastRound = effect.round;
              open = effect;
            }
            if (effect.kind === "hold" || (effect.kind === "publish" && effect.model !== "s.0"))
              decided.set(effect.model, (decided.get(effect.model) ?? 0) + 1);
          }
        };
        for (const happening of steps) {
          if (typeof happening !== "string") {
            apply(happening);
            continue;
          }
          if (open === undefined) continue;
          const { round, task } = open;
          open = undefined;
          if (happening === "failed") apply({ kind: "round-failed", reason: "x", nowMs: 0 });
          else if (happening === "stopped") apply({ kind: "round-stopped" });
          else if (task === "train") apply(trained(`s.${round}`));
          else apply({ kind: "evaluated", metrics: { accuracy: 0.5 } });
        }
        assert.ok([...decided.values()].every((count) => count === 1));
        assert.ok(state.made <= 4);
      },
    ),
    { numRuns: 300 },
  );
});
