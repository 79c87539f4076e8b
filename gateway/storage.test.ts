import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { bufferBudgets, bufferClasses } from "./budgets.js";
import type { GatewayEvent } from "./events.js";
import { limits } from "./limits.js";
import { createStorage, type StorageOptions } from "./storage.js";
import { until } from "./testing/wait.js";
import { watchWrites } from "./watched-disk.js";

const budgets = { control: 100, results: 1_000, metrics: 50, logs: 50 };

async function bench(changes: Partial<StorageOptions> = {}) {
  const clock = createManualClock();
  const events: GatewayEvent[] = [];
  const facts = { free: 10_000, used: 0, promised: 0, count: 0, probe: true, ballast: true };
  const asked: string[] = [];
  const storage = await createStorage({
    disk: {
      freeBytes: async () => facts.free,
      list: async () => [],
      openRead: () => Promise.reject(new Error("unused")),
      remove: async () => {},
      async writeFileAtomic() {
        if (!facts.probe) throw new TributaryError("disk-full", "no", { retryable: true });
      },
    },
    store: { putNote: async () => {} },
    outbox: {
      get count() {
        return facts.count;
      },
      async condense() {
        asked.push("condense");
      },
      async sweep() {
        asked.push("sweep");
      },
    },
    telemetry: {
      use: () => [
        { name: "metrics", bytes: 7, evicted: 1 },
        { name: "logs", bytes: 8, evicted: 2 },
      ],
      makeRoom: (bytes) => asked.push(`make room for ${bytes}`),
    },
    clock,
    use: { usedBytes: () => facts.used, promisedBytes: () => facts.promised },
    budgets,
    reserveDiskBytes: 100,
    ballast: {
      bytes: 10,
      get held() {
        return facts.ballast;
      },
      async make() {
        asked.push("make ballast");
      },
      async release() {
        asked.push("release ballast");
        return true;
      },
    },
    events: (event) => events.push(event),
    ...changes,
  });
  const states = () =>
    events.filter((e) => e.name === "storage-state").map((e) => ("state" in e ? e.state : ""));
  /** Lets time pass, a look at a time, until storage is in a state. */
  const becomes = async (state: string) => {
    await until(`it is ${state}`, () => {
      if (storage.state !== state) clock.advance(clock.nextTimerMs() ?? 0);
      return storage.state === state;
    });
  };
  return { clock, events, facts, asked, storage, states, becomes };
}

describe("the storage budget", () => {
  it("counts what is kept and what open rounds will need", async () => {
    const { storage, facts } = await bench();
    Object.assign(facts, { used: 500, promised: 300 });
    assert.ok(storage.fits(200));
    assert.ok(!storage.fits(201));
  });

  it("leaves the reserve of the disk alone, and has telemetry make way before it refuses", async () => {
    const short = await bench({
      disk: {
        freeBytes: async () => 600,
        list: async () => [],
        openRead: () => Promise.reject(new Error("unused")),
        remove: async () => {},
        writeFileAtomic: async () => {},
      },
    });
    short.facts.promised = 300;
    assert.ok(short.storage.fits(200));
    // Nor is the place of the ballast anybody's while that is not there.
    short.facts.ballast = false;
    assert.ok(short.storage.fits(190));
    assert.ok(!short.storage.fits(191));
    assert.deepEqual(short.asked.slice(-2), ["condense", "make room for 1"]);
  });

  it("bounds the Partials, and takes a disk that does not answer for full", async () => {
    const { storage, facts } = await bench();
    facts.count = limits.outboxPartials;
    assert.ok(!storage.fits(1));
    const silent = await bench({
      disk: {
        freeBytes: () => Promise.reject(new Error("gone")),
        list: async () => [],
        openRead: () => Promise.reject(new Error("gone")),
        remove: async () => {},
        writeFileAtomic: () => Promise.reject(new Error("gone")),
      },
    });
    assert.equal(silent.storage.state, "full");
    assert.ok(!silent.storage.fits(1));
  });

  it("is each class's own, and control that outgrows its share takes from the results'", async () => {
    const disk = memoryDisk();
    await disk.writeFileAtomic("index/1.ldb", [new Uint8Array(300)]);
    const { storage } = await bench({ disk });
    assert.deepEqual(storage.classes(), [
      { name: "control", bytes: 300, budgetBytes: 100, evicted: 0 },
      { name: "results", bytes: 0, budgetBytes: 1_000, evicted: 0 },
      { name: "metrics", bytes: 7, budgetBytes: 50, evicted: 1 },
      { name: "logs", bytes: 8, budgetBytes: 50, evicted: 2 },
    ]);
    assert.ok(storage.fits(800));
    assert.ok(!storage.fits(801));
  });

  it("is shared out as it is set, else a sixteenth to each but the results", () => {
    const shared = bufferBudgets({ budgetBytes: 1 << 20, buffers: {} });
    assert.deepEqual(shared, {
      control: 65_536,
      results: 851_968,
      metrics: 65_536,
      logs: 65_536,
    });
    const set = bufferBudgets({ budgetBytes: 1 << 30, buffers: { logsBytes: 1 << 20 } });
    assert.equal(set.logs, 1 << 20);
    assert.equal(set.metrics, 32 << 20);
    const total = bufferClasses.reduce((sum, name) => sum + set[name], 0);
    assert.equal(total, 1 << 30);
  });
});

