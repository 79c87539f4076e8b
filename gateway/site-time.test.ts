import assert from "node:assert/strict";
import { after, describe, it } from "node:test";
import { createManualClock, type ManualClock } from "@tributary/proto/host/clock.js";
import fc from "fast-check";
import { buildDateMs } from "./build-date.js";
import type { GatewayEvent } from "./events.js";
import { limits } from "./limits.js";
import { openSiteTime, type TimeStore } from "./site-time.js";
import { createTemporary } from "./testing/temporary.js";

const HOUR = 3_600_000;
const YEAR = 365 * 24 * HOUR;
const BUILT = Date.UTC(2026, 0, 1);
/** A true time after the build date. */
const NOW = BUILT + 100 * 24 * HOUR;

const temporary = createTemporary();
after(() => temporary.close());

/** What outlives a run, and how often it was written. */
function keeper() {
  const notes = new Map<string, unknown>();
  const writes: { readonly sync: boolean }[] = [];
  let failing = false;
  const store: TimeStore = {
    readNote: async (name, schema) => {
      const value = notes.get(name);
      return value === undefined ? undefined : schema.parse(value);
    },
    async putNote(name, value, options) {
      if (failing) throw new Error("the disk is full");
      notes.set(name, structuredClone(value));
      writes.push(options);
    },
  };
  return {
    store,
    writes,
    fail(now: boolean) {
      failing = now;
    },
  };
}

