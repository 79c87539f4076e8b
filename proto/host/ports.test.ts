import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createChannel } from "./channel.js";
import { createManualClock } from "./clock.js";
import { acquireLock } from "./lock.js";
import { jitteredBackoff, seededRandom, systemRandom } from "./random.js";

test("a manual clock fires timers in the order of their times", () => {
  const clock = createManualClock(1000);
  const fired: string[] = [];
  clock.setTimer(20, () => fired.push(`b@${clock.monotonicMs()}`));
  clock.setTimer(10, () => {
    fired.push(`a@${clock.monotonicMs()}`);
    clock.setTimer(5, () => fired.push(`c@${clock.monotonicMs()}`));
  });
  clock.setTimer(12, () => fired.push("cancelled")).cancel();
  clock.advance(30);
  assert.deepEqual(fired, ["a@10", "c@15", "b@20"]);
  assert.equal(clock.nowMs(), 1030);
});

test("one seed gives one sequence", () => {
  const a = seededRandom(5);
  const b = seededRandom(5);
  assert.deepEqual(Array.from({ length: 9 }, a.next), Array.from({ length: 9 }, b.next));
  assert.notEqual(seededRandom(6).next(), seededRandom(5).next());
  assert.match(systemRandom().id(12), /^[a-z][a-z0-9]{11}$/);
});

test("back-off grows to its cap and is spread over all of it", () => {
  const random = seededRandom(1);
  const waits = Array.from({ length: 500 }, () =>
    jitteredBackoff(random, 30, { baseMs: 10, capMs: 1000 }),
  );
  assert.ok(Math.max(...waits) <= 1000 && Math.max(...waits) > 900 && Math.min(...waits) < 100);
  assert.ok(jitteredBackoff(random, 0, { baseMs: 10, capMs: 1000 }) <= 10);
});

test("a full channel makes its producer wait, and a closed one is read to its end", async () => {
  const channel = createChannel<number>({ capacity: 2 });
  const pushed: number[] = [];
  const producing = (async () => {
    for (let i = 0; i < 5; i++) {
      await channel.push(i);
      pushed.push(i);
    }
    channel.close();
  })();
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(pushed, [0, 1]);
  assert.equal(channel.tryPush(9), false);
  const read: number[] = [];
  for await (const item of channel) read.push(item);
  await producing;
  assert.deepEqual(read, [0, 1, 2, 3, 4]);
  await assert.rejects(channel.push(7), { code: "channel-closed" });
});

test("a data directory has one owner, and a dead one's lock is taken over", async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-lock-"));
  const lock = await acquireLock(dir);
  await assert.rejects(acquireLock(dir), {
    code: "data-dir-locked",
    message: new RegExp(`process ${process.pid}`),
  });
  await lock.release();
  const child = spawn(process.execPath, ["-e", ""]);
  await once(child, "close");
  await writeFile(join(dir, "LOCK"), `${child.pid} 1`);
  const taken = await acquireLock(dir);
  assert.match(await readFile(join(dir, "LOCK"), "utf8"), new RegExp(`^${process.pid} `));
  await taken.release();
  // The number of a living process, but of an earlier one with it.
  await writeFile(join(dir, "LOCK"), `${process.pid} 1`);
  await (await acquireLock(dir)).release();
  // Left by one that was killed while it took over, before the clock was set back.
  await writeFile(join(dir, "LOCK"), "999999999 1 x");
  await writeFile(join(dir, "LOCK-takeover"), "999999999 1 y");
  const later = new Date(Date.now() + 365 * 24 * 3_600_000);
  await utimes(join(dir, "LOCK-takeover"), later, later);
  await (await acquireLock(dir)).release();
  await rm(dir, { recursive: true });
});

/** A process that holds the directory, with threads that write, until it is killed. */
async function ownerOf(dir: string, parent: readonly string[] = []) {
  const module = new URL("./lock.js", import.meta.url).href;
  const script = `
    const { acquireLock } = await import(${JSON.stringify(module)});
    const { open } = await import("node:fs/promises");
    await acquireLock(${JSON.stringify(dir)});
    console.log(process.pid);
    const file = await open(${JSON.stringify(join(dir, "bytes"))}, "w");
    const block = Buffer.alloc(8 * 1024 * 1024);
    await Promise.all([0, 1, 2, 3].map(async (at) => {
      for (;;) {
        await file.write(block, 0, block.length, at * block.length);
        await file.datasync();
      }
    }));`;
  const [program, ...rest] = [...parent, process.execPath, "--input-type=module", "-e", script];
  const child = spawn(program, rest, { stdio: ["ignore", "pipe", "inherit"] });
  const pid = Number(String((await once(child.stdout, "data"))[0]));
  return { child, pid };
}

test("a process that was killed a moment ago gives its directory to whoever starts at once", async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-lock-"));
  for (let n = 0; n < 20; n++) {
    const { pid } = await ownerOf(dir);
    process.kill(pid, "SIGKILL");
    await (await acquireLock(dir)).release();
  }
  await rm(dir, { recursive: true });
});

test("a process that is dead and that its parent has not taken note of owns nothing", async (t) => {
  if (process.platform !== "linux") return t.skip("needs /proc");
  const dir = await mkdtemp(join(tmpdir(), "tributary-lock-"));
  // The shell turns into a program that waits for no child.
  const { child, pid } = await ownerOf(dir, ["sh", "-c", '"$@" & exec sleep 60', "sh"]);
  while (!/sleep/.test(await readFile(`/proc/${child.pid}/comm`, "utf8"))) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  process.kill(pid, "SIGKILL");
  t.after(() => child.kill("SIGKILL"));
  await (await acquireLock(dir)).release();
  assert.match(await readFile(`/proc/${pid}/stat`, "utf8"), / Z /);
  await rm(dir, { recursive: true });
});

test("of many processes that find a dead owner's lock, one gets the directory", async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-lock-"));
  const module = new URL("./lock.js", import.meta.url).href;
  const script = `
    const { acquireLock } = await import(${JSON.stringify(module)});
    process.send("ready");
    await new Promise((go) => process.once("message", go));
    const got = await acquireLock(${JSON.stringify(dir)}).then(() => true, () => false);
    process.send(got);
    await new Promise((done) => process.once("message", done));
    process.disconnect();`;
  const children = Array.from({ length: 6 }, () =>
    spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    }),
  );
  await Promise.all(children.map((child) => once(child, "message")));
  await writeFile(join(dir, "LOCK"), "999999999 1 x");
  const answers = children.map(async (child) => (await once(child, "message"))[0] as boolean);
  for (const child of children) child.send("go");
  const got = await Promise.all(answers);
  assert.equal(got.filter(Boolean).length, 1);
  const gone = children.map((child) => once(child, "close"));
  for (const child of children) child.send("done");
  await Promise.all(gone);
  await rm(dir, { recursive: true });
});
