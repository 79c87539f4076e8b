import assert from "node:assert/strict";
import { test } from "node:test";
import { codes } from "@tributary/proto/wire/codes.js";
import fc from "fast-check";
import { limits } from "./limits.js";
import { type Effect, type Input, initialState, roundOf, type State, step } from "./round.js";
import { sampleModel, sampleTask, sampleUpdate } from "./testing/sample.js";

const base = sampleModel("s.0");
const digest = base.manifest.digest;
const task = (number: number) => sampleTask(`s.${number}`, base);
const update = (number: number) => sampleUpdate(task(number), base);

/** Runs inputs from a state; effects are those of the last input, without reports. */
function run(inputs: readonly Input[], from: State = initialState, nowMs = 0) {
  let state = from;
  let effects: readonly Effect[] = [];
  for (const input of inputs) ({ state, effects } = step(state, input, nowMs));
  const shown = effects.filter((effect) => effect.do !== "report");
  return { state, effects: shown, did: shown.map((effect) => effect.do) };
}

const up: Input = { on: "link-up" };
const offer = (number: number): Input => ({ on: "offer", task: task(number) });
const fetched: Input = { on: "fetched", digest };
const trained = (number: number): Input => ({ on: "trained", update: update(number) });
const kept = (number: number): Input => ({ on: "kept", round: `s.${number}` });
const grant = (number: number, offset = 0): Input => ({
  on: "grant",
  round: `s.${number}`,
  offset,
  windowBytes: 1024,
});
const receipt = (number: number): Input => ({
  on: "receipt",
  round: `s.${number}`,
  digest: update(number).begin.digest,
});
const closed = (number: number): Input => ({ on: "closed", round: `s.${number}` });
const refusal = (number: number, code: keyof typeof codes, more: object = {}): Input => ({
  on: "refusal",
  about: "begin",
  round: `s.${number}`,
  code,
  message: "",
  ...more,
});
const sending = (number: number) => [up, offer(number), fetched, trained(number), kept(number)];

test("a round runs from offer to receipt, and the slot is dropped on the receipt only", () => {
  assert.deepEqual(run([up, offer(1)]).did, ["set-deadline", "fetch"]);
  assert.deepEqual(run([up, offer(1), fetched]).did, ["train"]);
  assert.deepEqual(run([up, offer(1), fetched, trained(1)]).did, ["clear-deadline", "keep"]);
  assert.deepEqual(run(sending(1)).did, ["stop-chunks", "send-begin", "wait"]);
  assert.deepEqual(run([...sending(1), grant(1)]).did, ["stop-chunks", "send-chunks", "wait"]);
  const awaiting = run([...sending(1), grant(1), { on: "sent", round: "s.1" }]);
  assert.deepEqual(awaiting.did, ["wait"]);
  const done = run([receipt(1)], awaiting.state);
  assert.deepEqual(done.did, ["stop-chunks", "stop-waiting", "drop"]);
  assert.equal(done.state.phase.at, "idle");
});

test("nothing is sent before the slot is written", () => {
  for (const inputs of [
    [up, offer(1), fetched, trained(1)],
    [up, offer(1), fetched, trained(1), up],
    [up, offer(1), fetched, trained(1), grant(1)],
  ])
    assert.equal(run(inputs).did.includes("send-begin"), false);
});

test("a receipt with another digest, or for another round, is no receipt", () => {
  const { state } = run([...sending(1), grant(1)]);
  const other: Input = { on: "receipt", round: "s.1", digest: "0".repeat(64) };
  assert.equal(run([other], state).state, state);
  assert.equal(run([receipt(2)], state).state, state);
});

test("after a break the update is begun again as soon as the link is up", () => {
  const down = run([...sending(1), grant(1), { on: "link-down" }]);
  assert.deepEqual(down.did, ["stop-chunks", "stop-waiting"]);
  assert.deepEqual(run([up], down.state).did, ["stop-chunks", "send-begin", "wait"]);
});

