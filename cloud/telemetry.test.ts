import assert from "node:assert/strict";
import { test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { encodeHanded } from "@tributary/proto/wire/telemetry.js";
import { takeTelemetry } from "./telemetry.js";
import { memoryStore } from "./testing/memory-store.js";

const clock = createManualClock(9_000);

function telemetry(name: string, sequence: number, entries: readonly unknown[]) {
  const bytes = entries.map((entry) => Buffer.from(encodeCbor(entry)));
  return { class: name, sequence: BigInt(sequence), entries: bytes };
}

test("samples are kept with the gateway's time, once each, and receipted by the last", async () => {
  const store = memoryStore();
  const message = telemetry("metrics", 7, [
    { atMs: 10, bufferBytes: 100, attached: false },
    { atMs: 20, bufferBytes: 200, attached: true },
  ]);
  for (let i = 0; i < 2; i++)
    assert.deepEqual(await takeTelemetry(store, clock, "g1", "i", message), {
      class: "metrics",
      sequence: 8n,
    });
  const { items } = await store.listSamples("g1", { limit: 9 });
  assert.deepEqual(
    items.map(({ atMs, fields }) => [atMs, fields]),
    [
      [20, { bufferBytes: 200, attached: true }],
      [10, { bufferBytes: 100, attached: false }],
    ],
  );
});

test("a gateway's events stand among the cloud's with their gateway and time", async () => {
  const store = memoryStore();
  const event = { atMs: 5, level: "warn", name: "uplink-down", gateway: "made-up", reason: "x" };
  await takeTelemetry(store, clock, "g1", "i", telemetry("logs", 0, [event]));
  const [row] = (await store.listEvents({ limit: 9 })).items;
  const { sequence: _, ...rest } = row ?? { sequence: 0 };
  const fields = { gateway: "g1", reason: "x" };
  assert.deepEqual(rest, { atMs: 5, level: "warn", name: "uplink-down", fields });
});

test("what is unreadable is passed over, and receipted with the rest", async () => {
  const store = memoryStore();
  const bad = [
    { level: "info", name: "no-time" },
    { atMs: 1, nested: { a: 1 } },
    { atMs: 1, level: "loud", name: "x" },
    { atMs: 1, level: "info", name: "Not A Name" },
    { atMs: 1, level: "info", name: "long", text: "x".repeat(wireLimits.telemetryEntryBytes) },
    "text",
  ];
  const message = telemetry("logs", 3, [...bad, { atMs: 2, level: "info", name: "good" }]);
  const receipt = await takeTelemetry(store, clock, "g1", "i", message);
  assert.equal(receipt?.sequence, 9n);
  const { items } = await store.listEvents({ limit: 9 });
  assert.deepEqual(
    items.map(({ name }) => name),
    ["good"],
  );
});

test("a class that is not known, and a message past its bounds, get no receipt", async () => {
  const store = memoryStore();
  const take = (message: ReturnType<typeof telemetry>) =>
    takeTelemetry(store, clock, "g1", "i", message);
  assert.equal(await take(telemetry("videos", 0, [{ atMs: 1 }])), undefined);
  assert.equal(await take(telemetry("metrics", 0, [])), undefined);
  const many = Array.from({ length: wireLimits.telemetryEntries + 1 }, () => ({ atMs: 1 }));
  assert.equal(await take(telemetry("metrics", 0, many)), undefined);
  assert.deepEqual((await store.listSamples("g1", { limit: 9 })).items, []);
});

test("what is handed on for a gateway below is that one's, once, however often it is sent", async () => {
  const store = memoryStore();
  const handed = (sequence: number, entry: object) => {
    const from = { gateway: "leaf", incarnation: "l1", sequence };
    return Buffer.from(encodeHanded({ ...from, entry: encodeCbor(entry) }));
  };
  const own = Buffer.from(encodeCbor({ atMs: 9, attached: true }));
  const [first, second] = [handed(4, { atMs: 1, devices: 3 }), handed(5, { atMs: 2, devices: 4 })];
  const take = (sequence: number, entries: Buffer[], name = "metrics") =>
    takeTelemetry(store, clock, "region", "r1", {
      class: name,
      sequence: BigInt(sequence),
      entries,
    });
  assert.equal((await take(7, [first, own, first]))?.sequence, 9n);
  // The region was killed before it knew of the receipt; the leaf had sent one again.
  await take(7, [first, own, first]);
  await take(10, [first, second]);
  const timesOf = async (gateway: string) =>
    (await store.listSamples(gateway, { limit: 9 })).items.map(({ atMs }) => atMs);
  assert.deepEqual(await timesOf("leaf"), [2, 1]);
  assert.deepEqual(await timesOf("region"), [9]);
  await take(1, [handed(1, { atMs: 3, level: "warn", name: "x", gateway: "made-up" })], "logs");
  const { items } = await store.listEvents({ limit: 9 });
  assert.deepEqual(items[0]?.fields, { gateway: "leaf" });
});
