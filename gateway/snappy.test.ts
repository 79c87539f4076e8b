import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { expandSnappy } from "./snappy.js";

const expanded = (bytes: readonly number[], most = 1_000) => {
  const found = expandSnappy(Uint8Array.from(bytes), most);
  return found && Buffer.from(found).toString();
};
const codes = (text: string) => [...Buffer.from(text)];

test("literals and copies of each length of offset are expanded", () => {
  assert.equal(expanded([0]), "");
  assert.equal(expanded([3, 2 << 2, ...codes("abc")]), "abc");
  // 61 bytes: the length stands in a byte of its own.
  assert.equal(expanded([61, 60 << 2, 60, ...codes("x".repeat(61))]), "x".repeat(61));
  // One byte of offset, then two, then four; each reaches into what it writes.
  assert.equal(expanded([7, 2 << 2, ...codes("abc"), 1, 3]), "abcabca");
  assert.equal(expanded([7, 2 << 2, ...codes("abc"), (3 << 2) | 2, 2, 0]), "abcbcbc");
  assert.equal(expanded([6, 2 << 2, ...codes("abc"), (2 << 2) | 3, 1, 0, 0, 0]), "abcccc");
});

test("what is no Snappy block, or too large a one, is none", () => {
  assert.equal(expanded([]), undefined);
  assert.equal(expanded([3, 2 << 2, ...codes("abc")], 2), undefined);
  assert.equal(expanded([4, 2 << 2, ...codes("abc")]), undefined);
  assert.equal(expanded([3, 2 << 2, ...codes("ab")]), undefined);
  assert.equal(expanded([7, 2 << 2, ...codes("abc"), 1, 4]), undefined);
  assert.equal(expanded([7, 2 << 2, ...codes("abc"), 1, 0]), undefined);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      assert.ok((expandSnappy(bytes, 500)?.length ?? 0) <= 500);
    }),
  );
});
