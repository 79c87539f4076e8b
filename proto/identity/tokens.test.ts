import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { signJws } from "./jws.js";
import { createKeyring, type Jwks, jwksSchema } from "./keyring.js";
import { type Algorithm, makeKey, publicJwk, publicKey } from "./keys.js";
import { identityLimits } from "./limits.js";
import {
  type DeviceTokenRules,
  signDeviceToken,
  signUserToken,
  verifyDeviceToken,
  verifyUserToken,
} from "./tokens.js";

const fleet = "press-works";
const at = 1_900_000_000;
const issuer = { kid: "k1", key: makeKey("EdDSA") };
const ed25519 = (key = makeKey("EdDSA")) => {
  const jwk = publicJwk(key);
  assert.ok(jwk.kty === "OKP");
  return jwk;
};
const shown = ed25519(issuer.key);
const jwks: Jwks = { keys: [{ ...shown, kid: "k1", alg: "EdDSA", use: "sig" }] };
const device = { sub: "press-7", site: "north", iat: at, exp: at + 86_400, jti: "t1" };
const own = { ...device, cnf: { jwk: ed25519() } };
const user = { sub: "ada", name: "Ada", iat: at, exp: at + 3_600, jti: "u1" };
const roles = [{ project: "*", role: "viewer" }] as const;
const rules: DeviceTokenRules = {
  fleet,
  keyring: createKeyring(jwks),
  nowMs: at * 1000,
  device: "press-7",
  site: "north",
  isVoid: () => false,
};
const userRules = { ...rules, isRevoked: () => false };
const whole = { iss: `tributary:${fleet}`, aud: "mqtt", nbf: at, ...own };
const typ = "tributary-device+jwt";

async function judged(text: string, changes: Partial<DeviceTokenRules> = {}): Promise<string> {
  const verdict = await verifyDeviceToken(text, { ...rules, ...changes });
  return verdict.ok ? "taken" : verdict.code;
}
const forged = (payload: object, header: { typ: string; kid?: string } = { typ, kid: "k1" }) =>
  signJws(payload, header, { key: issuer.key, algorithm: "EdDSA" });
const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");

