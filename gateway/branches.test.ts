import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type {
  AttachResponse,
  RoundOpened,
  RoundProgress,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { encodePlan, type Plan } from "@tributary/proto/wire/plan.js";
import { type BranchesOptions, createBranches } from "./branches.js";
import type { GatewayEvent } from "./events.js";
import { memoryIndex, openMemoryStore } from "./testing/memory-store.js";
import { samplePlan } from "./testing/sample.js";

const places: Readonly<Record<string, string>> = { a: "g1", b: "g2" };

/** Branches on a real store in memory; what they do to other parts is noted. */
async function setup(index = memoryIndex(), changes: Partial<BranchesOptions> = {}) {
  const bounds = { ledgerRounds: 64, receivedPartials: 64, expiries: 64 };
  const store = await openMemoryStore(index, { ...bounds, newIncarnation: () => "inc" });
  const clock = createManualClock();
  const sent: [string, AttachResponse["message"]][] = [];
  const progress: RoundProgress[] = [];
  const own: RoundOpened[] = [];
  const released: string[] = [];
  const pins: string[] = [];
  const events: GatewayEvent[] = [];
  const options: BranchesOptions = {
    absentGraceMs: 1_000,
    modelCacheBytes: 1_000_000,
    store,
    outbox: { entries: () => [], release: async (round) => void released.push(round) },
    models: {
      want() {},
      pin: (digest) => void pins.push(digest),
      unpin: (digest) => void pins.splice(pins.indexOf(digest), 1),
    },
    rounds: { open: (opened) => void own.push(opened), closed() {}, progress: () => [] },
    roll: {
      gateway: () => ({ site: "s", incarnation: "one", below: [] }),
      placeOf: (device) => places[device],
    },
    send: (gateway, { message }) => void sent.push([gateway, message]),
    onProgress: (value) => void progress.push(value),
    onPlanRefused() {},
    onReleased() {},
    events: (event) => void events.push(event),
    clock,
    time: { logicalMs: () => clock.monotonicMs() },
    ...changes,
  };
  const branches = await createBranches(options);
  const open = async (plan: Plan, roster: string[]) => {
    branches.open({ plan: Buffer.from(encodePlan(plan)), remainingMs: 40_000, roster });
    await turns();
  };
  const sealed = (gateway: string, round: string, folded: number) =>
    branches.progressed(gateway, { round, offered: folded, folded, declined: 0, sealed: true });
  return {
    branches,
    index,
    store,
    clock,
    sent,
    progress,
    own,
    released,
    pins,
    events,
    open,
    sealed,
  };
}

async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

const plan = samplePlan();
const { round } = plan;

describe("a branch", () => {
  it("splits the roster by where devices are, and shortens the time", async () => {
    const { sent, own, open, pins } = await setup();
    await open(plan, ["own", "a", "b"]);
    const asked = sent.map(([gateway, message]) => [
      gateway,
      message?.$case === "roundOpened" && message.value.roster,
      message?.$case === "roundOpened" && message.value.remainingMs,
    ]);
    assert.deepEqual(asked, [
      ["g1", ["a"], 30_000],
      ["g2", ["b"], 30_000],
    ]);
    assert.deepEqual(
      own.map(({ roster, remainingMs }) => [roster, remainingMs]),
      [[["own"], 30_000]],
    );
    assert.deepEqual(pins, [plan.base.digest]);
  });

  it("leaves a round without anybody below to the own devices, as it came", async () => {
    const { sent, own, open } = await setup();
    await open(plan, ["own"]);
    assert.deepEqual([own[0]?.remainingMs, sent.length], [40_000, 0]);
  });

  it("releases again what became durable just as it was completed", async () => {
    const { branches, released, progress, open, sealed, pins } = await setup();
    await open(plan, ["a", "b"]);
    sealed("g1", round, 1);
    branches.received("g1", new Map([[round, 1]]));
    branches.closed(round, "committed");
    await turns();
    assert.deepEqual(released, [round]);
    assert.deepEqual(pins, []);
    // It was on its way into the outbox, held, when the upstream closed the round.
    branches.received("g2", new Map([[round, 1]]));
    await turns();
    assert.deepEqual(released, [round, round]);
    assert.equal(progress.at(-1)?.folded, 2);
  });

  it("goes on after a crash with the time that is left, and what it had received", async () => {
    const first = await setup();
    await first.open(plan, ["a", "b"]);
    const taking = { round, gateway: "g1", incarnation: "one", sequence: 7, devices: ["a"] };
    await first.store.putTakings([taking]);
    first.index.crash(0);
    const origin = { gateway: "g1", incarnation: "one", sequence: 7 };
    const received = async (of: { sequence: number }) =>
      of.sequence === origin.sequence ? "0".repeat(64) : undefined;
    const again = await setup(first.index, {
      store: { ...first.store, received },
      roll: { gateway: () => undefined, placeOf: () => undefined },
    });
    const restored = again.branches.view(round);
    assert.equal(restored?.takings.taken({ ...origin, sequence: 8 }, "a", 0), true);
    assert.equal(restored?.takings.taken(origin, "a", 0), false);
    assert.equal(restored?.takings.expects(origin, "a"), true);
    assert.equal(restored?.takings.expects({ ...origin, incarnation: "two" }, "a"), true);
    again.sealed("g1", round, 1);
    again.sealed("g2", round, 0);
    await turns();
    assert.deepEqual(again.released, [round]);
  });

  it("completes at its deadline, and when all that is missing is away for too long", async () => {
    for (const [advanceMs, reason] of [
      [40_000, "deadline"],
      [1_000, "absent"],
    ] as const) {
      const { branches, clock, events, open } = await setup();
      await open(plan, ["a"]);
      if (reason === "absent") branches.detached("g1");
      clock.advance(advanceMs - 1);
      assert.ok(!events.some(({ name }) => name === "branch-complete"));
      clock.advance(1);
      const complete = events.find((event) => event.name === "branch-complete");
      assert.equal(complete?.name === "branch-complete" && complete.reason, reason);
    }
  });

  it("expects nothing more of a gateway that comes back in another life", async () => {
    let incarnation = "one";
    const { branches, events, open } = await setup(memoryIndex(), {
      roll: {
        gateway: () => ({ site: "s", incarnation, below: [] }),
        placeOf: (device) => places[device],
      },
    });
    await open(plan, ["a"]);
    branches.detached("g1");
    assert.equal(branches.attached("g1", []).length, 1, "it is asked again");
    incarnation = "two";
    assert.deepEqual(branches.attached("g1", []), []);
    assert.ok(events.some(({ name }) => name === "branch-complete"));
  });

  it("keeps the newest rounds only", async () => {
    const { branches, open, store } = await setup();
    for (let number = 1; number <= 70; number++) {
      const next = samplePlan({ round: `mnist.${number}` });
      await open(next, ["a"]);
      branches.closed(next.round, "committed");
      await turns();
    }
    assert.equal((await store.branches()).length, 64);
    assert.equal(branches.view("mnist.6"), undefined);
    assert.ok(branches.view("mnist.7"));
  });
});