test("a restored update goes first; the offer that came meanwhile is taken up after it", () => {
  const { state, effects } = run([{ on: "restored", update: update(1) }, up]);
  assert.ok(effects.some((effect) => effect.do === "send-begin"));
  const waiting = run([offer(2)], state);
  assert.deepEqual(waiting.did, []);
  const next = run([receipt(1)], waiting.state);
  assert.ok(next.did.includes("fetch"));
  assert.equal(roundOf(next.state.phase), "s.2");
});

test("doubt begins again, with a growing attempt", () => {
  const again = run([...sending(1), { on: "waited" }, { on: "waited" }]);
  const wait = again.effects.find((effect) => effect.do === "wait");
  assert.ok(wait?.do === "wait" && wait.attempt === 2 && wait.why === "doubt");
  assert.ok(again.did.includes("send-begin"));
});

test("a retryable refusal waits as long as it says, keeps the update and begins again", () => {
  const refused = run([...sending(1), refusal(1, "busy", { retryAfterMs: 777 })]);
  assert.deepEqual(refused.did, ["stop-chunks", "wait"]);
  const wait = refused.effects.find((effect) => effect.do === "wait");
  assert.ok(wait?.do === "wait" && wait.why === "backoff" && wait.atLeastMs === 777);
  const begun = run([{ on: "waited" }], refused.state);
  assert.ok(begun.did.includes("send-begin"));
  const second = run([refusal(1, "busy")], begun.state).effects.find((e) => e.do === "wait");
  assert.ok(second?.do === "wait" && second.attempt === 1);
});

test("an upload refused at its end backs off further each time", () => {
  let { state } = run(sending(1));
  const attempts: number[] = [];
  for (let i = 0; i < 3; i++) {
    const refused = run(
      [grant(1), { on: "sent", round: "s.1" }, refusal(1, "digest-mismatch", { about: "chunk" })],
      state,
    );
    const wait = refused.effects.find((effect) => effect.do === "wait");
    if (wait?.do === "wait") attempts.push(wait.attempt);
    state = run([{ on: "waited" }], refused.state).state;
  }
  assert.deepEqual(attempts, [0, 1, 2]);
});

test("a non-retryable refusal drops the update and frees the device", () => {
  for (const [code, { retryable }] of Object.entries(codes)) {
    const { did, state } = run([...sending(1), refusal(1, code as keyof typeof codes)]);
    assert.equal(did.includes("drop"), !retryable, code);
    assert.equal(state.phase.at === "idle", !retryable, code);
  }
});

test("chunks out of order restart once from the expected offset, then begin again", () => {
  const out = (expectedOffset: number) =>
    refusal(1, "chunk-out-of-order", { about: "chunk", expectedOffset });
  const once = run([...sending(1), grant(1), out(8)]);
  const chunks = once.effects.find((effect) => effect.do === "send-chunks");
  assert.ok(chunks?.do === "send-chunks" && chunks.offset === 8 && chunks.windowBytes === 1024);
  const echo = run([out(8)], once.state);
  assert.equal(echo.state, once.state);
  assert.deepEqual(run([out(16)], echo.state).did, ["stop-chunks", "wait"]);
});

test("what belongs to no task under way changes nothing", () => {
  const training = run([up, offer(1), fetched]).state;
  const strays: readonly Input[] = [
    trained(2),
    { on: "train-failed", round: "s.2", code: "train-failed", message: "" },
    fetched,
    { on: "fetch-failed", digest, code: "bad-offset", message: "" },
    kept(1),
    grant(1),
    receipt(1),
    refusal(1, "conflict"),
    { on: "waited" },
  ];
  for (const stray of strays) assert.equal(run([stray], training).state, training, stray.on);
  const offline = run([...sending(1), { on: "link-down" }]).state;
  for (const stray of [grant(1), receipt(1), refusal(1, "conflict"), { on: "waited" } as const])
    assert.equal(run([stray], offline).state, offline, stray.on);
  const begun = run(sending(1)).state;
  for (const stray of [
    grant(2),
    grant(1, 10_000),
    refusal(2, "conflict"),
    refusal(1, "conflict", { about: "decline" }),
    refusal(1, "not-granted", { about: "chunk" }),
  ])
    assert.equal(run([stray], begun).state, begun, stray.on);
});

