import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { openBallast } from "./ballast.js";

const BYTES = 3 * 1024 * 1024 + 5;

describe("the ballast", () => {
  it("takes up its place, over a restart, until it is let go", async () => {
    const disk = memoryDisk();
    const ballast = await openBallast(disk, seededRandom(1), BYTES);
    assert.equal(ballast.held, false);
    await Promise.all([ballast.make(), ballast.make()]);
    assert.equal(ballast.held, true);
    assert.equal((await disk.readFile("ballast")).length, BYTES);
    const again = await openBallast(disk, seededRandom(1), BYTES);
    assert.equal(again.held, true);
    const written = disk.bytesAppended;
    await again.make();
    assert.equal(disk.bytesAppended, written);
    assert.equal(await again.release(), true);
    assert.equal(again.held, false);
    assert.equal(await disk.exists("ballast"), false);
    assert.equal(await again.release(), false);
  });

  it("is let go at once on a disk that is full", async () => {
    const disk = memoryDisk();
    await (await openBallast(disk, seededRandom(1), BYTES)).make();
    disk.fail("full");
    const ballast = await openBallast(disk, seededRandom(1), BYTES);
    assert.equal(ballast.held, false);
    assert.equal(await disk.exists("ballast"), false);
    await ballast.make();
    assert.equal(ballast.held, false);
    disk.fail("none");
    await ballast.make();
    assert.equal(ballast.held, true);
  });

  it("is not left behind in part, and may be none", async () => {
    const disk = memoryDisk();
    const file = await disk.openAppend("ballast");
    await file.append([new Uint8Array(10)]);
    disk.fail("sync");
    const ballast = await openBallast(
      { ...disk, exists: async () => false },
      seededRandom(1),
      BYTES,
    );
    await ballast.make();
    assert.equal(ballast.held, false);
    assert.equal(await disk.exists("ballast"), false);
    disk.fail("none");
    const none = await openBallast(disk, seededRandom(1), 0);
    await none.make();
    assert.deepEqual([none.held, await disk.exists("ballast")], [false, false]);
  });
});
