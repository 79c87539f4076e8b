import assert from "node:assert/strict";
import { test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { openCutGrace } from "./device-access-grace.js";
import { limits } from "./limits.js";
import type { TimeStore } from "./site-time.js";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

const written = () => new Promise((resolve) => setImmediate(resolve));

/** A gateway whose process can end and begin again; its notes outlive it. */
async function open() {
  const notes = new Map<string, unknown>();
  const store: TimeStore = {
    readNote: async (name, schema) => {
      const note = notes.get(name);
      return note === undefined ? undefined : schema.parse(note);
    },
    async putNote(name, value) {
      notes.set(name, value);
    },
  };
  const clock = createManualClock();
  let alive = 0;
  /** Begins a process; what was there before writes no more. */
  const start = () => {
    const self = ++alive;
    const putNote: TimeStore["putNote"] = async (...note) => {
      if (self === alive) await store.putNote(...note);
    };
    return openCutGrace({ store: { ...store, putNote }, nowMs: clock.nowMs, clock });
  };
  const kill = () => void alive++;
  return { clock, start, kill, grace: await start(), nowMs: clock.nowMs };
}

test("what ends while the link is away is spared until it is back, and a day more", async () => {
  const { clock, grace, nowMs } = await open();
  grace.linked(true);
  clock.advance(2 * DAY_MS);
  const endedLinked = nowMs();
  clock.advance(HOUR_MS);
  grace.linked(false);
  clock.advance(HOUR_MS);
  const endedCut = nowMs();
  clock.advance(40 * DAY_MS);
  assert.ok(grace.spares(endedCut));
  assert.ok(!grace.spares(endedLinked), "that could have been renewed");
  grace.linked(true);
  clock.advance(limits.graceAfterCutMs - 1);
  assert.ok(grace.spares(endedCut));
  clock.advance(1);
  assert.ok(!grace.spares(endedCut));
  await grace.close();
});

test("with the link there nothing is spared", async () => {
  const { clock, grace, nowMs } = await open();
  grace.linked(true);
  clock.advance(2 * DAY_MS);
  const ended = nowMs();
  clock.advance(HOUR_MS);
  assert.ok(!grace.spares(ended));
  await grace.close();
});

test("a link that comes for less than a day and goes again is one cut", async () => {
  const { clock, grace, nowMs } = await open();
  grace.linked(true);
  clock.advance(2 * DAY_MS);
  grace.linked(false);
  clock.advance(HOUR_MS);
  const ended = nowMs();
  clock.advance(HOUR_MS);
  grace.linked(true);
  clock.advance(HOUR_MS);
  grace.linked(false);
  clock.advance(3 * DAY_MS);
  assert.ok(grace.spares(ended));
  grace.linked(true);
  clock.advance(2 * DAY_MS);
  grace.linked(false);
  assert.ok(!grace.spares(ended), "a day with the link ends it");
  await grace.close();
});

test("a restart while it is away changes nothing, and one that was killed knows the link to an hour", async () => {
  const { clock, start, kill, grace, nowMs } = await open();
  grace.linked(true);
  clock.advance(2 * DAY_MS);
  const lastLinked = nowMs();
  await written();
  kill();
  clock.advance(10 * DAY_MS);
  const second = await start();
  assert.ok(second.spares(lastLinked + HOUR_MS));
  assert.ok(!second.spares(lastLinked - HOUR_MS));
  await second.close();
  clock.advance(DAY_MS);
  const third = await start();
  assert.ok(third.spares(lastLinked + HOUR_MS));
  assert.ok(!third.spares(lastLinked - HOUR_MS));
  await third.close();
  await grace.close();
});

test("one that never had a link spares from its first start on", async () => {
  const { clock, grace, nowMs } = await open();
  const first = nowMs();
  clock.advance(DAY_MS);
  assert.ok(grace.spares(first));
  assert.ok(!grace.spares(first - 1));
  await grace.close();
});
