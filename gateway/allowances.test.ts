import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { type AllowanceBounds, createAllowances } from "./allowances.js";

const bounds: AllowanceBounds = {
  packets: { perSecond: 10, burst: 100 },
  bytes: { perSecond: 1_000, burst: 5_000 },
  refusals: { perSecond: 1, burst: 20 },
  packetsPerTurn: 8,
  greetingPrice: 30,
  away: 2,
};

function open() {
  const clock = createManualClock();
  return { clock, allowances: createAllowances(bounds, clock) };
}

describe("a device's allowance", () => {
  it("has so many packets at a turn, and waits for the next when they are spent", () => {
    const { clock, allowances } = open();
    const allowance = allowances.take("dev-a");
    assert.equal(allowance.packets, 8);
    allowance.spend(97, 0);
    assert.equal(allowance.packets, 3);
    allowance.spend(3, 0);
    assert.deepEqual([allowance.packets, allowance.waitMs], [0, 100]);
    clock.advance(100);
    assert.equal(allowance.packets, 1);
    assert.equal(allowances.take("dev-b").packets, 8, "each device has its own");
  });

  it("counts bytes: past them nothing is read before they are made up for", () => {
    const { clock, allowances } = open();
    const allowance = allowances.take("dev-a");
    allowance.spend(1, 5_000);
    assert.equal(allowance.packets, 8);
    allowance.spend(1, 2_000);
    assert.deepEqual([allowance.packets, allowance.waitMs], [0, 2_000]);
    clock.advance(2_000);
    assert.equal(allowance.packets, 8);
  });

  it("lets nobody in who has greeted too often, for as long as that takes to be made up for", () => {
    const { clock, allowances } = open();
    const allowance = allowances.take("dev-a");
    for (let i = 0; i < 3; i++) allowance.greet();
    assert.ok(!allowances.barred("dev-a"));
    allowance.greet();
    assert.ok(allowances.barred("dev-a"));
    assert.ok(!allowances.barred("dev-b"));
    clock.advance(2_000);
    assert.ok(!allowances.barred("dev-a"));
  });

  it("ends with too many refusals, and is open again at a quarter of them", () => {
    const { clock, allowances } = open();
    const allowance = allowances.take("dev-a");
    for (let i = 0; i < 20; i++) assert.ok(allowance.refuse(), `refusal ${i + 1}`);
    assert.ok(!allowance.refuse());
    allowances.giveBack("dev-a", allowance);
    assert.ok(allowances.barred("dev-a"));
    clock.advance(5_999);
    assert.ok(allowances.barred("dev-a"));
    clock.advance(1);
    assert.ok(!allowances.barred("dev-a"));
  });

  it("goes with the device, not with its connection", () => {
    const { allowances } = open();
    const older = allowances.take("dev-a");
    older.spend(40, 0);
    const newer = allowances.take("dev-a");
    newer.spend(40, 0);
    allowances.giveBack("dev-a", older);
    newer.spend(17, 0);
    allowances.giveBack("dev-a", newer);
    assert.equal(allowances.take("dev-a").packets, 3);
  });

  it("is forgotten when it is whole, and of those away the oldest past a bound", () => {
    const { clock, allowances } = open();
    for (const device of ["dev-a", "dev-b", "dev-c"]) {
      const allowance = allowances.take(device);
      allowance.spend(99, 0);
      allowances.giveBack(device, allowance);
    }
    assert.equal(allowances.take("dev-a").packets, 8, "the oldest");
    const kept = allowances.take("dev-b");
    assert.equal(kept.packets, 1);
    clock.advance(60_000);
    assert.ok(kept.whole);
  });
});
