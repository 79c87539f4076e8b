import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { systemClock } from "@tributary/proto/host/clock.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

const named = (gateway: { events: readonly { name: string }[] }, name: string) =>
  gateway.events.filter((event) => event.name === name);

describe("what waits at a gateway without an uplink", () => {
  it("is one Partial for all rounds on one base, and goes up once", async () => {
    const reducer = await stage.reducer();
    const gateway = await stage.gateway(await stage.dataDir(), reducer.address);
    const a = await stage.device(gateway, "dev-a");
    await reported(reducer, 1);
    const plans = ["mnist.1", "mnist.2", "mnist.3"].map((round) => samplePlan({ round }));
    for (const plan of plans) reducer.openRound(plan, ["dev-a"]);
    await a.next("offer", 3);
    await reducer.close();
    await until("it is lost", () => named(gateway, "uplink-lost").length > 0);
    for (const [i, plan] of plans.entries()) {
      await a.upload(sampleUpdate(plan, "dev-a", i + 1));
      await a.next("receipt", i + 1);
    }
    await until("all seal", () => named(gateway, "round-sealed").length === 3);

    const back = await stage.reducer(reducer.port);
    await until("a Partial arrives", () => back.partials.length > 0);
    await until("the outbox is empty", () => back.heard("heartbeat").at(-1)?.outboxPartials === 0);
    assert.equal(back.partials.length, 1);
    const [partial] = back.partials;
    assert.deepEqual(
      partial?.contributors.map(({ round, device }) => [round, device]),
      plans.map(({ round }) => [round, "dev-a"]),
    );
    assert.ok(partial?.sum.every((value) => value === BigInt(10 * (1 + 2 + 3))));
    assert.equal(partial?.weight, 30n);
  });

  it("goes on, after a restart, with the Partial that was begun, as it was, from where it stopped", async () => {
    const reducer = await stage.reducer();
    reducer.breakSendAfter = 512 * 1024;
    const dir = await stage.dataDir();
    const slow = { reconnect: { baseMs: 60_000, capMs: 60_000 }, absentGraceMs: 0 };
    const first = await stage.gateway(dir, reducer.address, slow);
    const a = await stage.device(first, "dev-a");
    await reported(reducer, 1);
    const layout = [{ name: "w", shape: [200_000] }];
    const one = samplePlan({ layout, round: "mnist.1" });
    const two = samplePlan({ layout, round: "mnist.2" });
    reducer.openRound(one, ["dev-a"]);
    reducer.openRound(two, ["dev-a"]);
    await a.next("offer", 2);
    await a.upload(sampleUpdate(one, "dev-a", 3));
    await until("it breaks off", () => named(first, "partial-delayed").length === 1);
    await a.upload(sampleUpdate(two, "dev-a", 5));
    await until("both are sealed", () => named(first, "round-sealed").length === 2);
    await first.close();

    const second = await stage.gateway(dir, reducer.address);
    await until("both arrive", () => reducer.partials.length === 2);
    assert.deepEqual(
      reducer.partials.map(({ contributors }) => contributors.map(({ round }) => round)),
      [["mnist.1"], ["mnist.2"]],
    );
    assert.deepEqual(reducer.sends.slice(0, 1), [0]);
    assert.ok((reducer.sends[1] ?? 0) >= 512 * 1024, `${reducer.sends}`);
    assert.equal(named(second, "partials-merged").length, 0);
  });
});

describe("outside the windows of its uplink", () => {
  it("a gateway is not attached, and serves its devices all the same", async () => {
    const reducer = await stage.reducer();
    const windows = [{ cron: "30 2 * * *", durationMs: 3_600_000 }];
    const clock = { ...systemClock(), nowMs: () => Date.UTC(2027, 5, 1, 12) };
    const gateway = await stage.gateway(
      await stage.dataDir(),
      reducer.address,
      { uplink: { windows, timezone: "UTC" } },
      { clock },
    );
    const a = await stage.device(gateway, "dev-a");
    assert.equal(a.connected, true);
    assert.deepEqual(named(gateway, "uplink-window"), [
      { level: "info", name: "uplink-window", open: false, trusted: true },
    ]);
    assert.equal(reducer.heard("hello").length, 0);
    assert.equal(named(gateway, "uplink-lost").length, 0);
  });
});

describe("what a gateway notes of itself", () => {
  it("goes up once it is attached, and is told with each beat what is buffered", async () => {
    const reducer = await stage.reducer();
    const gateway = await stage.gateway(await stage.dataDir(), reducer.address);
    await until("its events arrive", () => reducer.heard("telemetry").length > 0);
    const [message] = reducer.heard("telemetry");
    assert.equal(message?.class, "logs");
    const names = message?.entries.map((bytes) => {
      const decoded = decodeCbor(bytes, { depth: 4, items: 100 });
      return decoded.ok ? (decoded.value as { name: string }).name : "";
    });
    assert.ok(names?.includes("gateway-started"));
    await until("it beats", () => (reducer.heard("heartbeat").at(-1)?.classes.length ?? 0) > 0);
    const beat = reducer.heard("heartbeat").at(-1);
    assert.deepEqual(
      beat?.classes.map(({ name }) => name),
      ["control", "results", "metrics", "logs"],
    );
    const budgets = beat?.classes.reduce((sum, { budgetBytes }) => sum + budgetBytes, 0n);
    assert.equal(budgets, beat?.budgetBytes);
    await until("a round trip is told", () => {
      return reducer.heard("heartbeat").some(({ sequence }) => sequence > 2n);
    });
    assert.equal(named(gateway, "storage-state").length, 0);
  });
});
