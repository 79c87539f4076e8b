import assert from "node:assert/strict";
import { test } from "node:test";
import { createFaultSchedule, FAULT_ROUNDS_MIN, planFaults } from "./schedule.js";

function floor(sites: number) {
  const calls: string[] = [];
  let letBack = () => {};
  const targets = Array.from({ length: sites }, (_, i) => ({
    site: `hall-${i}`,
    cut: () => void calls.push(`cut ${i}`),
    restore: () => void calls.push(`restore ${i}`),
    killAndRestart: () => {
      calls.push(`kill ${i}`);
      return new Promise<{ pid: number }>((resolve) => {
        letBack = () => resolve({ pid: 77 });
      });
    },
  }));
  return { calls, targets, letBack: () => letBack() };
}

test("both faults fit any run that is long enough, one after the other", () => {
  for (let rounds = FAULT_ROUNDS_MIN; rounds < 200; rounds++) {
    const { cut, kill } = planFaults(rounds, 3);
    const length = "rounds" in cut.lasts ? cut.lasts.rounds : Number.NaN;
    assert.ok(cut.fromRound >= 2 && length >= 1);
    assert.ok(kill.inRound > cut.fromRound + length && kill.inRound <= rounds, `${rounds} rounds`);
    assert.notEqual(cut.site, kill.site);
  }
});

test("faults begin in mid-round, end by themselves and are written down", async () => {
  const { calls, targets, letBack } = floor(3);
  let nowMs = 0;
  const schedule = createFaultSchedule(
    planFaults(30, 3),
    targets,
    () => nowMs,
    () => {},
  );
  const step = (round: number, midRound: boolean) => {
    nowMs = round * 1000;
    schedule.step({ round, isMidRound: () => midRound });
  };
  step(9, true);
  step(10, false);
  assert.deepEqual(calls, []);
  step(10, true);
  step(11, true);
  assert.deepEqual(calls, ["cut 1"]);
  assert.ok(schedule.isCut(1) && !schedule.isCut(0));
  step(14, true);
  step(20, false);
  assert.deepEqual(calls, ["cut 1", "restore 1"]);
  step(20, true);
  step(21, true);
  assert.deepEqual(calls, ["cut 1", "restore 1", "kill 2"]);
  assert.ok(schedule.isKilled(2));
  letBack();
  await schedule.finish();
  assert.ok(!schedule.isKilled(2));
  const [cut, kill] = schedule.entries;
  assert.deepEqual([cut?.fromMs, cut?.toMs], [10_000, 14_000]);
  assert.deepEqual([kill?.kind, kill?.pid, kill?.fromMs], ["kill", 77, 20_000]);
});

test("a link that is still cut at the end is restored", async () => {
  const { calls, targets } = floor(3);
  const schedule = createFaultSchedule(
    planFaults(30, 3),
    targets,
    () => 0,
    () => {},
  );
  schedule.step({ round: 10, isMidRound: () => true });
  await schedule.finish();
  assert.deepEqual(calls, ["cut 1", "restore 1"]);
});

test("a cut that begins late still lasts its rounds", () => {
  const { calls, targets } = floor(3);
  const schedule = createFaultSchedule(
    planFaults(30, 3),
    targets,
    () => 0,
    () => {},
  );
  schedule.step({ round: 17, isMidRound: () => true });
  schedule.step({ round: 20, isMidRound: () => false });
  assert.deepEqual(calls, ["cut 1"]);
  schedule.step({ round: 21, isMidRound: () => false });
  assert.deepEqual(calls, ["cut 1", "restore 1"]);
});

test("an outage lasts its time, whatever round it is, and the kill waits for its end", () => {
  const { calls, targets } = floor(3);
  let nowMs = 0;
  const schedule = createFaultSchedule(
    planFaults(30, 3, 10_000),
    targets,
    () => nowMs,
    () => {},
  );
  const step = (atMs: number, round: number) => {
    nowMs = atMs;
    schedule.step({ round, isMidRound: () => true });
  };
  step(1_000, 10);
  step(10_999, 25);
  assert.deepEqual(calls, ["cut 1"]);
  step(11_000, 25);
  assert.deepEqual(calls, ["cut 1", "restore 1", "kill 2"]);
  assert.deepEqual([schedule.entries[0]?.fromMs, schedule.entries[0]?.toMs], [1_000, 11_000]);
});
