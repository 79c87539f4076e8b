import assert from "node:assert/strict";
import { test } from "node:test";
import { createHasher, sha256 } from "./digest.js";

// FIPS 180-2, appendix B.1.
const ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

test("bytes, text, pieces and increments give the same digest", () => {
  const bytes = new TextEncoder().encode("abc");
  assert.equal(sha256(bytes), ABC);
  assert.equal(sha256("abc"), ABC);
  assert.equal(sha256([bytes.subarray(0, 1), "b", bytes.subarray(2)]), ABC);
  assert.equal(createHasher().update("a").update(bytes.subarray(1)).digest(), ABC);
});