describe("storage that takes no more", () => {
  it("says so once, refuses everything, and takes again when there is room", async () => {
    const { storage, facts, states, becomes } = await bench();
    facts.used = 950;
    assert.ok(!storage.fits(100));
    assert.ok(!storage.fits(10));
    assert.ok(!storage.fits(100));
    assert.deepEqual(states(), ["budget"]);
    facts.used = 900;
    await becomes("ok");
    assert.ok(storage.fits(100));
    assert.deepEqual(states(), ["budget", "ok"]);
  });

  it("after a write found the disk full lets the ballast go, and waits until writes succeed again", async () => {
    const { storage, facts, states, becomes, asked, clock } = await bench();
    facts.probe = false;
    storage.writeFailed(new TributaryError("disk-full", "no space"));
    storage.writeFailed(new TributaryError("disk-full", "no space"));
    assert.ok(!storage.fits(1));
    assert.ok(asked.includes("release ballast"));
    for (let n = 0; n < 5; n++) {
      await until("it looks again", () => clock.nextTimerMs() !== undefined);
      clock.advance(clock.nextTimerMs() ?? 0);
    }
    await until("it has looked", () => clock.nextTimerMs() !== undefined);
    assert.deepEqual(states(), ["full"]);
    facts.probe = true;
    await becomes("ok");
    assert.deepEqual(states(), ["full", "ok"]);
    assert.equal(asked.at(-1), "sweep");
    assert.ok(storage.fits(1));
    clock.advance(limits.freeSpaceTtlMs);
    asked.length = 0;
    await storage.refresh();
    assert.deepEqual(asked, ["make ballast"]);
    storage.close();
    assert.equal(clock.nextTimerMs(), undefined);
  });

  it("tells a read-only disk from a full one, and is not led astray by other failures", async () => {
    const { storage, states } = await bench();
    storage.writeFailed(new TributaryError("disk-missing", "no such file"));
    storage.writeFailed(new Error("a bug"));
    assert.deepEqual(states(), []);
    storage.writeFailed(new TributaryError("disk-read-only", "read-only file system"));
    assert.deepEqual(states(), ["read-only"]);
    storage.writeFailed(new TributaryError("disk-full", "no space"));
    assert.deepEqual(states(), ["read-only", "full"]);
  });
});

describe("a watched disk", () => {
  it("tells of each write that fails, and of nothing else", async () => {
    const disk = memoryDisk();
    const told: unknown[] = [];
    const watched = watchWrites(disk, (cause) => told.push((cause as TributaryError).code));
    const file = await watched.openAppend("a");
    await file.append([new Uint8Array(3)]);
    assert.equal(file.size, 3);
    await assert.rejects(watched.readFile("missing"));
    assert.deepEqual(told, []);
    disk.fail("full");
    await assert.rejects(file.append([new Uint8Array(3)]));
    await assert.rejects(file.sync());
    await assert.rejects(watched.writeFileAtomic("b", []));
    await assert.rejects(watched.openAppend("c"));
    disk.fail("read-only");
    await assert.rejects(watched.remove("a"));
    assert.deepEqual(told, ["disk-full", "disk-full", "disk-full", "disk-full", "disk-read-only"]);
    assert.equal((await watched.readFile("a")).length, 3);
  });
});
