import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Telemetry as Message } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { readHanded } from "@tributary/proto/wire/telemetry.js";
import { limits } from "./limits.js";
import { createRate } from "./rate.js";
import { openStore, type Store } from "./store.js";
import { openTelemetry } from "./telemetry.js";
import { createTelemetryBelow } from "./telemetry-below.js";
import { openTelemetryBuffer, type TelemetryBuffer } from "./telemetry-buffer.js";
import { memoryIndex } from "./testing/memory-store.js";
import { until } from "./testing/wait.js";

function plant() {
  const disk = memoryDisk({ random: seededRandom(1) });
  const index = memoryIndex();
  const random = seededRandom(2);
  const openOn = async () =>
    openStore({
      path: "memory",
      newIncarnation: () => "inc",
      ledgerRounds: 1,
      receivedPartials: 1,
      expiries: 1,
      database: index.database,
    });
  const buffer = async (
    budgetBytes = 1 << 20,
    name: "metrics" | "logs" = "logs",
    store?: Store,
  ) => {
    const on = store ?? (await openOn());
    return openTelemetryBuffer({ disk, store: on, random, name, budgetBytes });
  };
  return { disk, index, buffer, openOn };
}

const bytesOf = (n: number, length = 100) => new Uint8Array(length).fill(n);

/** Numbers of the entries that wait, as the first byte of each, with the sequence of the first. */
async function waiting(buffer: TelemetryBuffer): Promise<[number, number[]][]> {
  const found: [number, number[]][] = [];
  let after = 0;
  for (;;) {
    const stretch = await buffer.read(after);
    if (stretch === undefined) return found;
    found.push([stretch.sequence, stretch.entries.map(([first = -1]) => first)]);
    after = stretch.sequence + stretch.entries.length - 1;
  }
}

