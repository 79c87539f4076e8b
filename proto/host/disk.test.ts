import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { diskContract } from "./disk.contract.js";
import { nodeDisk } from "./disk.js";
import { memoryDisk } from "./memory-disk.js";
import { seededRandom } from "./random.js";

diskContract("node", async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-disk-"));
  return { disk: nodeDisk(dir), done: () => rm(dir, { recursive: true }) };
});
diskContract("memory", async () => ({ disk: memoryDisk(), done: async () => {} }));

test("a crash loses at most what was not synced, and never what was", async () => {
  for (let seed = 0; seed < 50; seed++) {
    const disk = memoryDisk({ random: seededRandom(seed) });
    const file = await disk.openAppend("log");
    await file.append([Uint8Array.of(1, 2, 3)]);
    await file.sync();
    await file.append([Uint8Array.of(4, 5, 6)]);
    disk.crash();
    const left = await disk.readFile("log");
    assert.deepEqual([...left.subarray(0, 3)], [1, 2, 3]);
    assert.ok(left.length <= 6);
    await assert.rejects(file.append([Uint8Array.of(7)]));
  }
});

test("a full disk and a read-only one say so", async () => {
  const disk = memoryDisk();
  const file = await disk.openAppend("log");
  disk.fail("full");
  await assert.rejects(file.append([Uint8Array.of(1)]), { code: "disk-full", retryable: true });
  disk.fail("read-only");
  await assert.rejects(disk.writeFileAtomic("x", []), { code: "disk-read-only" });
});
