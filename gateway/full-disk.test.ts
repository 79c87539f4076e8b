import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, open, rm, statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { memoryIndex } from "./testing/memory-store.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

/** Of the system, where there are any. */
const tools = { mount: "mount", unmount: "umount" };
const DISK_BYTES = 16 * 1024 * 1024;
const PIECE = new Uint8Array(64 * 1024);

/** A file system of its own, to be filled; undefined where this user may not mount one. */
async function mountSmallDisk() {
  const dir = await mkdtemp(join(tmpdir(), "gateway-full-"));
  const mounted = spawnSync(tools.mount, ["-t", "tmpfs", "-o", `size=${DISK_BYTES}`, "tmpfs", dir]);
  if (mounted.status !== 0) {
    await rm(dir, { recursive: true });
    return undefined;
  }
  return {
    dir,
    /** Takes every byte that there is. */
    async fill() {
      const file = await open(join(dir, "fill"), "a");
      try {
        for (let bytes = PIECE.length; bytes >= 1; ) {
          const wrote = await file.write(PIECE.subarray(0, bytes)).catch(() => undefined);
          if (wrote === undefined || wrote.bytesWritten === 0) bytes = Math.floor(bytes / 2);
        }
      } finally {
        await file.close();
      }
      const { bavail } = await statfs(dir);
      assert.equal(bavail, 0);
    },
    empty: () => rm(join(dir, "fill")),
    async unmount() {
      spawnSync(tools.unmount, ["-l", dir]);
      await rm(dir, { recursive: true, force: true });
    },
  };
}

describe("a disk that is full to the last byte", () => {
  it("stops no gateway from starting, from keeping what it receipted, and from going on when space is back", async (t) => {
    const disk = await mountSmallDisk();
    if (disk === undefined) return t.skip("a file system can be mounted by root only");
    try {
      const settings = { reserveDiskBytes: 256 * 1024, ballastBytes: 2 * 1024 * 1024 };
      const reducer = await stage.reducer();
      const first = await stage.process(disk.dir, reducer.address, settings);
      const [a, b] = [await stage.device(first, "dev-a"), await stage.device(first, "dev-b")];
      await reported(reducer, 2);
      const ballast = join(disk.dir, "data", "ballast");
      await until("the ballast is there", () => existsSync(ballast));
      const plan = samplePlan();
      reducer.openRound(plan, ["dev-a", "dev-b"]);
      await a.next("offer");
      await b.next("offer");
      const kept = sampleUpdate(plan, "dev-a", 3);
      await a.upload(kept);
      await a.next("receipt");
      await disk.fill();
      await until(
        "it is seen",
        () => (reducer.heard("heartbeat").at(-1)?.freeDiskBytes ?? 1n) === 0n,
      );
      const late = sampleUpdate(plan, "dev-b", 5);
      await b.say("begin", late.begin);
      const refusal = await b.next("refusal");
      assert.equal(refusal.code, "storage-full");
      assert.match(refusal.message, /the gateway's disk is full/);
      await first.kill();

      const second = await stage.process(disk.dir, reducer.address, settings);
      assert.ok(!existsSync(ballast));
      const again = await stage.device(second, "dev-b");
      await again.say("begin", late.begin);
      assert.equal((await again.next("refusal")).code, "storage-full");

      await disk.empty();
      // As a device does after a refusal that may pass.
      for (let asked = 2; again.got("grant").length === 0; asked++) {
        await again.say("begin", late.begin);
        await until("it is answered", () => {
          return again.got("refusal").length + again.got("grant").length >= asked;
        });
      }
      await again.say("chunk", { round: plan.round, offset: 0 }, late.payload);
      await again.next("receipt");
      await until("the Partial arrives", () => reducer.partials.length === 1);
      assert.ok(reducer.partials[0]?.sum.every((value) => value === 80n));
      await until("the ballast is back", () => existsSync(ballast));
    } finally {
      await stage.close();
      await disk.unmount();
    }
  });

  it("is seen at the start, where disk and index are a test's own", async () => {
    const disk = memoryDisk();
    const index = memoryIndex();
    const parts = { disk, database: index.database };
    const reducer = await stage.reducer();
    const dir = await stage.dataDir();
    const first = await stage.gateway(dir, reducer.address, {}, parts);
    await until("the ballast is there", () => disk.bytesAppended >= 64 * 1024);
    await first.close();
    disk.fail("full");
    index.fail("full");
    const second = await stage.gateway(dir, reducer.address, {}, parts);
    const states = () =>
      second.events.flatMap((e) => (e.name === "storage-state" ? [e.state] : []));
    assert.deepEqual(states(), ["full"]);
    assert.equal(await disk.exists("ballast"), false);
    disk.fail("none");
    index.fail("none");
    await until("it takes updates again", () => states().length === 2);
    const a = await stage.device(second, "dev-a");
    await reported(reducer, 1);
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    await a.upload(sampleUpdate(plan, "dev-a", 3));
    await a.next("receipt");
  });

  it("that is read-only is told apart, and passes", async () => {
    const disk = memoryDisk();
    const reducer = await stage.reducer();
    const gateway = await stage.gateway(await stage.dataDir(), reducer.address, {}, { disk });
    const a = await stage.device(gateway, "dev-a");
    await reported(reducer, 1);
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    const update = sampleUpdate(plan, "dev-a", 3);
    await a.say("begin", update.begin);
    await a.next("grant");
    disk.fail("read-only");
    await a.say("chunk", { round: plan.round, offset: 0 }, update.payload);
    assert.equal((await a.next("refusal")).code, "storage-failed");
    await a.say("begin", update.begin);
    assert.equal((await a.next("refusal", 2)).code, "storage-full");
    disk.fail("none");
    const states = () =>
      gateway.events.flatMap((e) => (e.name === "storage-state" ? [e.state] : []));
    await until("it takes updates again", () => states().length === 2);
    assert.deepEqual(states(), ["read-only", "ok"]);
    await a.upload(update);
    await a.next("receipt");
  });
});
