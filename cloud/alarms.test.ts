import assert from "node:assert/strict";
import { test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { openAlarms } from "./alarms.js";
import { limits } from "./limits.js";
import type { EventRow } from "./store/rows.js";

const late = (gateway: string, sequence = 7) =>
  ({ level: "error", name: "denylist-late", gateway, sequence }) as const;
const detached = (gateway: string) =>
  ({ level: "warn", name: "gateway-detached", gateway, reason: "the link broke" }) as const;
const attached = (gateway: string) =>
  ({
    level: "info",
    name: "gateway-attached",
    gateway,
    site: "plant",
    incarnation: "one",
    softwareVersion: "1",
  }) as const;

async function setup(rows: readonly EventRow[] = []) {
  const clock = createManualClock();
  const store = { listEvents: async () => ({ items: rows, next: undefined }) };
  const alarms = await openAlarms(store, clock);
  const shown = () => alarms.list().map(({ name, about, times }) => `${name} ${about} ${times}`);
  return { clock, alarms, shown };
}

test("an error is an alarm, once however often it is raised, until another event ends it", async () => {
  const { clock, alarms, shown } = await setup();
  alarms.note(late("g1"));
  clock.advance(1_000);
  alarms.note(late("g2"));
  alarms.note(late("g1"));
  assert.deepEqual(shown(), ["denylist-late g1 2", "denylist-late g2 1"]);
  const [{ firstAtMs, lastAtMs } = assert.fail()] = alarms.list();
  assert.equal(lastAtMs - firstAtMs, 1_000);
  alarms.note({
    ...{ level: "info", name: "denylist-in-effect" },
    ...{ gateway: "g1", sequence: 7, afterMs: 10, cut: 0 },
  });
  assert.deepEqual(shown(), ["denylist-late g2 1"]);
  alarms.note({ level: "error", name: "audit-failed", action: "a", message: "m" });
  assert.equal(shown()[0], "audit-failed null 1");
});

test("a gateway is an alarm as long as it is away; other warnings are none", async () => {
  const { alarms, shown } = await setup();
  alarms.note(detached("g1"));
  alarms.note(detached("g2"));
  alarms.note({ level: "warn", name: "revoked", kind: "device", who: "press-7" });
  alarms.note(attached("g1"));
  assert.deepEqual(shown(), ["gateway-detached g2 1"]);
});

test("what is not raised again is over after a day", async () => {
  const { clock, alarms, shown } = await setup();
  alarms.note(late("g1"));
  clock.advance(limits.alarmMs);
  alarms.note(late("g2"));
  assert.equal(shown().length, 2);
  clock.advance(1);
  assert.deepEqual(shown(), ["denylist-late g2 1"]);
});

test("alarms are bounded, and outlive a restart as far as the store tells", async () => {
  const row = (
    sequence: number,
    { level, name, ...fields }: ReturnType<typeof late>,
  ): EventRow => ({
    ...{ sequence, atMs: 0, level, name, fields },
  });
  const rows = Array.from({ length: limits.alarms + 1 }, (_, i) => row(i, late(`g${i}`)));
  const { alarms } = await setup(rows);
  const listed = alarms.list();
  assert.equal(listed.length, limits.alarms);
  assert.equal(listed.at(-1)?.about, "g1", "the oldest is left out");
});
