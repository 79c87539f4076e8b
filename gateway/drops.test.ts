import assert from "node:assert/strict";
import { test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { createDrops } from "./drops.js";
import type { GatewayEvent } from "./events.js";
import { limits } from "./limits.js";

function open() {
  const clock = createManualClock();
  const told: [string, number, string, string][] = [];
  const drops = createDrops(clock, (event: GatewayEvent) => {
    if (event.name !== "connection-refused") return;
    told.push([event.reason, event.count, event.device, event.detail]);
  });
  return { clock, told, drops };
}

test("the first drop of a reason is told at once, those after it together with their count", () => {
  const { clock, told, drops } = open();
  drops.note("dev-a", "publish", "a");
  drops.note("", "address-rate", "10.0.0.1");
  assert.deepEqual(told.splice(0), [
    ["publish", 1, "dev-a", "a"],
    ["address-rate", 1, "", "10.0.0.1"],
  ]);
  for (let i = 0; i < 1_000; i++) drops.note(`dev-${i}`, "publish", `${i}`);
  assert.deepEqual(told, []);
  clock.advance(limits.dropsReportMs);
  assert.deepEqual(told.splice(0), [["publish", 1_000, "dev-999", "999"]]);
  drops.note("dev-a", "publish", "b");
  assert.deepEqual(told, [], "it goes on");
  clock.advance(limits.dropsReportMs);
  assert.deepEqual(told.splice(0), [["publish", 1, "dev-a", "b"]]);
  clock.advance(limits.dropsReportMs);
  drops.note("dev-a", "publish", "c");
  assert.deepEqual(told, [["publish", 1, "dev-a", "c"]], "after a pause it is told at once again");
});

test("what is counted is told at the end, and no timer is left", () => {
  const { clock, told, drops } = open();
  for (const detail of ["a", "b", "c"]) drops.note("", "packet", detail);
  drops.close();
  assert.deepEqual(told, [
    ["packet", 1, "", "a"],
    ["packet", 2, "", "c"],
  ]);
  assert.equal(clock.nextTimerMs(), undefined);
});
