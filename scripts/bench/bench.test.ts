import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { type BenchName, benches, benchNames } from "./benches.js";
import { type BenchLine, holds, median } from "./line.js";
import type { Sizes } from "./sizes.js";
import { onStage } from "./stage.js";
import { formatTable } from "./table.js";

/** The same ways as the real sizes go, in seconds. */
const tiny: Sizes = {
  fold: [{ parameters: 1_000, blocks: 2 }],
  ingest: { devices: 2, parameters: 70_000, rounds: 1 },
  overhead: { devices: 2, parameters: 100, rounds: 2, warmUp: 1 },
  memory: { parameters: 70_000, few: 1, many: 3 },
  "journal-bytes": { parameters: 70_000, few: 1, many: 3 },
  idle: { devices: 4, devicesPerProcess: 2, looks: 1 },
};

const never = new AbortController().signal;

/** The status of other processes, which `memory`, `idle` and `overhead` read. */
const hasProc = existsSync("/proc/self/status");
const needProc: readonly BenchName[] = ["memory", "idle", "overhead"];

describe("the benches, tiny", () => {
  const outer = process.env.TMPDIR;
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "bench-test-"));
    process.env.TMPDIR = directory;
  });
  after(async () => {
    if (outer === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = outer;
    await rm(directory, { recursive: true, force: true });
  });

  for (const name of benchNames) {
    const skip = needProc.includes(name) && !hasProc ? "needs /proc" : false;
    it(`${name} measures and leaves nothing behind`, { skip, timeout: 120_000 }, async () => {
      const lines = await benches[name](tiny, never);
      assert.ok(lines.length > 0);
      for (const { bench, case: of, value, unit } of lines) {
        assert.equal(bench, name);
        assert.ok(Number.isFinite(value), `${of}: ${value} ${unit}`);
      }
      if (name === "journal-bytes") {
        const updateBytes = tiny[name].parameters * Float32Array.BYTES_PER_ELEMENT;
        assert.ok((lines[0]?.value ?? 0) * 1e6 >= updateBytes);
      }
      assert.deepEqual(readdirSync(directory), []);
    });
  }
});

describe("a stage", () => {
  it("ends a bench that takes too long, and removes its directory", async () => {
    let directory = "";
    const endless = onStage(200, never, async (stage) => {
      directory = stage.directory;
      stage.worker("./broker-worker.js");
      await new Promise(() => {});
    });
    await assert.rejects(endless, /not done within 200 ms/);
    assert.ok(!existsSync(directory));
  });

  it("ends at the signal", async () => {
    const interrupt = new AbortController();
    const endless = onStage(60_000, interrupt.signal, () => {
      interrupt.abort();
      return new Promise(() => {});
    });
    await assert.rejects(endless, /interrupted/);
  });

  it("fails when a process ends that nobody asked to end", async () => {
    const broken = onStage(60_000, never, (stage) =>
      stage.tier({ tier: "gateway", name: "gw", config: { site: "?" }, startedEvent: "none" }),
    );
    await assert.rejects(broken, /gw ended \(78\)/);
  });
});

describe("figures", () => {
  const line = (value: number, changes: Partial<BenchLine> = {}): BenchLine => ({
    bench: "fold",
    case: "a case",
    value,
    unit: "times",
    ...changes,
  });

  it("keep a bar or miss it", () => {
    assert.ok(holds(line(4), { atLeast: 4 }));
    assert.ok(!holds(line(3.9), { atLeast: 4 }));
    assert.ok(holds(line(100), { atMost: 100 }));
    assert.ok(!holds(line(101), { atMost: 100 }));
  });

  it("stand in rows of at most 80 characters that name the bar", () => {
    const long = line(123456.78, { case: "a name without an end ".repeat(9), unit: "MB/s" });
    const table = formatTable([line(3.9, { bar: { atLeast: 4 } }), long]);
    for (const row of table.split("\n")) assert.ok(row.length <= 80, row);
    assert.match(table, /3\.90x {2}>= 4: MISSED/);
  });

  it("take the middle", () => {
    assert.equal(median([3, 1, 2]), 2);
    assert.throws(() => median([]));
  });
});