describe("a telemetry buffer", () => {
  it("keeps entries in order, in memory and on disk, until they are receipted", async () => {
    const { disk, buffer } = plant();
    const logs = await buffer();
    for (let n = 1; n <= 3; n++) logs.add(bytesOf(n));
    await logs.flush();
    for (let n = 4; n <= 5; n++) logs.add(bytesOf(n));
    assert.deepEqual(await waiting(logs), [
      [1, [1, 2, 3]],
      [4, [4, 5]],
    ]);
    await logs.forget(2);
    assert.deepEqual((await logs.read(2))?.sequence, 3);
    await logs.forget(4);
    assert.deepEqual(await waiting(logs), [[5, [5]]]);
    assert.deepEqual(await disk.list("telemetry/logs"), []);
    await logs.forget(5);
    assert.equal(logs.bytes, 0);
    assert.equal(logs.evicted, 0);
  });

  it("writes nothing of what was receipted before the next write", async () => {
    const { disk, buffer } = plant();
    const logs = await buffer();
    const before = disk.bytesAppended;
    logs.add(bytesOf(1));
    await logs.forget(1);
    await logs.flush();
    assert.equal(disk.bytesAppended, before);
  });

  it("keeps what was written over a crash, and never gives a sequence twice", async () => {
    const { disk, index, buffer } = plant();
    const first = await buffer();
    for (let n = 1; n <= 3; n++) first.add(bytesOf(n));
    await first.flush();
    for (let n = 4; n <= 6; n++) first.add(bytesOf(n)); // lost
    disk.crash();
    index.crash(0);
    const second = await buffer();
    second.add(bytesOf(7));
    const [kept, fresh] = await waiting(second);
    assert.deepEqual(kept, [1, [1, 2, 3]]);
    assert.deepEqual(fresh?.[1], [7]);
    assert.ok((fresh?.[0] ?? 0) > 6, `sequence ${fresh?.[0]}`);
    await second.flush();
    assert.deepEqual(await waiting(await buffer()), [kept, fresh]);
  });

  it("gives up the oldest past its budget, and counts", async () => {
    const { buffer } = plant();
    const budgetBytes = 64 * 1024;
    const logs = await buffer(budgetBytes);
    const total = 200;
    for (let n = 0; n < total; n++) {
      logs.add(bytesOf(n, 1_000));
      await logs.flush();
      assert.ok(logs.bytes <= budgetBytes + 1_200, `${logs.bytes} bytes`);
    }
    const left = (await waiting(logs)).flatMap(([, entries]) => entries);
    assert.ok(left.length > 40);
    assert.deepEqual(
      left,
      Array.from({ length: left.length }, (_, i) => total - left.length + i),
    );
    assert.equal(logs.evicted, total - left.length);
  });

  it("gives up what it is told to, oldest first, and what is too large or too much for memory", async () => {
    const { buffer } = plant();
    const logs = await buffer(64 * 1024);
    for (let n = 1; n <= 20; n++) {
      logs.add(bytesOf(n, 1_000));
      await logs.flush();
    }
    const before = (await waiting(logs)).length;
    assert.ok((await logs.evict()) > 0);
    assert.equal((await waiting(logs)).length, before - 1);
    const { evicted } = logs;
    logs.add(new Uint8Array(wire.telemetryEntryBytes + 1));
    assert.equal(logs.evicted, evicted + 1);
    for (let n = 0; n < limits.telemetryTailEntries + 3; n++) logs.add(bytesOf(9, 1));
    assert.equal(logs.evicted, evicted + 4);
  });

  it("does without a disk that is full, in bounds, and goes on when it is not", async () => {
    const { disk, index, buffer, openOn } = plant();
    const store = await openOn();
    disk.fail("full");
    index.fail("full");
    const logs = await buffer(1 << 20, "logs", store);
    logs.add(bytesOf(1));
    await logs.flush();
    assert.equal(logs.evicted, 1);
    disk.fail("none");
    index.fail("none");
    await until("a sequence is to be had", () => {
      logs.add(bytesOf(2));
      return logs.bytes > 0;
    });
    await logs.flush();
    assert.ok((await waiting(logs)).length > 0);
    disk.fail("full");
    logs.add(bytesOf(3));
    await logs.flush();
    disk.fail("none");
    await logs.flush();
    const kept = (await waiting(logs)).flatMap(([, entries]) => entries);
    assert.deepEqual([kept.at(-1), kept.filter((n) => n === 3).length], [3, 1]);
  });

  it("goes on without a segment that is damaged", async () => {
    const { disk, buffer } = plant();
    const first = await buffer();
    for (let n = 1; n <= 3; n++) {
      first.add(bytesOf(n));
      await first.flush();
    }
    await first.close();
    const [name] = await disk.list("telemetry/logs");
    disk.flip(`telemetry/logs/${name}`, 8 * 70);
    const second = await buffer();
    second.add(bytesOf(9));
    assert.deepEqual(
      (await waiting(second)).flatMap(([, entries]) => entries),
      [9],
    );
  });
});

async function bench(settings: { perSecond?: number } = {}) {
  const { disk, openOn } = plant();
  const clock = createManualClock(1_000_000);
  const sent: Message[] = [];
  const link = { takes: true };
  const telemetry = await openTelemetry({
    disk,
    store: await openOn(),
    random: seededRandom(2),
    budgets: { metrics: 1 << 20, logs: 1 << 20 },
    send(message) {
      if (link.takes) sent.push(message);
      return link.takes;
    },
    sample: () => ({ devices: 3, attached: link.takes }),
    writable: () => true,
    rate: createRate(settings.perSecond, clock),
    clock,
    nowMs: clock.nowMs,
  });
  const read = (message: Message | undefined) =>
    (message?.entries ?? []).map((bytes) => {
      const decoded = decodeCbor(bytes, { depth: 4, items: 100 });
      return decoded.ok ? decoded.value : undefined;
    });
  const receipt = (message: Message) =>
    telemetry.receipted({
      class: message.class,
      sequence: message.sequence + BigInt(message.entries.length - 1),
    });
  const use = (name: string) =>
    telemetry.use().find((each) => each.name === name) ?? assert.fail(name);
  return { clock, sent, link, telemetry, use, read, receipt };
}
const started = { level: "info", name: "gateway-stopped", gateway: "gw-1" } as const;

