import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { createRate } from "./rate.js";

const settled = () => new Promise((resolve) => setImmediate(resolve));

describe("a byte rate", () => {
  it("lets a second's worth go at once, then as time passes, in order", async () => {
    const clock = createManualClock();
    const rate = createRate(2_000, clock);
    const gone: string[] = [];
    const take = (name: string, bytes: number) => void rate.take(bytes).then(() => gone.push(name));
    take("a", 2_000);
    take("b", 1_000);
    take("c", 1);
    await settled();
    assert.deepEqual(gone, ["a"]);
    clock.advance(499);
    await settled();
    assert.deepEqual(gone, ["a"]);
    clock.advance(1);
    await settled();
    assert.deepEqual(gone, ["a", "b"]);
    clock.advance(1);
    await settled();
    assert.deepEqual(gone, ["a", "b", "c"]);
  });

  it("saves up no more than a second's worth", async () => {
    const clock = createManualClock();
    const rate = createRate(2_000, clock);
    clock.advance(60_000);
    await rate.take(2_000);
    let gone = false;
    void rate.take(2_000).then(() => {
      gone = true;
    });
    clock.advance(999);
    await settled();
    assert.equal(gone, false);
    clock.advance(1);
    await settled();
    assert.equal(gone, true);
  });

  it("that is not set lets everything go", async () => {
    const rate = createRate(undefined, createManualClock());
    await rate.take(2 ** 30);
    assert.equal(rate.pieceBytes, Number.POSITIVE_INFINITY);
  });

  it("lets nobody wait when it is closed", async () => {
    const clock = createManualClock();
    const rate = createRate(2_000, clock);
    await rate.take(2_000);
    const waiting = rate.take(2_000);
    rate.close();
    await assert.rejects(waiting, /closed/);
    await assert.rejects(rate.take(1), /closed/);
    assert.equal(clock.nextTimerMs(), undefined);
    assert.throws(() => createRate(2_000, clock).take(2_001), RangeError);
  });
});
