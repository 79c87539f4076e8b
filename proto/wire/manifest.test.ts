import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { chunkCount, chunkLength, makeManifest, verifyChunk, verifyWhole } from "./manifest.js";
import { manifestSchema } from "./plan.js";

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

test("every chunk of the file verifies, and the schema accepts the manifest", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 5000 }), (bytes) => {
      const manifest = makeManifest("s.1", bytes, sha256, 1024);
      assert.ok(manifestSchema.safeParse(manifest).success);
      assert.ok(verifyWhole(manifest, bytes, sha256).ok);
      let covered = 0;
      for (let index = 0; index < chunkCount(manifest); index++) {
        const chunk = bytes.subarray(covered, covered + 1024);
        assert.equal(chunk.length, chunkLength(manifest, index));
        assert.deepEqual(verifyChunk(manifest, covered, chunk, sha256), { ok: true, index });
        covered += chunk.length;
      }
      assert.equal(covered, bytes.length);
    }),
    { numRuns: 50 },
  );
});

test("a wrong offset, length or bit is refused with its code", () => {
  const bytes = Uint8Array.from({ length: 2500 }, (_, i) => i % 251);
  const manifest = makeManifest("s.1", bytes, sha256, 1024);
  const chunk = bytes.slice(0, 1024);
  const code = (offset: number, part: Uint8Array): string => {
    const result = verifyChunk(manifest, offset, part, sha256);
    return result.ok ? "ok" : result.code;
  };
  for (const offset of [-1024, 1, 512, 3072, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 60])
    assert.equal(code(offset, chunk), "bad-offset");
  assert.equal(code(0, chunk.subarray(1)), "bad-offset");
  assert.equal(code(2048, chunk), "bad-offset");
  assert.equal(code(1024, chunk), "digest-mismatch");
  chunk[7] = (chunk[7] as number) ^ 1;
  assert.equal(code(0, chunk), "digest-mismatch");
});

test("nothing lies behind the last chunk, not even an empty one", () => {
  const manifest = makeManifest("s.1", new Uint8Array(2048), sha256, 1024);
  const behind = verifyChunk(manifest, 2048, new Uint8Array(0), sha256);
  assert.ok(!behind.ok && behind.code === "bad-offset");
});

test("a file with a bit changed or a byte missing is not the manifest's", () => {
  const bytes = Uint8Array.from({ length: 2500 }, (_, i) => i % 251);
  const manifest = makeManifest("s.1", bytes, sha256, 1024);
  assert.equal(verifyWhole(manifest, bytes.subarray(1), sha256).ok, false);
  bytes[2499] = 0;
  assert.equal(verifyWhole(manifest, bytes, sha256).ok, false);
});

test("an empty file has no manifest", () => {
  assert.throws(() => makeManifest("s.1", new Uint8Array(0), sha256), RangeError);
});
