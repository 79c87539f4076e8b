import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32c } from "./crc32c.js";

test("CRC-32C has the values of RFC 3720, at once and in parts", () => {
  const ascending = Uint8Array.from({ length: 32 }, (_, i) => i);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a_91_36_aa);
  assert.equal(crc32c(ascending), 0x46_dd_79_4e);
  assert.equal(crc32c(Buffer.from("123456789")), 0xe3_06_92_83);
  for (let cut = 0; cut <= 32; cut++) {
    assert.equal(crc32c(ascending, cut, 32, crc32c(ascending, 0, cut)), 0x46_dd_79_4e);
  }
});
