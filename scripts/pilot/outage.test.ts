import assert from "node:assert/strict";
import { test } from "node:test";
import { InvalidArgumentError } from "commander";
import { outageNote, readOutage } from "./outage.js";

test("an outage is scaled as far as a run needs, and says so", () => {
  const lasts = (text: string) => {
    const { lastsMs, scale } = readOutage(text);
    return [lastsMs, scale];
  };
  assert.deepEqual(lasts("6s"), [6_000, 1]);
  assert.deepEqual(lasts("20s"), [20_000, 1]);
  assert.deepEqual(lasts("5m"), [20_000, 15]);
  assert.deepEqual(lasts("10m"), [20_000, 30]);
  assert.deepEqual(lasts("15m"), [30_000, 30]);
  assert.deepEqual(lasts("6h"), [40_000, 540]);
  assert.deepEqual(lasts("6d"), [40_000, 12_960]);
  assert.deepEqual(lasts("1500ms"), [1_500, 1]);
  assert.deepEqual(lasts("1.5h"), [40_000, 135]);
  assert.match(
    outageNote(readOutage("10m")),
    /10m, run 30 times faster .* away for 20 s\. Only the/,
  );
  assert.equal(outageNote(readOutage("6s")), "An outage of 6s, in real time.");
});

test("what is no duration, or out of bounds, is refused", () => {
  for (const text of ["", "10", "m", "-1m", "1e3s", "10 m", "0s", "999ms", "31d", "1w"])
    assert.throws(() => readOutage(text), InvalidArgumentError, text);
});