test("closed stops what is under way for that round, whatever it is", () => {
  assert.deepEqual(run([up, offer(1), closed(1)]).did, ["abort-fetch", "clear-deadline"]);
  const training = run([up, offer(1), fetched, closed(1)]);
  assert.deepEqual(training.did, ["clear-deadline", "abort-training"]);
  assert.equal(training.state.phase.at, "stopping");
  assert.ok(run([...sending(1), closed(1)]).did.includes("drop"));
  const keeping = run([up, offer(1), fetched, trained(1), closed(1)]);
  assert.deepEqual(keeping.did, []);
  assert.deepEqual(run([kept(1)], keeping.state).did, ["drop"]);
});

test("after an abort the next task waits until the trainer has come back", () => {
  const { state } = run([up, offer(1), fetched, closed(1), offer(2)]);
  assert.equal(state.phase.at, "stopping");
  for (const back of [
    trained(1),
    { on: "train-failed", round: "s.1", code: "train-failed", message: "" } as const,
  ]) {
    const after = run([back], state);
    assert.equal(roundOf(after.state.phase), "s.2");
    assert.equal(after.did.includes("keep"), false);
  }
});

test("a later round of the same session supersedes the one in training; another session waits", () => {
  const training = run([up, offer(1), fetched]).state;
  assert.ok(run([offer(2)], training).did.includes("abort-training"));
  const other = run([{ on: "offer", task: sampleTask("t.9", base) }], training);
  assert.equal(other.state.phase, training.phase);
  assert.equal(other.state.next?.plan.round, "t.9");
});

test("a site round is a round of its session: a later one supersedes it, as does the cloud's next", () => {
  const site = (number: number, k: number): Input => ({
    on: "offer",
    task: sampleTask(`s.${number}.${k}`, base, { session: "s" }),
  });
  const training = run([up, site(1, 2), fetched]).state;
  for (const later of [site(1, 3), site(1, 10), site(2, 1), offer(2)])
    assert.ok(run([later], training).did.includes("abort-training"));
  for (const earlier of [site(1, 1), offer(1)])
    assert.equal(run([earlier], training).state.phase, training.phase);
});

test("a site model does not take the place of the cloud's last one, with which the device answers", () => {
  const site = sampleModel("s.1.2");
  const goodOf = (round: string, from: typeof base) =>
    run([up, { on: "offer", task: sampleTask(round, from, { session: "s" }) }]).effects.flatMap(
      (effect) => (effect.do === "fetch" ? [effect.good] : []),
    );
  assert.deepEqual(goodOf("s.1.3", site), [false]);
  assert.deepEqual(goodOf("s.1.1", base), [true]);
  assert.deepEqual(goodOf("s.1", base), [true]);
});

test("an offer is taken once; one that was declined is declined again", () => {
  const done = run([...sending(1), receipt(1)]).state;
  assert.deepEqual(run([offer(1)], done).did, []);
  const failed = run([
    up,
    offer(1),
    fetched,
    { on: "train-failed", round: "s.1", code: "train-failed", message: "no data" },
  ]);
  assert.deepEqual(failed.did, ["clear-deadline", "decline"]);
  assert.deepEqual(run([offer(1)], failed.state).did, ["decline"]);
});

test("the deadline ends fetching and training, never an update that is held", () => {
  assert.deepEqual(run([up, offer(1), { on: "deadline" }]).did, ["abort-fetch", "decline"]);
  const training = run([up, offer(1), fetched, { on: "deadline" }]);
  assert.deepEqual(training.did, ["clear-deadline", "abort-training", "decline"]);
  const held = run(sending(1)).state;
  assert.equal(run([{ on: "deadline" }], held).state, held);
});

test("an offer whose deadline passed while it waited is declined, and the next thing is taken up", () => {
  const { state } = run([...sending(1), offer(2)]);
  const late = run([receipt(1)], state, 60_001);
  assert.ok(late.did.includes("decline"));
  assert.equal(late.state.phase.at, "idle");
});

