import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { type Disk, nodeDisk } from "./disk.js";
import { openJournal } from "./journal.js";
import { FILE_HEADER_BYTES } from "./journal-format.js";
import { memoryDisk } from "./memory-disk.js";
import { seededRandom } from "./random.js";

const limits = { frameBytes: 1 << 20, pendingBytes: 1 << 20 };
const random = seededRandom(7);
const open = (disk: Disk) => openJournal(disk, "j", { limits, random });

async function bodies(disk: Disk): Promise<string[]> {
  const journal = await open(disk);
  const seen: string[] = [];
  await journal.read(({ kind, body }) => void seen.push(`${kind}:${Buffer.from(body)}`));
  await journal.close();
  return seen;
}

async function rewrite(disk: Disk, change: (bytes: Uint8Array) => Uint8Array): Promise<void> {
  await disk.writeFileAtomic("j", [change(await disk.readFile("j"))]);
}

test("frames come back in order from a real file", async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-journal-"));
  const disk = nodeDisk(dir);
  const journal = await open(disk);
  await journal.append(1, [Buffer.from("one"), Buffer.from(" and a half")]);
  await journal.appendBatch([
    { kind: 2, parts: [Buffer.from("two")] },
    { kind: 3, parts: [] },
  ]);
  await journal.close();
  assert.deepEqual(await bodies(disk), ["1:one and a half", "2:two", "3:"]);
  await rm(dir, { recursive: true });
});

test("appends of the same moment share one sync", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  const before = disk.syncs;
  await Promise.all(
    Array.from({ length: 100 }, (_, i) => journal.append(i, [Buffer.from(`${i}`)])),
  );
  assert.ok(disk.syncs - before <= 2, `${disk.syncs - before} syncs`);
  assert.equal((await bodies(disk)).length, 100);
});

test("an append that resolved survives any crash", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.nat(),
      fc.array(fc.nat(400), { minLength: 1, maxLength: 12 }),
      async (seed, sizes) => {
        const chance = seededRandom(seed);
        const disk = memoryDisk({ random: chance });
        let journal = await open(disk);
        const durable: string[] = [];
        for (const [i, size] of sizes.entries()) {
          const body = Buffer.alloc(size, 65 + (i % 26));
          const append = journal.append(i, [body]);
          if (chance.next() < 0.3) {
            // The power goes while the append is under way: it may survive or not, but not in part.
            append.catch(() => {});
            disk.crash();
            await append.catch(() => {});
            journal = await open(disk);
            const seen = await bodies(disk);
            assert.deepEqual(seen.slice(0, durable.length), durable);
            assert.ok(seen.length <= durable.length + 1);
            if (seen.length > durable.length) durable.push(`${i}:${body}`);
          } else {
            await append;
            durable.push(`${i}:${body}`);
          }
        }
        disk.crash();
        assert.deepEqual(await bodies(disk), durable);
      },
    ),
    { numRuns: 200 },
  );
});

test("a tail cut at any byte of the last frame is cut off, and appending goes on", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  await journal.append(1, [Buffer.from("first")]);
  const whole = journal.sizeBytes;
  await journal.append(2, [Buffer.from("second")]);
  await journal.close();
  const bytes = await disk.readFile("j");
  for (let cut = whole; cut < bytes.length; cut++) {
    await disk.writeFileAtomic("j", [bytes.subarray(0, cut)]);
    const reopened = await open(disk);
    assert.equal(reopened.cutBytes, cut - whole);
    await reopened.append(3, [Buffer.from("third")]);
    await reopened.close();
    assert.deepEqual(await bodies(disk), ["1:first", "3:third"]);
  }
});

test("a bad frame with durable frames behind it stops the start and names the place", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  await journal.append(1, [Buffer.from("first")]);
  const second = journal.sizeBytes;
  await journal.append(2, [Buffer.from("second")]);
  await journal.append(3, [Buffer.from("third")]);
  await journal.close();
  const good = await disk.readFile("j");
  for (let at = second; at < second + 28 + 6; at++) {
    await rewrite(disk, () => {
      const bytes = good.slice();
      bytes[at] = (bytes[at] ?? 0) ^ 0x10;
      return bytes;
    });
    await assert.rejects(open(disk), {
      code: "journal-corrupt",
      message: new RegExp(`j is damaged at byte ${second}`),
    });
    assert.equal((await disk.readFile("j")).length, good.length);
  }
});

test("frames of one torn batch are no proof of rot, whichever of them survived", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  await journal.append(1, [Buffer.from("first")]);
  const torn = journal.sizeBytes;
  await journal.appendBatch([
    { kind: 2, parts: [Buffer.from("second")] },
    { kind: 3, parts: [Buffer.from("third")] },
  ]);
  await journal.close();
  await rewrite(disk, (bytes) => bytes.fill(0, torn, torn + 10));
  assert.deepEqual(await bodies(disk), ["1:first"]);
});

