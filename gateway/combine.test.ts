import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createManualClock, systemClock } from "@tributary/proto/host/clock.js";
import { openJournal } from "@tributary/proto/host/journal.js";
import { type MemoryDisk, memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import type { TributaryError } from "@tributary/proto/wire/errors.js";
import fc from "fast-check";
import { type Combine, openCombine } from "./combine.js";
import type { Update } from "./ingest.js";
import { encodeUpdate, recordKinds } from "./journal-record.js";
import { limits } from "./limits.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { until } from "./testing/wait.js";

const kernel = loadKernel();
const plan = samplePlan({ layout: [{ name: "w", shape: [2_000] }], encoding: "i16" });
const path = "rounds/s.1.journal";

function open(disk: MemoryDisk, changes: Partial<Parameters<typeof openCombine>[0]> = {}) {
  return openCombine({
    disk,
    path,
    kernel,
    plan,
    subject: plan,
    site: "plant",
    clock: systemClock(),
    random: seededRandom(1),
    uploading: () => 0,
    ...changes,
  });
}

function updateOf(device: string, steps: number, samples = 10): Update & { released: number } {
  const { begin, payload } = sampleUpdate(plan, device, steps, { samples });
  const update = {
    round: plan.round,
    device,
    begin,
    payload,
    released: 0,
    clipped: false,
    release: () => void update.released++,
  };
  return update;
}

/** The value that every coordinate of the sealed sum has. */
async function sealedValue(combine: Combine): Promise<bigint | undefined> {
  const partial = await combine.seal();
  const value = partial?.sum[0];
  assert.ok(partial === undefined || partial.sum.every((other) => other === value));
  return value;
}

describe("commits", () => {
  it("are durable before they are answered, and in the sum", async () => {
    const disk = memoryDisk();
    const combine = await open(disk);
    const update = updateOf("a", 3);
    assert.deepEqual(await combine.commit(update), { ok: true });
    assert.equal(update.released, 1);
    assert.equal(combine.digests.get("a"), update.begin.digest);
    assert.equal(combine.weight, 10);
    disk.crash();
    const again = await open(disk);
    assert.equal(again.digests.get("a"), update.begin.digest);
    assert.equal(await sealedValue(again), 30n);
  });

  it("count what was clipped, also from a journal and a checkpoint", async () => {
    const disk = memoryDisk();
    const clock = createManualClock();
    const first = await open(disk);
    await first.commit({ ...updateOf("a", 3), clipped: true });
    await first.commit(updateOf("b", 3));
    disk.crash();
    const again = await open(disk, { clock, uploading: () => 1 });
    const more = Array.from({ length: 40 }, (_, i) => ({ ...updateOf(`d${i}`, 1), clipped: true }));
    const commits = more.map((update) => again.commit(update));
    clock.advance(250);
    await Promise.all(commits);
    assert.ok(disk.bytesAppended < 40 * 4_000, `${disk.bytesAppended} bytes`);
    disk.crash();
    const last = await open(disk);
    assert.equal((await last.seal())?.clipped, 41);
  });

  it("share a sync when they come while one is under way", async () => {
    const disk = memoryDisk();
    const combine = await open(disk);
    const before = disk.syncs;
    const verdicts = await Promise.all(
      Array.from({ length: 30 }, (_, i) => combine.commit(updateOf(`d${i}`, i))),
    );
    assert.ok(verdicts.every((verdict) => verdict.ok));
    assert.ok(disk.syncs - before <= 3, `${disk.syncs - before} syncs`);
    assert.equal(await sealedValue(combine), 10n * 435n);
  });

  it("wait a moment for uploads in progress, and no longer", async () => {
    const disk = memoryDisk();
    const clock = createManualClock();
    let uploading = 1;
    const combine = await open(disk, { clock, uploading: () => uploading });
    const before = disk.syncs;
    const first = combine.commit(updateOf("a", 1));
    const second = combine.commit(updateOf("b", 1));
    assert.equal(disk.syncs, before);
    clock.advance(250);
    await Promise.all([first, second]);
    assert.equal(disk.syncs, before + 1);
    uploading = 0;
    await combine.commit(updateOf("c", 1));
    assert.equal(disk.syncs, before + 2);
  });

  it("write a checkpoint in place of a batch when it is smaller, and free the buffers at once", async () => {
    const disk = memoryDisk();
    const clock = createManualClock();
    const combine = await open(disk, { clock, uploading: () => 1 });
    const updates = Array.from({ length: 40 }, (_, i) => updateOf(`d${i}`, i - 20, 1 + i));
    const commits = updates.map((update) => combine.commit(update));
    // 40 updates of 4,000 bytes; a checkpoint is about 16,000 and some for the contributors.
    assert.ok(updates.every((update) => update.released === 1));
    clock.advance(250);
    await Promise.all(commits);
    assert.ok(disk.bytesAppended < 40 * 4_000, `${disk.bytesAppended} bytes`);
    assert.ok(combine.journalBytes < 40_000, `${combine.journalBytes} bytes`);

    disk.crash();
    const again = await open(disk, { clock });
    assert.equal(again.digests.size, 40);
    assert.equal(again.weight, combine.weight);
    const more = again.commit(updateOf("late", 5, 100));
    clock.advance(250);
    await more;
    const expected = updates.reduce((sum, { begin }, i) => sum + (i - 20) * begin.samples, 500);
    assert.equal(await sealedValue(again), BigInt(expected));
  });
});

describe("a failed write", () => {
  for (const how of ["full", "read-only", "sync"] as const) {
    it(`(${how}) refuses, leaves the sum as it was, and passes`, async () => {
      const disk = memoryDisk();
      const combine = await open(disk);
      await combine.commit(updateOf("a", 3));
      disk.fail(how);
      const update = updateOf("b", 5);
      const refused = await combine.commit(update);
      assert.equal(refused.ok, false);
      assert.equal(!refused.ok && refused.code, how === "full" ? "storage-full" : "storage-failed");
      assert.equal(update.released, 1);
      assert.equal(combine.digests.has("b"), false);
      assert.equal((await combine.commit(updateOf("b", 5))).ok, false);
      disk.fail("none");
      assert.deepEqual(await combine.commit(updateOf("b", 5)), { ok: true });
      assert.equal(await sealedValue(combine), 80n);
    });
  }

  it("of a checkpoint takes back what had folded", async () => {
    const disk = memoryDisk();
    const clock = createManualClock();
    const combine = await open(disk, { clock, uploading: () => 1 });
    const good = combine.commit(updateOf("a", 3));
    clock.advance(250);
    await good;
    disk.fail("full");
    const many = Array.from({ length: 20 }, (_, i) => combine.commit(updateOf(`d${i}`, 1)));
    clock.advance(250);
    const verdicts = await Promise.all(many);
    assert.ok(verdicts.every((verdict) => !verdict.ok));
    disk.fail("none");
    assert.equal(await sealedValue(combine), 30n);
  });
});

describe("replay", () => {
  it("counts an update once that was written twice", async () => {
    const disk = memoryDisk();
    const random = seededRandom(1);
    const journal = await openJournal(disk, path, { limits: limits.journal, random });
    for (const update of [updateOf("a", 3), updateOf("a", 3), updateOf("b", 1)]) {
      await journal.append(recordKinds.update, encodeUpdate(update));
    }
    await journal.close();
    const combine = await open(disk);
    assert.equal(combine.weight, 20);
    assert.equal(await sealedValue(combine), 40n);
  });

  it("refuses a record of a kind that it does not know, and a damaged one", async () => {
    for (const [kind, code] of [
      [9, "journal-version"],
      [recordKinds.update, "journal-corrupt"],
    ] as const) {
      const disk = memoryDisk();
      const random = seededRandom(1);
      const journal = await openJournal(disk, path, { limits: limits.journal, random });
      await journal.append(kind, [new Uint8Array(9)]);
      await journal.close();
      await assert.rejects(open(disk), (error: TributaryError) => error.code === code);
    }
  });
});

describe("sealing", () => {
  it("waits for what is on its way and takes no more", async () => {
    const combine = await open(memoryDisk());
    const coming = combine.commit(updateOf("a", 3));
    const sealing = combine.seal();
    const late = await combine.commit(updateOf("b", 3));
    assert.equal(!late.ok && late.code, "round-closed");
    assert.deepEqual(await coming, { ok: true });
    assert.equal((await sealing)?.weight, 10n);
  });

  it("of an empty round gives nothing; removing takes the file away", async () => {
    const disk = memoryDisk();
    const combine = await open(disk);
    assert.equal(await combine.seal(), undefined);
    assert.ok(await disk.exists(path));
    await combine.remove();
    assert.ok(!(await disk.exists(path)));
  });
});

describe("crashes at any time", () => {
  it("keep every receipted update once, and never a part of one", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer(),
        fc.array(fc.record({ device: fc.nat(12), crash: fc.boolean() }), { maxLength: 25 }),
        async (seed, steps) => {
          const disk = memoryDisk({ random: seededRandom(seed) });
          let combine = await open(disk);
          const receipted = new Map<string, number>();
          for (const [i, { device, crash }] of steps.entries()) {
            const name = `d${device}`;
            if (combine.digests.has(name)) continue;
            const value = 1 + (i % 7);
            const commit = combine.commit(updateOf(name, value, 1));
            if (crash) {
              disk.crash();
              await commit;
              disk.crash();
              combine = await open(disk);
              // Receipted or not, what a restart finds is the truth from then on.
              if (combine.digests.has(name)) receipted.set(name, value);
            } else if ((await commit).ok) receipted.set(name, value);
          }
          assert.deepEqual([...combine.digests.keys()].sort(), [...receipted.keys()].sort());
          const expected = [...receipted.values()].reduce((sum, value) => sum + value, 0);
          assert.equal((await sealedValue(combine)) ?? 0n, BigInt(expected));
        },
      ),
      { numRuns: 60 },
    );
  });
});

it("a journal of many commits is summed again to the bit", async () => {
  const disk = memoryDisk();
  const combine = await open(disk);
  let done = 0;
  for (let i = 0; i < 10; i++)
    void combine.commit(updateOf(`d${i}`, i - 3, i + 1)).then(() => done++);
  await until("all are durable", () => done === 10);
  const live = await combine.seal();
  const replayed = await (await open(disk)).seal();
  assert.deepEqual(replayed, live);
});