describe("a device's token", () => {
  test("is taken by its fleet, for its device, at its site, in its time", async () => {
    const text = await signDeviceToken(fleet, own, issuer);
    assert.deepEqual(await verifyDeviceToken(text, rules), { ok: true, token: whole });
  });

  test("is judged by the clock with the stated leeway, and no more", async () => {
    const text = await signDeviceToken(fleet, own, issuer);
    const by = (seconds: number) => judged(text, { nowMs: seconds * 1000 });
    const { leewaySeconds } = identityLimits;
    assert.equal(await by(at - leewaySeconds - 1), "token-not-yet-valid");
    assert.equal(await by(at - leewaySeconds), "taken");
    assert.equal(await by(own.exp + leewaySeconds - 1), "taken");
    assert.equal(await by(own.exp + leewaySeconds), "token-expired");
  });

  test("of another audience, issuer, device, site or kind is refused, each with its code", async () => {
    assert.equal(await judged(await forged({ ...whole, aud: "api" })), "token-audience");
    assert.equal(await judged(await forged({ ...whole, aud: ["mqtt"] })), "token-malformed");
    assert.equal(await judged(await signDeviceToken("others", own, issuer)), "token-issuer");
    const text = await signDeviceToken(fleet, own, issuer);
    assert.equal(await judged(text, { device: "press-8" }), "token-subject");
    assert.equal(await judged(text, { site: "south" }), "token-subject");
    const person = await signUserToken(fleet, { ...user, roles: [...roles] }, issuer);
    assert.equal(await judged(person), "token-kind");
    const plain = await forged(whole, { typ: "JWT", kid: "k1" });
    assert.equal(await judged(plain), "token-kind");
  });

  test("given before its device was revoked is refused; one given since is taken", async () => {
    const isVoid = (name: string, issuedAt: number) => name === "press-7" && issuedAt < at + 10;
    assert.equal(
      await judged(await signDeviceToken(fleet, own, issuer), { isVoid }),
      "token-revoked",
    );
    const later = await signDeviceToken(fleet, { ...own, iat: at + 10 }, issuer);
    assert.equal(await judged(later, { isVoid }), "taken");
  });

  test("that is not signed, by whatever spelling, is refused", async () => {
    const [, body = "", signature = ""] = (await signDeviceToken(fleet, own, issuer)).split(".");
    for (const alg of ["none", "None", "NONE", "nOnE", ""])
      for (const end of ["", signature])
        assert.equal(
          await judged(`${part({ alg, typ, kid: "k1" })}.${body}.${end}`),
          "token-signature",
          alg,
        );
  });

  test("signed by HMAC with the public key as its secret is refused", async () => {
    const open = publicKey(shown);
    const secrets = [
      String(open.export({ type: "spki", format: "pem" })),
      open.export({ type: "spki", format: "der" }),
      Buffer.from(shown.x, "base64url"),
      shown.x,
    ];
    for (const alg of ["HS256", "HS384", "HS512"])
      for (const secret of secrets) {
        const input = `${part({ alg, typ, kid: "k1" })}.${part(whole)}`;
        const mac = createHmac(`sha${alg.slice(2)}`, secret)
          .update(input)
          .digest("base64url");
        assert.equal(await judged(`${input}.${mac}`), "token-signature");
      }
  });

  test("signed by a key of its own, that it shows or names, is refused", async () => {
    const thief = makeKey("EdDSA");
    const signing = { key: thief, algorithm: "EdDSA" as Algorithm };
    const jwk = publicJwk(thief);
    assert.equal(
      await judged(await signJws(whole, { typ, kid: "k1" }, signing)),
      "token-signature",
    );
    assert.equal(await judged(await signJws(whole, { typ, jwk }, signing)), "token-signature");
    assert.equal(
      await judged(await signJws(whole, { typ, kid: "k2" }, signing)),
      "token-signature",
    );
    for (const kid of ["__proto__", "constructor", "toString"])
      assert.equal(await judged(await signJws(whole, { typ, kid }, signing)), "token-malformed");
    const header = { alg: "EdDSA", typ, kid: "k1", jku: "https://example.org/jwks.json" };
    const [, body, end] = (await signJws(whole, { typ, kid: "k1" }, signing)).split(".");
    assert.equal(await judged(`${part(header)}.${body}.${end}`), "token-malformed");
    const other = { key: makeKey("ES256"), algorithm: "ES256" as Algorithm };
    assert.equal(await judged(await signJws(whole, { typ, kid: "k1" }, other)), "token-signature");
  });

  test("with any character changed is refused", async () => {
    const text = await signDeviceToken(fleet, own, issuer);
    // The last character of a part may hold spare bits, which decode to the same bytes.
    const ends = Array.from(text).flatMap((char, index) => (char === "." ? [index - 1] : []));
    ends.push(text.length - 1);
    const places = Array.from(text).flatMap((char, index) =>
      char === "." || ends.includes(index) ? [] : [index],
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...places),
        fc.constantFrom(...Array.from("ABCDwxyz0189-_")),
        async (index, char) => {
          fc.pre(text[index] !== char);
          const changed = `${text.slice(0, index)}${char}${text.slice(index + 1)}`;
          assert.notEqual(await judged(changed), "taken");
        },
      ),
      { numRuns: 200 },
    );
  });

  test("that is huge, or no token at all, is refused before anything is computed", async () => {
    const text = await signDeviceToken(fleet, own, issuer);
    const [head, , end] = text.split(".");
    const huge = "A".repeat(300 * 1024 * 1024);
    for (const bad of [huge, `${head}.${huge.slice(0, 10_000)}.${end}`, "", "..", "a", "é.b.c"])
      assert.equal(await judged(bad), "token-malformed");
    const long = await forged({ ...whole, pad: "x".repeat(identityLimits.tokenChars) });
    assert.equal(await judged(long), "token-malformed");
  });

  test("whose names or times are none is refused; unknown members are passed over", async () => {
    const bad: object[] = [
      { ...whole, sub: "__proto__" },
      { ...whole, site: "../x" },
      { ...whole, jti: "" },
      { ...whole, exp: "1900000000" },
      { ...whole, exp: 1e300 },
      { ...whole, nbf: -1 },
      { ...whole, cnf: {} },
      { ...whole, cnf: { jwk: publicJwk(makeKey("ES256")) } },
      [whole],
    ];
    for (const payload of bad)
      assert.equal(await judged(await forged(payload)), "token-malformed", JSON.stringify(payload));
    const { exp: _, ...endless } = whole;
    assert.equal(await judged(await forged(endless)), "token-malformed");
    const polluting = JSON.parse(
      JSON.stringify(whole).replace("{", '{"__proto__":{"admin":true},'),
    );
    const verdict = await verifyDeviceToken(await forged(polluting), rules);
    assert.ok(verdict.ok);
    assert.deepEqual(verdict.token, whole);
    assert.ok(!("admin" in verdict.token) && !("admin" in {}));
  });
});

describe("a person's token", () => {
  test("is taken by the API, and by nobody for a device's", async () => {
    const text = await signUserToken(fleet, { ...user, roles: [...roles] }, issuer);
    const verdict = await verifyUserToken(text, userRules);
    const token = { iss: `tributary:${fleet}`, aud: "api", nbf: at, ...user, roles };
    assert.deepEqual(verdict, { ok: true, token });
    const devices = await verifyUserToken(await signDeviceToken(fleet, own, issuer), userRules);
    assert.equal(devices.ok ? "taken" : devices.code, "token-kind");
  });

  test("that was revoked is refused, and so is a role that there is not", async () => {
    const text = await signUserToken(fleet, { ...user, roles: [...roles] }, issuer);
    const revoked = await verifyUserToken(text, { ...userRules, isRevoked: (id) => id === "u1" });
    assert.equal(revoked.ok ? "taken" : revoked.code, "token-revoked");
    const payload = { iss: `tributary:${fleet}`, aud: "api", nbf: at, ...user };
    const root = await forged(
      { ...payload, roles: [{ project: "*", role: "root" }] },
      { typ: "at+jwt", kid: "k1" },
    );
    const verdict = await verifyUserToken(root, userRules);
    assert.equal(verdict.ok ? "taken" : verdict.code, "token-malformed");
  });
});

test("a fleet's public keys are Ed25519 ones, each named once, and hold no private part", () => {
  const [first] = jwks.keys;
  assert.ok(first);
  assert.ok(jwksSchema.safeParse(jwks).success);
  for (const keys of [
    [first, first],
    [{ ...first, d: first.x }],
    [{ ...first, alg: "HS256" }],
    [{ kty: "oct", k: "AAAA", kid: "k1", alg: "HS256", use: "sig" }],
    Array.from({ length: identityLimits.publicKeys + 1 }, (_, i) => ({ ...first, kid: `k${i}` })),
  ])
    assert.ok(!jwksSchema.safeParse({ keys }).success);
});
