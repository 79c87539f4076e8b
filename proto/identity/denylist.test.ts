import assert from "node:assert/strict";
import { test } from "node:test";
import { denials, judgeDenylist, readDenylist, signDenylist } from "./denylist.js";
import { createKeyring } from "./keyring.js";
import { makeKey, publicJwk } from "./keys.js";
import { identityLimits } from "./limits.js";
import { signDeviceToken } from "./tokens.js";

const fleet = "press-works";
const issuer = { kid: "k1", key: makeKey("EdDSA") };
const jwk = publicJwk(issuer.key);
assert.ok(jwk.kty === "OKP");
const keyring = createKeyring({ keys: [{ ...jwk, kid: "k1", alg: "EdDSA", use: "sig" }] });
const entry = { kind: "device", name: "press-7", before: 100 } as const;
const list = { fleet, sequence: 3, issuedAt: 100, entries: [entry] };

async function codeOf(text: string): Promise<string> {
  const read = await readDenylist(text, { fleet, keyring });
  return read.ok ? "taken" : read.code;
}

test("a denylist is read as it was signed", async () => {
  const text = await signDenylist(list, issuer);
  assert.deepEqual(await readDenylist(text, { fleet, keyring }), { ok: true, list });
});

test("a full list is within the bound of its text", async () => {
  const entries = Array.from({ length: identityLimits.denylistEntries }, (_, i) => ({
    kind: "gateway" as const,
    name: `g${i}`.padEnd(64, "x"),
    before: 1_900_000_000,
  }));
  assert.equal(await codeOf(await signDenylist({ ...list, entries }, issuer)), "taken");
  const over = [...entries, entry];
  assert.equal(
    await codeOf(await signDenylist({ ...list, entries: over }, issuer)),
    "denylist-malformed",
  );
});

test("a list that somebody changed, made, or took from another fleet is refused", async () => {
  const text = await signDenylist(list, issuer);
  const [head, , signature] = text.split(".");
  const empty = Buffer.from(JSON.stringify({ ...list, entries: [] })).toString("base64url");
  assert.equal(await codeOf(`${head}.${empty}.${signature}`), "denylist-signature");
  const thief = { kid: "k1", key: makeKey("EdDSA") };
  assert.equal(await codeOf(await signDenylist(list, thief)), "denylist-signature");
  const foreign = await signDenylist({ ...list, fleet: "others" }, issuer);
  assert.equal(await codeOf(foreign), "denylist-signature");
  const cnf = { jwk };
  const times = { iat: 1, exp: 2, jti: "t" };
  const token = await signDeviceToken(fleet, { sub: "a", site: "b", cnf, ...times }, issuer);
  assert.equal(await codeOf(token), "denylist-malformed");
  assert.equal(await codeOf("A".repeat(identityLimits.denylistChars + 1)), "denylist-malformed");
});

test("a list never goes back", () => {
  assert.deepEqual(judgeDenylist(undefined, list), { ok: true, news: true });
  assert.deepEqual(judgeDenylist({ sequence: 2 }, list), { ok: true, news: true });
  assert.deepEqual(judgeDenylist(list, list), { ok: true, news: false });
  const old = judgeDenylist({ sequence: 4 }, list);
  assert.equal(old.ok ? "taken" : old.code, "denylist-old");
});

test("what was given before is void, by kind and name; what was given since is not", () => {
  const isVoid = denials({ entries: [entry, { ...entry, before: 50 }] });
  assert.ok(isVoid("device", "press-7", 99));
  assert.ok(!isVoid("device", "press-7", 100));
  assert.ok(!isVoid("gateway", "press-7", 0));
  for (const name of ["press-8", "constructor", "toString", "hasOwnProperty"])
    assert.ok(!isVoid("device", name, 0), name);
});