describe("telemetry", () => {
  it("sends events at info and above, and a sample a minute, and lets go on a receipt only", async () => {
    const { clock, sent, telemetry, read, receipt, use } = await bench();
    telemetry.note(started);
    telemetry.note({ level: "debug", name: "device-connected", device: "dev-a" });
    clock.advance(limits.telemetryDelayMs);
    await until("the event is sent", () => sent.length === 1);
    const [first] = sent as [Message];
    assert.equal(first.class, "logs");
    assert.deepEqual(read(first), [{ atMs: 1_000_000, ...started }]);
    telemetry.note({ ...started, gateway: "gw-2" });
    clock.advance(limits.telemetryDelayMs);
    assert.equal(sent.length, 1, "one message at a time");
    receipt(first);
    await until("the next is sent", () => sent.length === 2);
    receipt(sent[1] as Message);
    await until("logs are gone", () => use("logs").bytes === 0);
    clock.advance(limits.sampleMs);
    await until("the sample is sent", () => sent.some((m) => m.class === "metrics"));
    const sample = sent.find((m) => m.class === "metrics") as Message;
    assert.deepEqual(read(sample), [{ atMs: 1_060_000, devices: 3, attached: true }]);
    receipt(sample);
    await until("metrics are gone", () => use("metrics").bytes === 0);
    await telemetry.close();
    assert.equal(clock.nextTimerMs(), undefined);
  });

  it("waits for a link, and sends again what was not receipted", async () => {
    const { clock, sent, link, telemetry } = await bench();
    link.takes = false;
    telemetry.note(started);
    clock.advance(limits.telemetryDelayMs);
    assert.equal(sent.length, 0);
    link.takes = true;
    telemetry.attached();
    await until("it is sent", () => sent.length === 1);
    telemetry.attached(); // the link was lost in between
    await until("it is sent again", () => sent.length === 2);
    clock.advance(limits.telemetryRetryMs);
    await until("it is sent after a silence, too", () => sent.length === 3);
    assert.deepEqual(new Set(sent.map(({ sequence }) => sequence)).size, 1);
  });

  it("bounds its events, and says how many it left out", async () => {
    const { clock, sent, telemetry, read, receipt } = await bench();
    for (let n = 0; n < limits.logsPerMinute + 25; n++) telemetry.note(started);
    clock.advance(limits.sampleMs);
    telemetry.note(started);
    const logs = () => sent.filter((message) => message.class === "logs");
    const all = () => logs().flatMap(read);
    for (let n = 1; all().length < limits.logsPerMinute + 2; n++) {
      await until("a message is sent", () => logs().length === n);
      receipt(logs().at(-1) as Message);
    }
    assert.deepEqual(all().slice(-2), [
      { atMs: 1_060_000, level: "warn", name: "events-suppressed", count: 25 },
      { atMs: 1_060_000, ...started },
    ]);
  });

  it("gives up logs before metrics", async () => {
    const { clock, telemetry, use, link } = await bench();
    link.takes = false;
    telemetry.note(started);
    clock.advance(limits.sampleMs);
    // Both are being written now; what is given up is what has been.
    telemetry.makeRoom(1);
    await until("a log is given up", () => use("logs").evicted === 1);
    assert.equal(use("metrics").evicted, 0);
    await until("a sample is given up", () => {
      if (use("metrics").evicted === 0) telemetry.makeRoom(1);
      return use("metrics").evicted === 1;
    });
    assert.deepEqual(telemetry.use(), [
      { name: "metrics", bytes: 0, evicted: 1 },
      { name: "logs", bytes: 0, evicted: 1 },
    ]);
  });

  it("keeps to the uplink's rate", async () => {
    const { clock, sent, telemetry } = await bench({ perSecond: 1_024 });
    for (let n = 0; n < 100; n++) telemetry.note(started);
    clock.advance(limits.telemetryDelayMs);
    await until("it waits", () => (clock.nextTimerMs() ?? 0) > 0);
    assert.equal(sent.length, 0);
    await until("it is sent", () => {
      clock.advance(100);
      return sent.length === 1;
    });
    const bytes = sent[0]?.entries.reduce((sum, { length }) => sum + length, 0) ?? 0;
    assert.ok(clock.monotonicMs() >= limits.telemetryDelayMs + ((bytes - 1_024) / 1_024) * 1_000);
  });
});

