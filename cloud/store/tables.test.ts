import assert from "node:assert/strict";
import { test } from "node:test";
import { toJson } from "./tables.js";

test("bytes become PostgreSQL's hexadecimal form, a Node buffer too", () => {
  const json = toJson({ plain: Uint8Array.of(1, 255), buffer: Buffer.from([1, 255]) });
  assert.deepEqual(JSON.parse(json), { plain: "\\x01ff", buffer: "\\x01ff" });
});

test("what PostgreSQL cannot hold is replaced, in names too", () => {
  assert.equal(toJson({ "a\0": "b\ud800" }), '{"a\ufffd":"b\ufffd"}');
});
