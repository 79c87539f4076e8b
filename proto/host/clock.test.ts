import assert from "node:assert/strict";
import { test } from "node:test";
import { clockContract } from "./clock.contract.js";
import { createManualClock, systemClock } from "./clock.js";

clockContract("system clock", () => {
  const clock = systemClock();
  const pass = (ms: number) =>
    new Promise<void>((resolve) => {
      clock.setTimer(ms, resolve);
    });
  return { clock, pass };
});

clockContract("manual clock", () => {
  const clock = createManualClock(1_000_000);
  return { clock, pass: async (ms) => clock.advance(ms) };
});

test("timers due at the same time fire in the order in which they were set", () => {
  const clock = createManualClock();
  const fired: string[] = [];
  for (const name of ["a", "b", "c"]) clock.setTimer(10, () => fired.push(name));
  clock.advance(10);
  assert.deepEqual(fired, ["a", "b", "c"]);
});

test("a timer can cancel another that is due in the same step", () => {
  const clock = createManualClock();
  let fired = 0;
  clock.setTimer(1, () => later.cancel());
  const later = clock.setTimer(2, () => fired++);
  clock.advance(5);
  assert.equal(fired, 0);
});

test("the next timer is known, so that a simulator can jump to it", () => {
  const clock = createManualClock();
  assert.equal(clock.nextTimerMs(), undefined);
  clock.setTimer(30, () => {});
  clock.setTimer(20, () => {});
  clock.advance(5);
  assert.equal(clock.nextTimerMs(), 15);
});

test("a correction of the wall clock moves no timer", () => {
  const clock = createManualClock(1_000);
  let fired = 0;
  clock.setTimer(10, () => fired++);
  clock.shiftWall(-3_600_000);
  assert.equal(clock.monotonicMs(), 0);
  clock.advance(10);
  assert.equal(fired, 1);
  assert.equal(clock.nowMs(), 1_000 - 3_600_000 + 10);
});

test("time does not go back", () => {
  assert.throws(() => createManualClock().advance(-1), RangeError);
  assert.throws(() => createManualClock().advance(Number.NaN), RangeError);
});

test("a delay that setTimeout cannot hold is waited for in stretches, without a warning", async () => {
  const warnings: string[] = [];
  const onWarning = ({ name }: Error) => warnings.push(name);
  process.on("warning", onWarning);
  const timer = systemClock().setTimer(2 ** 32, () => {});
  // Warnings are emitted on a later turn than the call that causes them.
  await new Promise((resolve) => setImmediate(resolve));
  timer.cancel();
  process.off("warning", onWarning);
  assert.deepEqual(warnings, []);
});
