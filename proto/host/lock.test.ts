import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { makeDirectory } from "./directory.js";
import { nodeDisk } from "./disk.js";
import { dataDirFailure } from "./disk-failure.js";
import { acquireLock } from "./lock.js";
import { exitCodeOf, exitCodes } from "./process.js";

const made: string[] = [];
afterEach(async () => {
  for (const dir of made.splice(0)) await rm(dir, { recursive: true });
});
async function scratch(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "tributary-lock-"));
  made.push(dir);
  return dir;
}

const fileInTheWay = { code: "disk-failed", message: /is a file, not a directory.*dataDir/ };

describe("a data directory that cannot be used is refused in words", () => {
  it("where a file is in its place, or in its path", async () => {
    const dir = await scratch();
    await writeFile(join(dir, "file"), "");
    await assert.rejects(acquireLock(join(dir, "file")), fileInTheWay);
    await assert.rejects(acquireLock(join(dir, "file", "below")), fileInTheWay);
  });

  it("where the system takes none, and neither spins", async (t) => {
    if (process.platform !== "linux") return t.skip("needs /proc and /sys");
    await assert.rejects(acquireLock("/proc/nope/data"), { code: "disk-missing" });
    await assert.rejects(nodeDisk("/proc/nope").freeBytes(), { code: "disk-missing" });
    await assert.rejects(acquireLock("/sys/nope"), { code: "disk-read-only", retryable: true });
  });

  it("with what, where, and what to do, and exit code 73", () => {
    for (const [system, words] of [
      ["ENOSPC", /cannot write \/data\/LOCK: its disk is full\. Make room there, or choose/],
      ["EROFS", /its disk is mounted read-only\. Mount it/],
      ["EACCES", /this user may not write there/],
      ["EIO", /i\/o error, open\. Look at its disk/],
    ] as const) {
      const cause = Object.assign(new Error("i/o error, open"), { code: system });
      const failure = dataDirFailure("/data/LOCK", cause);
      assert.match(failure.message, words);
      assert.equal(exitCodeOf(failure), exitCodes.cannotWrite);
    }
  });
});

it("what dead processes had prepared is removed by the next to start, what others prepare is not", async () => {
  const dir = await scratch();
  const old = new Date(Date.now() - 60_000);
  const files = {
    "LOCK.dead": "999999999 1 dead",
    "LOCK-takeover.dead": "999999999 1 dead",
    "LOCK.living": `${process.pid} unknown living`,
    "LOCK.empty-and-old": "",
    "LOCK.empty-and-new": "",
    LOCKER: "999999999 1 of another kind",
  };
  for (const [name, content] of Object.entries(files)) await writeFile(join(dir, name), content);
  await utimes(join(dir, "LOCK.empty-and-old"), old, old);
  const lock = await acquireLock(dir);
  const left = ["LOCK", "LOCK.empty-and-new", "LOCK.living", "LOCKER"];
  assert.deepEqual((await readdir(dir)).sort(), left);
  await lock.release();
});

it("a file that cannot take the place of another leaves nothing behind", async () => {
  const dir = await scratch();
  await mkdir(join(dir, "taken", "below"), { recursive: true });
  await assert.rejects(nodeDisk(dir).writeFileAtomic("taken", [Uint8Array.of(1)]));
  assert.deepEqual(await readdir(dir), ["taken"]);
});

it("a directory is made with those above it, by several at once", async () => {
  const dir = join(await scratch(), "a", "b", "c");
  await Promise.all(Array.from({ length: 8 }, () => makeDirectory(dir)));
  assert.deepEqual(await readdir(dir), []);
});