describe("telemetry of a gateway below", () => {
  async function regional() {
    const { disk, index, buffer, openOn } = plant();
    const store = await openOn();
    const buffers = {
      metrics: await buffer(1 << 20, "metrics", store),
      logs: await buffer(1 << 20, "logs", store),
    };
    const state = { writable: true, kept: 0 };
    const below = createTelemetryBelow({
      buffers,
      writable: () => state.writable,
      onKept: () => void state.kept++,
    });
    const take = (sequence: number, entries: readonly Uint8Array[], name = "logs") =>
      below.take("leaf", "i1", {
        class: name,
        sequence: BigInt(sequence),
        entries: entries.map((entry) => Buffer.from(entry)),
      });
    /** Of each entry that waits: who noted it, its number there, and its first byte. */
    const handed = async (from = buffers.logs) => {
      const stretch = await from.read(0);
      return (stretch?.entries ?? []).map((bytes) => {
        const { gateway, incarnation, sequence, entry = [] } = readHanded(bytes) ?? {};
        return [gateway, incarnation, sequence, entry[0]];
      });
    };
    return { disk, index, buffer, buffers, state, take, handed };
  }
  const both = [
    ["leaf", "i1", 5, 1],
    ["leaf", "i1", 6, 2],
  ];

  it("is receipted once it is durable here, and keeps its name and number", async () => {
    const { disk, index, buffer, state, take, handed } = await regional();
    assert.deepEqual(await take(5, [bytesOf(1), bytesOf(2)]), { class: "logs", sequence: 6n });
    assert.equal(state.kept, 1);
    disk.crash();
    index.crash(0);
    assert.deepEqual(await handed(await buffer()), both);
  });

  it("is kept once when it is sent again, in part with what is new", async () => {
    const { take, handed } = await regional();
    await take(5, [bytesOf(1)]);
    assert.deepEqual(await take(5, [bytesOf(1), bytesOf(2)]), { class: "logs", sequence: 6n });
    assert.deepEqual(await take(5, [bytesOf(1), bytesOf(2)]), { class: "logs", sequence: 6n });
    assert.deepEqual(await handed(), both);
  });

  it("that has come through another gateway below keeps the first name", async () => {
    const { take, buffers, handed } = await regional();
    await take(5, [bytesOf(1), bytesOf(2)]);
    const passed = (await buffers.logs.read(0))?.entries ?? [];
    await take(900, passed, "metrics");
    assert.deepEqual(await handed(buffers.metrics), both);
  });

  it("stays below while it cannot be written here", async () => {
    const { disk, state, take, handed } = await regional();
    disk.fail("full");
    assert.equal(await take(5, [bytesOf(1), bytesOf(2)]), undefined);
    disk.fail("none");
    state.writable = false;
    assert.equal(await take(5, [bytesOf(1), bytesOf(2)]), undefined);
    state.writable = true;
    assert.notEqual(await take(5, [bytesOf(1), bytesOf(2)]), undefined);
    // Twice where the first write may have come half way: whoever stores it knows it again.
    const keys = (await handed()).map((entry) => JSON.stringify(entry));
    assert.deepEqual(
      [...new Set(keys)],
      both.map((entry) => JSON.stringify(entry)),
    );
    for (let n = 0; n < 10; n++) {
      disk.fail("full");
      const many = Array.from({ length: wire.telemetryEntries }, () => bytesOf(3));
      assert.equal(await take(100 + n * wire.telemetryEntries, many), undefined);
    }
    disk.fail("none");
    assert.notEqual(await take(7, [bytesOf(3)]), undefined);
  });

  it("of a class or size that is not known here is not receipted", async () => {
    const { take } = await regional();
    assert.equal(await take(0, [bytesOf(1)], "videos"), undefined);
    assert.equal(await take(0, []), undefined);
    const many = Array.from({ length: wire.telemetryEntries + 1 }, () => bytesOf(1, 1));
    assert.equal(await take(0, many), undefined);
  });
});
