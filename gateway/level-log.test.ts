import assert from "node:assert/strict";
import { test } from "node:test";
import { readLog } from "./level-log.js";

/** A piece as it stands behind a wrong checksum. */
function piece(length: number, present: number, fill: number): Buffer {
  const bytes = Buffer.alloc(7 + present, fill);
  bytes.writeUInt32LE(1, 0);
  bytes.writeUInt16LE(length, 4);
  bytes[6] = 1;
  return bytes;
}

test("a last piece is torn where less is there than it says, or sectors that are not written", () => {
  const isTorn = (bytes: Buffer) => readLog(bytes, () => false).tornAt === 0;
  assert.ok(isTorn(piece(200, 100, 7)));
  assert.ok(isTorn(piece(2_000, 2_000, 0)));
  assert.ok(!isTorn(piece(200, 200, 7)));
  // No write says that it goes past its block of 32 KiB.
  assert.ok(!isTorn(piece(40_000, 100, 7)));
  assert.deepEqual(readLog(piece(40_000, 100, 7), () => false).damage, [{ offset: 0, bytes: 107 }]);
});
