import assert from "node:assert/strict";
import { sign } from "node:crypto";
import { test } from "node:test";
import { makeKey, publicJwk, publicKey } from "./keys.js";
import { signUpdate, verifyUpdate } from "./statement.js";

const statement = { round: "press-line.4", device: "press-7", digest: "ab".repeat(32) };
const key = makeKey("EdDSA");
const open = publicKey(publicJwk(key));
const signature = signUpdate(statement, key);

test("a device's statement holds for its update alone", () => {
  assert.equal(signature.length, 64);
  assert.ok(verifyUpdate(statement, signature, open));
  for (const change of [
    { round: "press-line.5" },
    { device: "press-8" },
    { digest: "ac".repeat(32) },
    { device: `press-7\ndigest ${"ab".repeat(32)}` },
  ])
    assert.ok(!verifyUpdate({ ...statement, ...change }, signature, open));
  assert.ok(!verifyUpdate(statement, signature, publicKey(publicJwk(makeKey("EdDSA")))));
  assert.ok(!verifyUpdate(statement, signature.subarray(1), open));
  assert.ok(!verifyUpdate(statement, new Uint8Array(0), open));
});

test("what a key signs besides is no statement, and another kind of key says none", () => {
  const bare = sign(null, Buffer.from(statement.digest, "hex"), key);
  assert.ok(!verifyUpdate(statement, bare, open));
  const other = makeKey("ES256");
  const { round, device, digest } = statement;
  const text = `tributary-update-statement/1\nround ${round}\ndevice ${device}\ndigest ${digest}\n`;
  const wrong = sign(null, Buffer.from(text), other);
  assert.ok(!verifyUpdate(statement, wrong, publicKey(publicJwk(other))));
});