/** Lets what was written asynchronously land. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

async function run(clock: ManualClock, store: TimeStore) {
  const events: GatewayEvent[] = [];
  const time = await openSiteTime({
    store,
    clock,
    events: (event) => events.push(event),
    buildDateMs: BUILT,
  });
  return { time, events, names: () => events.map(({ name }) => name) };
}

describe("the site's time", () => {
  it("measures ages through any step of the wall clock", async () => {
    const clock = createManualClock(NOW);
    const { time } = await run(clock, keeper().store);
    const startMs = time.logicalMs();
    for (const step of [YEAR, -3 * YEAR, -HOUR, 2 * HOUR, 20 * YEAR]) {
      clock.shiftWall(step);
      clock.advance(1_000);
    }
    assert.equal(time.logicalMs() - startMs, 5_000);
    await time.close();
  });

  it("reads no time before the build date, and says that the clock is wrong", async () => {
    const clock = createManualClock(0);
    const { time, events } = await run(clock, keeper().store);
    assert.equal(time.floorMs(), BUILT);
    assert.equal(time.nowMs(), BUILT);
    assert.equal(time.offsetMs, -BUILT);
    assert.equal(time.trusted, false);
    const floor = new Date(BUILT).toISOString();
    assert.deepEqual(events, [{ level: "warn", name: "clock-untrusted", floor, offsetMs: -BUILT }]);
    clock.advance(5_000);
    assert.equal(time.nowMs(), BUILT + 5_000);
    await time.close();
  });

  it("lets no wall clock move the floor, and the upstream's time raise it", async () => {
    const clock = createManualClock(NOW + YEAR);
    const kept = keeper();
    const { time, names } = await run(clock, kept.store);
    clock.advance(10_000);
    assert.equal(time.floorMs(), BUILT + 10_000);
    assert.equal(time.nowMs(), NOW + YEAR + 10_000);
    assert.deepEqual([time.trusted, time.offsetMs], [false, 0]);
    time.hear(NOW);
    assert.equal(time.floorMs(), NOW);
    assert.equal(time.upstreamMs(), NOW);
    assert.equal(time.offsetMs, YEAR + 10_000);
    assert.equal(time.trusted, false);
    assert.deepEqual(names(), ["clock-skew"]);
    clock.shiftWall(-YEAR - 10_000);
    assert.equal(time.trusted, true);
    clock.advance(limits.timeWriteMs);
    assert.deepEqual(names(), ["clock-skew", "clock-agrees"]);
    await time.close();

    const later = createManualClock(0);
    const next = await run(later, kept.store);
    assert.equal(next.time.floorMs(), NOW + limits.timeWriteMs);
    assert.equal(next.time.trusted, false);
    assert.equal(next.time.upstreamMs(), undefined);
    assert.deepEqual(next.names(), ["clock-untrusted"]);
    await next.time.close();
  });

  it("passes over a time that is none, and lets none lower the floor", async () => {
    const clock = createManualClock(NOW);
    const { time, names } = await run(clock, keeper().store);
    for (const none of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 8.64e15 + 1]) time.hear(none);
    assert.equal(time.upstreamMs(), undefined);
    time.hear(NOW);
    time.hear(NOW - YEAR);
    assert.equal(time.floorMs(), NOW);
    assert.deepEqual(names(), ["clock-skew"]);
    await time.close();
  });

  it("counts the time that it was down as soon as the upstream has said how long", async () => {
    const kept = keeper();
    const clock = createManualClock(NOW);
    const first = await run(clock, kept.store);
    first.time.hear(NOW);
    clock.advance(HOUR);
    const stoppedMs = first.time.logicalMs();
    await first.time.close();

    // Its battery was empty: the wall clock says nothing.
    const second = createManualClock(0);
    const dark = await run(second, kept.store);
    assert.equal(dark.time.logicalMs(), stoppedMs);
    second.advance(HOUR);
    assert.equal(dark.time.logicalMs(), stoppedMs + HOUR);
    await dark.time.close();

    const third = createManualClock(5 * YEAR);
    const lit = await run(third, kept.store);
    assert.equal(lit.time.logicalMs(), stoppedMs + HOUR);
    third.advance(1_000);
    lit.time.hear(NOW + 10 * HOUR);
    assert.equal(lit.time.logicalMs(), stoppedMs + 9 * HOUR);
    lit.time.hear(NOW + 10 * HOUR);
    assert.equal(lit.time.logicalMs(), stoppedMs + 9 * HOUR);
    await lit.time.close();
  });

  it("moves on over kills, however soon they come, and writes rarely", async () => {
    const kept = keeper();
    let lastMs = Number.NEGATIVE_INFINITY;
    for (let kill = 0; kill < 5; kill++) {
      const clock = createManualClock(NOW);
      const { time } = await run(clock, kept.store);
      if (kill > 0) assert.ok(time.logicalMs() > lastMs, `start ${kill} is later than the last`);
      lastMs = time.logicalMs();
      clock.advance(limits.timeFirstWriteMs);
      await settle();
    }
    kept.writes.length = 0;
    const clock = createManualClock(NOW);
    const { time } = await run(clock, kept.store);
    for (let second = 0; second < 24 * 3_600; second++) {
      clock.advance(1_000);
      time.hear(NOW + second * 1_000);
    }
    await settle();
    const most = (24 * HOUR) / limits.timeWriteMs + 8;
    assert.ok(kept.writes.length <= most, `${kept.writes.length} writes a day`);
    assert.ok(kept.writes.every(({ sync }) => !sync));
    await time.close();
    assert.equal(kept.writes.at(-1)?.sync, true);
  });

  it("goes on when it cannot be written, and says so", async () => {
    const kept = keeper();
    const clock = createManualClock(NOW);
    const { time, names } = await run(clock, kept.store);
    kept.fail(true);
    clock.advance(limits.timeFirstWriteMs);
    await settle();
    assert.deepEqual(names(), ["storage-failed"]);
    kept.fail(false);
    clock.advance(2 * limits.timeFirstWriteMs);
    await settle();
    assert.equal(kept.writes.length, 1);
    await time.close();
  });

  it("never goes back, whatever the clocks do", async () => {
    const moves = fc.array(
      fc.oneof(
        fc.record({
          type: fc.constant("wall" as const),
          ms: fc.integer({ min: -YEAR, max: YEAR }),
        }),
        fc.record({ type: fc.constant("pass" as const), ms: fc.nat(100_000) }),
        fc.record({ type: fc.constant("hear" as const), ms: fc.nat(2 * NOW) }),
        fc.record({ type: fc.constant("restart" as const), ms: fc.nat(2 * NOW) }),
      ),
      { maxLength: 30 },
    );
    await fc.assert(
      fc.asyncProperty(moves, async (steps) => {
        const { store } = keeper();
        let clock = createManualClock(NOW);
        let { time } = await run(clock, store);
        let [logicalMs, floorMs] = [time.logicalMs(), time.floorMs()];
        for (const { type, ms } of steps) {
          if (type === "wall") clock.shiftWall(ms);
          if (type === "pass") clock.advance(ms);
          if (type === "hear") time.hear(ms);
          if (type === "restart") {
            await time.close();
            clock = createManualClock(ms);
            ({ time } = await run(clock, store));
          }
          assert.ok(time.logicalMs() >= logicalMs);
          assert.ok(time.floorMs() >= floorMs);
          assert.ok(time.nowMs() >= time.floorMs());
          [logicalMs, floorMs] = [time.logicalMs(), time.floorMs()];
        }
        await time.close();
      }),
      { numRuns: 100 },
    );
  });

  it("is kept in the gateway's store", async () => {
    const dir = await temporary.dir();
    const store = await temporary.store(dir);
    const clock = createManualClock(NOW);
    const { time } = await run(clock, store);
    time.hear(NOW);
    clock.advance(7_000);
    const lastMs = time.logicalMs();
    await time.close();
    await store.close();
    const next = await run(createManualClock(0), await temporary.store(dir));
    assert.equal(next.time.logicalMs(), lastMs);
    assert.equal(next.time.floorMs(), NOW + 7_000);
    await next.time.close();
  });

  it("has a build date that is past", () => {
    assert.ok(buildDateMs < Date.now());
  });
});
