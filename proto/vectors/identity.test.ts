import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { z } from "zod";
import { claimText, readClaim, secretDigest } from "../identity/claim.js";
import { denials, readDenylist } from "../identity/denylist.js";
import { publicJwk, publicJwkSchema, publicKey, thumbprint } from "../identity/keys.js";
import { createKeyring, jwksSchema } from "../identity/keyring.js";
import { kindSchema, readSubjectUri, type Subject, subjectUri } from "../identity/names.js";
import { readRequest } from "../identity/request.js";
import { verifyUpdate } from "../identity/statement.js";
import { verifyDeviceToken } from "../identity/tokens.js";

const when = z.object({ kind: kindSchema, name: z.string(), issuedAt: z.number() });
const vectorsSchema = z.object({
  fleet: z.string(),
  now: z.number(),
  jwks: jwksSchema,
  thumbprints: z.array(z.object({ jwk: publicJwkSchema, thumbprint: z.string() })),
  names: z.object({
    valid: z.array(z.object({ subject: z.custom<Subject>(), uri: z.string() })),
    invalid: z.array(z.string()),
  }),
  claims: z.array(
    z.object({
      text: z.string(),
      id: z.string(),
      secret: z.string(),
      anchor: z.string(),
      secretDigest: z.string(),
    }),
  ),
  requests: z.array(
    z.object({ text: z.string(), thumbprint: z.string(), payload: z.record(z.string(), z.any()) }),
  ),
  deviceTokens: z.object({
    valid: z.array(z.object({ text: z.string(), payload: z.record(z.string(), z.any()) })),
    invalid: z.array(z.object({ name: z.string(), code: z.string(), text: z.string() })),
  }),
  denylists: z.array(
    z.object({ text: z.string(), sequence: z.number(), void: z.array(when), good: z.array(when) }),
  ),
  statements: z.array(
    z.object({
      round: z.string(),
      device: z.string(),
      digest: z.string(),
      jwk: publicJwkSchema,
      signature: z.string(),
    }),
  ),
});

const file = new URL("../../vectors/identity.json", import.meta.url);
const vectors = vectorsSchema.parse(JSON.parse(readFileSync(file, "utf8")));
const keyring = createKeyring(vectors.jwks);
const issuer = { kty: "OKP", crv: "Ed25519", x: vectors.jwks.keys[0]?.x ?? "" };
const rules = {
  fleet: vectors.fleet,
  keyring,
  nowMs: vectors.now * 1000,
  device: "press-7",
  site: "north",
  isVoid: () => false,
};

/** A compact JWS opened by what RFC 7515, 5.2, and RFC 8037, 3.1, say, with nothing of ours. */
function openPlainly(text: string, jwk: object): { header: object; payload: object } | undefined {
  const [head = "", body = "", signature = ""] = text.split(".");
  const key = createPublicKey({ key: { ...jwk }, format: "jwk" });
  if (!verify(null, Buffer.from(`${head}.${body}`), key, Buffer.from(signature, "base64url")))
    return undefined;
  const json = (part: string) => JSON.parse(Buffer.from(part, "base64url").toString("utf8"));
  return { header: json(head), payload: json(body) };
}

test("thumbprints are those of RFC 7638; the first is the one in RFC 8037, A.3", async () => {
  assert.equal(vectors.thumbprints[0]?.thumbprint, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
  for (const { jwk, thumbprint: expected } of vectors.thumbprints)
    assert.equal(await thumbprint(jwk), expected);
});

test("names are written and read as in the vectors", () => {
  for (const { subject, uri } of vectors.names.valid) {
    assert.equal(subjectUri(subject), uri);
    assert.deepEqual(readSubjectUri(uri), subject);
  }
  for (const uri of vectors.names.invalid) assert.equal(readSubjectUri(uri), undefined, uri);
});

test("claims are written and read as in the vectors", () => {
  for (const { text, secretDigest: digest, ...claim } of vectors.claims) {
    assert.deepEqual(readClaim(text), claim);
    assert.equal(claimText(claim), text);
    assert.equal(secretDigest(claim.secret), digest);
  }
});

test("signing requests of the vectors are read, and hold by the plain rules of JWS", async () => {
  for (const { text, payload, thumbprint: expected } of vectors.requests) {
    const read = await readRequest(text);
    assert.ok(read.ok);
    assert.deepEqual(read.request.payload, payload);
    assert.equal(read.request.thumbprint, expected);
    const opened = openPlainly(text, read.request.jwk);
    const header = { alg: "EdDSA", typ: "tributary-request+jwt", jwk: read.request.jwk };
    assert.deepEqual(opened, { header, payload });
  }
});

test("tokens of the vectors are taken, and hold by the plain rules of JWS", async () => {
  for (const { text, payload } of vectors.deviceTokens.valid) {
    assert.deepEqual(await verifyDeviceToken(text, rules), { ok: true, token: payload });
    const header = { alg: "EdDSA", typ: "tributary-device+jwt", kid: "k1" };
    assert.deepEqual(openPlainly(text, issuer), { header, payload });
  }
});

for (const { name, code, text } of vectors.deviceTokens.invalid)
  test(`a token of the vectors is refused with ${code}: ${name}`, async () => {
    const judged = await verifyDeviceToken(text, rules);
    assert.equal(judged.ok ? "taken" : judged.code, code);
  });

test("denylists of the vectors are read", async () => {
  for (const { text, sequence, void: out, good } of vectors.denylists) {
    const read = await readDenylist(text, { fleet: vectors.fleet, keyring });
    assert.ok(read.ok);
    assert.equal(read.list.sequence, sequence);
    const isVoid = denials(read.list);
    for (const { kind, name, issuedAt } of out) assert.ok(isVoid(kind, name, issuedAt), name);
    for (const { kind, name, issuedAt } of good) assert.ok(!isVoid(kind, name, issuedAt), name);
  }
});

test("statements of the vectors hold, by the stated text too", () => {
  for (const { jwk, signature, ...statement } of vectors.statements) {
    const bytes = Buffer.from(signature, "base64url");
    const key = publicKey(jwk);
    assert.ok(verifyUpdate(statement, bytes, key));
    const text = `tributary-update-statement/1\nround press-line.4\ndevice press-7\ndigest ${"ab".repeat(32)}\n`;
    assert.ok(verify(null, Buffer.from(text), key, bytes));
    assert.deepEqual(publicJwk(key), jwk);
  }
});
