import assert from "node:assert/strict";
import { test } from "node:test";
import type { Disk } from "@tributary/proto/host/disk.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import fc from "fast-check";
import { openSlot } from "./slot.js";
import { sampleModel, sampleTask, sampleUpdate } from "./testing/sample.js";
import type { Update } from "./update.js";

const device = "press-7";
const base = sampleModel("s.0");
const update = (number: number): Update => sampleUpdate(sampleTask(`s.${number}`, base), base);

async function held(slot: ReturnType<typeof openSlot>): Promise<Update | undefined> {
  const read = await slot.read();
  assert.ok(read.ok, read.ok ? "" : read.message);
  return read.update && { ...read.update, payload: new Uint8Array(read.update.payload) };
}

test("what is written is read back, after a crash too; what is cleared is gone", async () => {
  const disk = memoryDisk();
  const slot = openSlot(disk, device);
  assert.equal(await held(slot), undefined);
  await slot.write(update(1));
  disk.crash();
  assert.deepEqual(await held(openSlot(disk, device)), update(1));
  await slot.clear(update(1));
  assert.equal(await held(openSlot(disk, device)), undefined);
});

test("a clear that comes after the write of the next update leaves that where it is", async () => {
  const disk = memoryDisk();
  const slot = openSlot(disk, device);
  await slot.write(update(1));
  await slot.write(update(2));
  await slot.clear(update(1));
  assert.equal((await held(openSlot(disk, device)))?.begin.round, "s.2");
  // What was there before a restart is known by what was read.
  const after = openSlot(disk, device);
  await held(after);
  await after.clear(update(1));
  assert.equal((await held(openSlot(disk, device)))?.begin.round, "s.2");
  await after.clear(update(2));
  assert.equal(await held(openSlot(disk, device)), undefined);
});

test("a clear does not overtake the write of the next update", async () => {
  const disk = memoryDisk();
  const slow: Disk = {
    ...disk,
    async remove(path) {
      await new Promise((resolve) => setImmediate(resolve));
      await disk.remove(path);
    },
  };
  const slot = openSlot(slow, device);
  await slot.write(update(1));
  await Promise.all([slot.clear(update(1)), slot.write(update(2))]);
  assert.equal((await held(slot))?.begin.round, "s.2");
});

test("a write that fails rejects, and leaves the slot as it was", async () => {
  for (const how of ["full", "read-only", "sync"] as const) {
    const disk = memoryDisk();
    const slot = openSlot(disk, device);
    disk.fail(how);
    await assert.rejects(slot.write(update(1)));
    disk.fail("none");
    assert.equal(await held(slot), undefined);
    await slot.write(update(2));
    assert.equal((await held(slot))?.begin.round, "s.2");
  }
});

test("whenever the power goes, the slot holds the whole last update or the one before", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.constantFrom("write", "clear"), fc.integer({ min: 1, max: 3 })), {
        maxLength: 8,
      }),
      fc.nat(),
      async (deeds, seed) => {
        const disk = memoryDisk({ random: seededRandom(seed) });
        const slot = openSlot(disk, device);
        let expected: string | undefined;
        for (const [deed, number] of deeds) {
          const round = `s.${number}`;
          if (deed === "write") await slot.write(update(number));
          else await slot.clear(update(number));
          if (deed === "write") expected = round;
          else if (expected === round) expected = undefined;
          disk.crash();
          assert.equal((await held(openSlot(disk, device)))?.begin.round, expected);
        }
      },
    ),
    { numRuns: 50 },
  );
});

test("a flipped bit, a cut file and rubbish are refused and removed, another device's is refused", async () => {
  const disk = memoryDisk();
  const slot = openSlot(disk, device);
  await slot.write(update(1));
  const others = await openSlot(disk, "press-8").read();
  assert.ok(!others.ok && others.message.includes("an update of press-7"));
  assert.ok(await disk.exists("slot"), "it stays for the device that it belongs to");
  const bytes = await disk.readFile("slot");
  const damaged = async (content: Uint8Array): Promise<boolean> => {
    await disk.writeFileAtomic("slot", [content]);
    const read = await slot.read();
    return !read.ok && read.code === "storage-failed" && !(await disk.exists("slot"));
  };
  for (let cut = 0; cut < bytes.length; cut++) assert.ok(await damaged(bytes.subarray(0, cut)));
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const flipped = new Uint8Array(bytes);
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    assert.ok(await damaged(flipped), `bit ${bit}`);
  }
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 64 }), (rubbish) => damaged(rubbish)),
    { numRuns: 100 },
  );
});

test("an update that an earlier release kept, without a checksum, is held on; a damaged one is not", async () => {
  const disk = memoryDisk();
  const slot = openSlot(disk, device);
  await slot.write(update(1));
  const earlier = (await disk.readFile("slot")).subarray(32);
  await disk.writeFileAtomic("slot", [earlier]);
  assert.deepEqual(await held(slot), update(1));
  assert.equal((await openSlot(disk, "press-8").read()).ok, false);
  const { payload } = update(1);
  for (let at = 0; at < payload.length; at++) {
    const damaged = new Uint8Array(earlier);
    damaged[earlier.length - 1 - at] = (damaged[earlier.length - 1 - at] ?? 0) ^ 1;
    await disk.writeFileAtomic("slot", [damaged]);
    assert.equal((await slot.read()).ok, false);
  }
  for (let cut = 0; cut < earlier.length; cut++) {
    await disk.writeFileAtomic("slot", [earlier.subarray(0, cut)]);
    assert.equal((await slot.read()).ok, false);
  }
  await slot.write(update(2));
  assert.deepEqual(await held(slot), update(2));
});

test("without a disk there is nothing to read and nothing to fail", async () => {
  const slot = openSlot(undefined, device);
  await slot.write(update(1));
  assert.equal(await held(slot), undefined);
  await slot.clear(update(1));
});
