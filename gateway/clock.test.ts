import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { systemClock } from "@tributary/proto/host/clock.js";
import { buildDateMs } from "./build-date.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

const YEAR = 365 * 24 * 3_600_000;

/** The computer's clock with a wall that a test can move, as an operator or a time server does. */
function movableClock(nowMs: number) {
  const clock = systemClock();
  const startMs = clock.monotonicMs();
  let offsetMs = 0;
  return {
    ...clock,
    nowMs: () => nowMs + offsetMs + clock.monotonicMs() - startMs,
    shift(ms: number) {
      offsetMs += ms;
    },
  };
}

describe("a gateway whose wall clock is wrong", () => {
  it("keeps a round open while the clock steps, and its deadline over a restart at 1970", async () => {
    const reducer = await stage.reducer();
    const dir = await stage.dataDir();
    const clock = movableClock(Date.now());
    const settings = { absentGraceMs: 60_000 };
    const first = await stage.gateway(dir, reducer.address, settings, { clock });
    const a = await stage.device(first, "dev-a");
    await reported(reducer, 1);
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a", "dev-b"]);
    const { remainingMs } = await a.next("offer");
    const update = sampleUpdate(plan, "dev-a", 3);
    await a.upload(update);
    await a.next("receipt");
    for (const [i, step] of [YEAR, -2 * YEAR, YEAR].entries()) {
      clock.shift(step);
      await a.say("begin", update.begin);
      await a.next("receipt", i + 2);
      assert.equal(first.status().rounds[0]?.sealed, false);
    }
    await first.close();

    const second = await stage.gateway(dir, reducer.address, settings, { clock: movableClock(0) });
    const resumed = second.events.find((event) => event.name === "round-resumed");
    assert.ok(resumed !== undefined);
    assert.ok(resumed.remainingMs > 0 && resumed.remainingMs <= remainingMs);
    assert.ok(second.events.some((event) => event.name === "clock-untrusted"));
    await second.close();

    const ahead = { clock: movableClock(Date.now() + YEAR) };
    const third = await stage.gateway(dir, reducer.address, settings, ahead);
    const again = third.events.find((event) => event.name === "round-resumed");
    assert.ok(again !== undefined && again.remainingMs > 0);
  });

  it("says nothing from before the build date, and ages what waits by its own time", async () => {
    const reducer = await stage.reducer();
    const clock = movableClock(0);
    const gateway = await stage.gateway(await stage.dataDir(), reducer.address, {}, { clock });
    assert.ok(Date.parse(gateway.status().clock.now) >= buildDateMs);
    const a = await stage.device(gateway, "dev-a");
    await reported(reducer, 1);
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    await reducer.close();
    await until("it is away", () => !gateway.status().link.attached);
    await a.upload(sampleUpdate(plan, "dev-a", 3));
    await until("it waits", () => gateway.status().waiting.partials === 1);
    for (const step of [YEAR, -YEAR, 20 * YEAR]) {
      clock.shift(step);
      const { oldestAgeMs } = gateway.status().waiting;
      assert.ok(oldestAgeMs >= 0 && oldestAgeMs < YEAR, `${oldestAgeMs} ms`);
    }
  });
});
