import assert from "node:assert/strict";
import { test } from "node:test";
import { signJws } from "./jws.js";
import { createKeyring } from "./keyring.js";
import { makeKey, publicJwk } from "./keys.js";
import { signWarrant, verifyWarrant } from "./warrant.js";

const signing = { kid: "k1", key: makeKey("EdDSA") };
const jwk = publicJwk(signing.key);
assert.ok(jwk.kty === "OKP");
const keyring = createKeyring({ keys: [{ ...jwk, kid: "k1", alg: "EdDSA", use: "sig" }] });
const asked = {
  id: "cabc",
  digest: "ab".repeat(32),
  updates: [
    { index: 0, round: "s.1", device: "press-7" },
    { index: 4, round: "s.1", device: "press-8" },
  ],
};

test("a warrant holds for what the fleet asks for, and for nothing else", async () => {
  const text = await signWarrant("works", asked, signing);
  const codeOf = async (given: string, of: typeof asked, fleet = "works") => {
    const verdict = await verifyWarrant(given, of, { fleet, keyring });
    return verdict.ok ? "ok" : verdict.code;
  };
  assert.equal(await codeOf(text, asked), "ok");
  const [first, second] = asked.updates;
  assert.ok(first && second);
  for (const other of [
    { ...asked, id: "cabd" },
    { ...asked, digest: "cd".repeat(32) },
    { ...asked, updates: [first] },
    { ...asked, updates: [first, { ...second, device: "press-9" }] },
    { ...asked, updates: [first, { ...second, round: "s.2" }] },
    { ...asked, updates: [first, { ...second, index: 5 }] },
  ])
    assert.equal(await codeOf(text, other), "warrant-invalid");
  assert.equal(await codeOf(text, asked, "others"), "warrant-invalid");
  const forged = await signWarrant("works", asked, { kid: "k1", key: makeKey("EdDSA") });
  assert.equal(await codeOf(forged, asked), "warrant-invalid");
  const kind = { typ: "tributary-denylist+jwt", kid: "k1" };
  const other = await signJws({ fleet: "works" }, kind, { key: signing.key, algorithm: "EdDSA" });
  assert.equal(await codeOf(other, asked), "warrant-invalid");
  for (const none of ["", "x", "a.b.c"]) assert.equal(await codeOf(none, asked), "warrant-invalid");
});
