import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decodeCbor, encodeCbor } from "./cbor.js";

const bounds = { depth: 6, items: 1000 };
const hex = (text: string) => Uint8Array.from(Buffer.from(text, "hex"));

test("plain data survives a round trip", () => {
  const leaf = fc.oneof(
    fc.integer(),
    fc.maxSafeInteger(),
    fc.double({ noNaN: true }),
    fc.boolean(),
    fc.string(),
    fc.constant(null),
  );
  const key = fc.string({ minLength: 1 }).filter((name) => name !== "__proto__");
  const value = fc.dictionary(key, fc.oneof(leaf, fc.array(leaf)), { noNullPrototype: true });
  fc.assert(
    fc.property(value, (data) => {
      const decoded = decodeCbor(encodeCbor(data), bounds);
      assert.ok(decoded.ok);
      // -0 and 0 are one value here: CBOR integers have no negative zero.
      assert.deepEqual(JSON.parse(JSON.stringify(decoded.value)), JSON.parse(JSON.stringify(data)));
    }),
  );
});

test("64-bit integers of other encoders are read as numbers", () => {
  const positive = decodeCbor(hex("1b0000010000000000"), bounds);
  const negative = decodeCbor(hex("3b000000ffffffffff"), bounds);
  assert.ok(positive.ok && negative.ok);
  assert.equal(positive.value, 2 ** 40);
  assert.equal(negative.value, -(2 ** 40));
});

test("bytes never make the decoder throw", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const decoded = decodeCbor(bytes, bounds);
      if (!decoded.ok) assert.ok(["malformed", "too-deep", "too-large"].includes(decoded.code));
    }),
    { numRuns: 2000 },
  );
});

test("a million nested arrays are refused by depth, not by the stack", () => {
  const decoded = decodeCbor(new Uint8Array(1_000_000).fill(0x81), bounds);
  assert.ok(!decoded.ok);
  assert.equal(decoded.code, "too-deep");
});

test("an array that announces more items than allowed is refused before it is built", () => {
  const decoded = decodeCbor(hex("9affffffff"), bounds);
  assert.ok(!decoded.ok);
  assert.equal(decoded.code, "too-large");
});

test("many small arrays are refused by the item count", () => {
  const bytes = new Uint8Array(2001).fill(0x80);
  bytes.set(hex("9903e7"), 0);
  const decoded = decodeCbor(bytes, bounds);
  assert.ok(!decoded.ok);
});

for (const [name, bytes] of [
  ["an indefinite array", "9f00ff"],
  ["a tag", "c000"],
  ["an unassigned simple value", "e0"],
  ["text past the end", "6561"],
  ["trailing bytes", "0000"],
  ["nothing", ""],
  ["a reserved length", "1c"],
] as const) {
  test(`${name} is malformed`, () => {
    const decoded = decodeCbor(hex(bytes), bounds);
    assert.ok(!decoded.ok);
    assert.equal(decoded.code, "malformed");
  });
}

test("a __proto__ key does not reach the prototype", () => {
  const decoded = decodeCbor(hex("a1695f5f70726f746f5f5fa16161f5"), bounds);
  assert.ok(decoded.ok);
  assert.equal(({} as { a?: boolean }).a, undefined);
  assert.equal((decoded.value as { a?: boolean }).a, undefined);
});
