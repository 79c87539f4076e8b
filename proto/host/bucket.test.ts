import assert from "node:assert/strict";
import { test } from "node:test";
import { createBucket } from "./bucket.js";
import { createManualClock } from "./clock.js";

test("a bucket gives its burst at once, then what flows in, and is never fuller than its burst", () => {
  const clock = createManualClock();
  const bucket = createBucket({ perSecond: 10, burst: 40 }, clock);
  assert.ok(bucket.full);
  bucket.spend(50);
  assert.equal(bucket.level, -10);
  assert.equal(bucket.waitMs(0), 1_000);
  assert.equal(bucket.waitMs(1), 1_100);
  clock.advance(1_100);
  assert.equal(bucket.level, 1);
  assert.equal(bucket.waitMs(1), 0);
  clock.advance(3_899);
  assert.ok(!bucket.full);
  clock.advance(60_000);
  assert.equal(bucket.level, 40);
  assert.ok(bucket.full);
});