test("a published model is fetched when the device is idle, and makes way for an offer", () => {
  const fresh = sampleModel("s.1", 3, 0.75);
  const published: Input = {
    on: "published",
    wanted: { manifest: fresh.manifest, layout: fresh.layout },
  };
  assert.deepEqual(run([published]).did, []);
  const refreshing = run([up, published]);
  assert.deepEqual(refreshing.did, ["fetch"]);
  assert.deepEqual(run([offer(1)], refreshing.state).did, ["abort-fetch", "set-deadline", "fetch"]);
  const same = run([{ on: "offer", task: sampleTask("s.2", fresh) }], refreshing.state);
  assert.deepEqual(same.did, ["set-deadline"]);
  assert.equal(same.state.phase.at, "fetching");
});

test("what cannot be kept is declined", () => {
  const failed = run([
    up,
    offer(1),
    fetched,
    trained(1),
    { on: "keep-failed", round: "s.1", message: "no space" },
  ]);
  assert.deepEqual(failed.did, ["decline"]);
});

const anyCode = fc.constantFrom(...(Object.keys(codes) as (keyof typeof codes)[]));
const anyNumber = fc.integer({ min: 1, max: 3 });
const anyInput: fc.Arbitrary<Input> = fc.oneof(
  fc.constantFrom<Input>(up, { on: "link-down" }, fetched, { on: "waited" }, { on: "deadline" }),
  anyNumber.map(offer),
  anyNumber.map(trained),
  anyNumber.map(kept),
  anyNumber.map((n): Input => ({ on: "keep-failed", round: `s.${n}`, message: "" })),
  fc.tuple(anyNumber, fc.integer({ min: 0, max: 64 })).map(([n, offset]) => grant(n, offset)),
  anyNumber.map((n): Input => ({ on: "sent", round: `s.${n}` })),
  anyNumber.map((n): Input => ({ on: "progress", round: `s.${n}` })),
  anyNumber.map(receipt),
  anyNumber.map(closed),
  fc
    .tuple(anyNumber, anyCode, fc.constantFrom("begin", "chunk", "fetch", "decline"), fc.nat(64))
    .map(([n, code, about, expectedOffset]) => refusal(n, code, { about, expectedOffset })),
);

test("whatever comes: one task at a time, no lost slot, no send before keep", () => {
  fc.assert(
    fc.property(fc.array(anyInput, { maxLength: 60 }), (inputs) => {
      let state = initialState;
      let slot: string | undefined;
      let training: string | undefined;
      const taken = new Set<string>();
      for (const input of inputs) {
        // A real shell reports the end of what it was told to do, and of nothing else.
        if (input.on === "trained" && input.update.begin.round !== training) continue;
        if (input.on === "trained") training = undefined;
        if (
          (input.on === "kept" || input.on === "keep-failed") &&
          input.round !== roundOf(state.phase)
        )
          continue;
        const { phase } = state;
        if (input.on === "kept" && phase.at === "keeping") slot = input.round;
        const result = step(state, input, 0);
        for (const effect of result.effects) {
          if (effect.do === "train") {
            assert.equal(training, undefined, "two trainings at once");
            assert.equal(slot, undefined, "training while an update is held");
            training = effect.task.plan.round;
            assert.equal(taken.has(training), false, "a round was taken twice");
            taken.add(training);
          }
          if (effect.do === "send-begin" || effect.do === "send-chunks")
            assert.equal(effect.update.begin.round, slot, "sent before it was kept");
          if (effect.do === "drop") {
            assert.equal(effect.update.begin.round, slot);
            const wasClosed = phase.at === "keeping" && phase.unwanted;
            const allowed =
              (input.on === "receipt" && input.digest === effect.update.begin.digest) ||
              (input.on === "refusal" && !codes[input.code].retryable && input.round === slot) ||
              (input.on === "closed" && input.round === slot) ||
              (input.on === "kept" && wasClosed);
            assert.ok(allowed, `dropped on ${input.on}`);
            slot = undefined;
          }
        }
        state = result.state;
        assert.equal(state.phase.at === "sending", slot !== undefined);
        assert.ok(state.finished.length <= limits.finishedRounds);
      }
    }),
    { numRuns: 2000 },
  );
});