test("bytes in a body that look like a frame of another journal prove nothing", async () => {
  const other = memoryDisk();
  const forged = await openJournal(other, "j", { limits, random: seededRandom(99) });
  for (let i = 0; i < 20; i++) await forged.append(9, [Buffer.alloc(100)]);
  await forged.close();
  const disk = memoryDisk();
  const journal = await open(disk);
  await journal.append(1, [Buffer.from("first")]);
  const torn = journal.sizeBytes;
  await journal.append(2, [await other.readFile("j")]);
  await journal.close();
  await rewrite(disk, (bytes) => bytes.fill(0, torn, torn + 10));
  assert.deepEqual(await bodies(disk), ["1:first"]);
});

test("a newer format, another file and a damaged header are refused", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  await journal.append(1, [Buffer.from("x")]);
  await journal.close();
  const good = await disk.readFile("j");
  const { crc32 } = await import("node:zlib");
  const withHeader = (change: (header: DataView) => void) => {
    const bytes = good.slice();
    const view = new DataView(bytes.buffer);
    change(view);
    view.setUint32(20, crc32(bytes.subarray(0, 20)), true);
    return bytes;
  };
  await rewrite(disk, () => withHeader((header) => header.setUint32(8, 2, true)));
  await assert.rejects(open(disk), { code: "journal-version", message: /^j has journal format 2/ });
  await rewrite(disk, () => withHeader((header) => header.setUint8(0, 88)));
  await assert.rejects(open(disk), { code: "journal-corrupt" });
  await rewrite(disk, () => good.with(3, 0));
  await assert.rejects(open(disk), { code: "journal-corrupt" });
  await disk.writeFileAtomic("j", [good.subarray(0, FILE_HEADER_BYTES - 1)]);
  assert.deepEqual(await bodies(disk), []);
});

test("after a failed sync the journal takes nothing until it is opened again", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  await journal.append(1, [Buffer.from("kept")]);
  disk.fail("sync");
  await assert.rejects(journal.append(2, [Buffer.from("lost")]), { code: "disk-failed" });
  disk.fail("none");
  await assert.rejects(journal.append(3, [Buffer.from("refused")]), { code: "disk-failed" });
  disk.crash();
  assert.deepEqual(await bodies(disk), ["1:kept"]);
});

test("what a failed sync left in the file is not read back as durable", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  await journal.append(1, [Buffer.from("kept")]);
  disk.fail("sync");
  await assert.rejects(journal.append(2, [Buffer.from("never synced")]));
  disk.fail("none");
  assert.deepEqual(await bodies(disk), ["1:kept"]);
});

test("frames that a killed process wrote and did not sync are durable once they were read", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  const before = disk.syncs;
  await journal.append(1, [Buffer.from("x")]);
  await journal.close();
  const bytes = await disk.readFile("j");
  const unsynced = await disk.openAppend("k");
  await unsynced.append([bytes]);
  const reopened = await openJournal(disk, "k", { limits, random });
  await reopened.close();
  assert.ok(disk.syncs > before);
  disk.crash();
  assert.equal((await disk.readFile("k")).length, bytes.length);
});

test("a smaller bound refuses larger frames and cuts none", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  await journal.append(1, [new Uint8Array(500)]);
  await journal.close();
  const size = (await disk.readFile("j")).length;
  const smaller = { frameBytes: 100, pendingBytes: 100 };
  await assert.rejects(openJournal(disk, "j", { limits: smaller, random }), {
    code: "frame-too-large",
  });
  assert.equal((await disk.readFile("j")).length, size);
});

test("a full disk is named as such", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  disk.fail("full");
  await assert.rejects(journal.append(1, [Buffer.from("x")]), {
    code: "disk-full",
    retryable: true,
  });
});

test("a frame past the bound is refused and harms nothing", async () => {
  const disk = memoryDisk();
  const journal = await openJournal(disk, "j", {
    limits: { frameBytes: 10, pendingBytes: 100 },
    random,
  });
  await assert.rejects(journal.append(1, [new Uint8Array(11)]), { code: "frame-too-large" });
  await journal.append(1, [new Uint8Array(10)]);
  await journal.remove();
  await assert.rejects(journal.append(1, []), { code: "journal-closed" });
  assert.equal(await disk.exists("j"), false);
});

test("any bent byte gives the frames before it, or a refusal; never other bytes", async () => {
  const disk = memoryDisk();
  const journal = await open(disk);
  for (let i = 0; i < 5; i++) await journal.append(i, [Buffer.alloc(20, 65 + i)]);
  await journal.close();
  const good = await disk.readFile("j");
  const all = await bodies(disk);
  await fc.assert(
    fc.asyncProperty(
      fc.nat(good.length - 1),
      fc.integer({ min: 1, max: 255 }),
      async (at, change) => {
        await disk.writeFileAtomic("j", [good.with(at, (good[at] ?? 0) ^ change)]);
        try {
          const seen = await bodies(disk);
          assert.deepEqual(seen, all.slice(0, seen.length));
        } catch (error) {
          assert.match(String((error as { code?: string }).code), /^journal-/);
        }
      },
    ),
  );
});
