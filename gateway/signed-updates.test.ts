import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type MemoryDisk, memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import { signUpdate } from "@tributary/proto/identity/statement.js";
import { openSignedUpdates, type SignedUpdatesOptions } from "./signed-updates.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";

const key = makeKey("EdDSA");
const DAY_MS = 86_400_000;

function signed(round: string, device: string, steps = 3) {
  const { begin, payload } = sampleUpdate(samplePlan({ round }), device, steps);
  const signature = signUpdate({ round, device, digest: begin.digest }, key);
  return { begin: { ...begin, signature }, payload };
}

function stage(changes: Partial<SignedUpdatesOptions> = {}, disk: MemoryDisk = memoryDisk()) {
  const said: string[] = [];
  const time = { nowMs: 1_000 };
  const options = {
    disk,
    budgetBytes: 1_000_000,
    keepMs: 7 * DAY_MS,
    fits: () => true,
    logicalMs: () => time.nowMs,
    events: (event: { name: string; round?: string; reason?: string }) =>
      void said.push([event.name, event.round, event.reason].filter(Boolean).join(" ")),
    ...changes,
  };
  return { disk, said, time, open: () => openSignedUpdates(options) };
}

describe("signed updates", () => {
  it("are read as they were kept, also by the next run", async () => {
    const { disk, open, said } = stage();
    const kept = await open();
    const a = signed("s.1", "a");
    const b = signed("s.1", "b", 5);
    await kept.keep("a", a.begin, a.payload);
    await kept.keep("a", a.begin, a.payload);
    await kept.keep("b", b.begin, b.payload);
    const { bytes } = kept;
    kept.sealed("s.1");
    await kept.close();
    disk.crash();
    for (const run of [kept, await open()]) {
      assert.equal(run.bytes, bytes);
      for (const [device, { begin, payload }] of [
        ["a", a],
        ["b", b],
      ] as const) {
        const read = await run.read("s.1", device);
        assert.equal(read?.begin.digest, begin.digest);
        assert.deepEqual(Buffer.from(read.begin.signature ?? []), Buffer.from(begin.signature));
        assert.deepEqual(Buffer.from(read.payload), Buffer.from(payload));
      }
      assert.equal(await run.read("s.1", "c"), undefined);
      assert.equal(await run.read("s.2", "a"), undefined);
    }
    assert.deepEqual(said, []);
  });

  it("of site rounds are found by the cloud's round, the newest first, and by the stretch's", async () => {
    const kept = await stage().open();
    for (const [round, steps] of [
      ["s.1.1", 1],
      ["s.1.10", 3],
      ["s.1.2", 2],
    ] as const) {
      const { begin, payload } = signed(round, "a", steps);
      await kept.keep("a", begin, payload);
    }
    const roundOf = async (round: string) => (await kept.read(round, "a"))?.begin.round;
    assert.equal(await roundOf("s.1"), "s.1.10");
    assert.equal(await roundOf("s.1.3"), "s.1.10");
    assert.equal(await roundOf("s.1.11"), undefined);
    assert.equal(await roundOf("s.10"), undefined);
    await kept.close();
  });

  it("past their room go by whole rounds, the oldest first; a round that fills it alone keeps what it has", async () => {
    const { open, said } = stage({ budgetBytes: 4_000 });
    const kept = await open();
    for (let round = 1; round <= 9; round++) {
      for (const device of ["a", "b"]) {
        const { begin, payload } = signed(`s.${round}`, device);
        await kept.keep(device, begin, payload);
      }
      assert.ok(kept.bytes <= 4_000, `${kept.bytes}`);
    }
    assert.equal(said[0], "signed-updates-dropped s.1 room");
    assert.equal(await kept.read("s.1", "a"), undefined);
    assert.ok(await kept.read("s.9", "b"));
    said.length = 0;
    for (let device = 0; device < 9; device++) {
      const { begin, payload } = signed("s.10", `d${device}`);
      await kept.keep(`d${device}`, begin, payload);
    }
    assert.ok(kept.bytes <= 4_000);
    assert.equal(said.filter((line) => line === "signed-updates-full s.10").length, 1);
    assert.ok(await kept.read("s.10", "d0"));
    assert.equal(await kept.read("s.10", "d8"), undefined);
    await kept.close();
  });

  it("are not kept where the disk has no room to spare", async () => {
    let free = true;
    const { open, said } = stage({ fits: () => free });
    const kept = await open();
    const [a, b] = [signed("s.1", "a"), signed("s.1", "b")];
    await kept.keep("a", a.begin, a.payload);
    free = false;
    await kept.keep("b", b.begin, b.payload);
    assert.ok(await kept.read("s.1", "a"));
    assert.equal(await kept.read("s.1", "b"), undefined);
    assert.deepEqual(said, ["signed-updates-full s.1"]);
    await kept.close();
  });

  it("of a round that has sealed do not hold up the next one's", async () => {
    const { disk, open } = stage();
    let finish = () => {};
    const slow: MemoryDisk = {
      ...disk,
      async openAppend(path) {
        const file = await disk.openAppend(path);
        const sync = () => new Promise<void>((done) => (finish = done)).then(() => file.sync());
        return path.includes("s.1") ? Object.assign(Object.create(file), { sync }) : file;
      },
    };
    const kept = await stage({ disk: slow }).open();
    const [a, b] = [signed("s.1", "a"), signed("s.2", "a")];
    await kept.keep("a", a.begin, a.payload);
    kept.sealed("s.1");
    await kept.keep("a", b.begin, b.payload);
    assert.ok(await kept.read("s.1", "a"));
    assert.ok(await kept.read("s.2", "a"));
    const closed = kept.close();
    finish();
    await closed;
    disk.crash();
    const again = await open();
    assert.ok(await again.read("s.1", "a"));
    await again.close();
  });

  it("go when they are old", async () => {
    const { open, said, time } = stage({ keepMs: DAY_MS });
    const kept = await open();
    const keep = async (round: string) => {
      const { begin, payload } = signed(round, "a");
      await kept.keep("a", begin, payload);
    };
    await keep("s.1");
    time.nowMs += DAY_MS;
    await keep("s.2");
    assert.ok(await kept.read("s.1", "a"));
    time.nowMs += 1;
    await keep("s.3");
    assert.equal(await kept.read("s.1", "a"), undefined);
    assert.deepEqual(said, ["signed-updates-dropped s.1 age"]);
    await kept.close();
  });

  it("that a crash tore are cut off, and those before them stay", async () => {
    const { disk, open } = stage();
    const kept = await open();
    for (const device of ["a", "b"]) {
      const { begin, payload } = signed("s.1", device);
      await kept.keep(device, begin, payload);
    }
    await kept.close();
    const path = "signed/s.1.updates";
    const file = await disk.openAppend(path);
    await file.truncate(file.size - 1);
    await file.sync();
    await file.close();
    const again = await open();
    assert.ok(await again.read("s.1", "a"));
    assert.equal(await again.read("s.1", "b"), undefined);
    const { begin, payload } = signed("s.1", "b");
    await again.keep("b", begin, payload);
    assert.ok(await again.read("s.1", "b"));
    await again.close();
  });

  it("that the disk does not take are told of, and hold up nothing", async () => {
    const { disk, open, said } = stage();
    const kept = await open();
    const { begin, payload } = signed("s.1", "a");
    disk.fail("full");
    await kept.keep("a", begin, payload);
    assert.equal(await kept.read("s.1", "a").catch(() => undefined), undefined);
    disk.fail("none");
    await kept.keep("a", begin, payload);
    assert.ok(await kept.read("s.1", "a"));
    assert.deepEqual(said, ["storage-failed"]);
    await kept.close();
  });
});
