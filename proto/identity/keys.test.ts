import assert from "node:assert/strict";
import { createPrivateKey, generateKeyPairSync, sign, verify } from "node:crypto";
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { calculateJwkThumbprint } from "jose";
import { TributaryError } from "../wire/errors.js";
import {
  algorithmOf,
  keyFromPem,
  keyToPem,
  loadKey,
  makeKey,
  publicJwk,
  publicJwkSchema,
  publicKey,
  saveKey,
  thumbprint,
} from "./keys.js";
import { identityLimits } from "./limits.js";
import { readSecretFile, writeSecretFile } from "./secret-file.js";

const failsWith = (code: string) => (error: unknown) =>
  error instanceof TributaryError && error.code === code;

describe("keys", () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "tributary-keys-"));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  for (const algorithm of ["EdDSA", "ES256"] as const) {
    test(`a ${algorithm} key is kept in a file that only its owner reads`, async () => {
      const path = join(dir, algorithm, "key.pem");
      const key = makeKey(algorithm);
      await saveKey(path, key);
      assert.equal((await stat(path)).mode & 0o777, 0o600);
      assert.equal((await stat(join(dir, algorithm))).mode & 0o777, 0o700);
      assert.match(await readFile(path, "utf8"), /^-----BEGIN PRIVATE KEY-----\n/);
      const loaded = await loadKey(path);
      assert.ok(loaded.equals(key));
      assert.deepEqual(await readdir(join(dir, algorithm)), ["key.pem"]);
    });

    test(`a ${algorithm} key's JWK is its public half alone, and says the same key again`, async () => {
      const key = makeKey(algorithm);
      const jwk = publicJwk(key);
      assert.equal(algorithmOf(jwk), algorithm);
      assert.ok(!("d" in jwk));
      assert.deepEqual(publicJwk(publicKey(jwk)), jwk);
      const digest = algorithm === "EdDSA" ? null : "sha256";
      const text = Buffer.from("a text");
      assert.ok(verify(digest, text, publicKey(jwk), sign(digest, text, key)));
      assert.equal(await thumbprint(jwk), await calculateJwkThumbprint(jwk));
      assert.ok(keyFromPem(keyToPem(key))?.equals(key));
    });
  }

  for (const mode of [0o640, 0o604, 0o620, 0o660, 0o644, 0o601])
    test(`a key file of mode ${mode.toString(8)} is refused`, async () => {
      const path = join(dir, `open-${mode}.pem`);
      await saveKey(path, makeKey("EdDSA"));
      await chmod(path, mode);
      await assert.rejects(loadKey(path), (error: unknown) => {
        assert.ok(failsWith("secret-exposed")(error));
        assert.match((error as Error).message, new RegExp(`mode ${mode.toString(8)}.*chmod 600`));
        return true;
      });
    });

  test("a key that is there is never replaced", async () => {
    const path = join(dir, "kept.pem");
    const key = makeKey("EdDSA");
    await saveKey(path, key);
    await assert.rejects(saveKey(path, makeKey("EdDSA")), failsWith("secret-exists"));
    assert.ok((await loadKey(path)).equals(key));
    assert.ok(!(await readdir(dir)).some((name) => name.endsWith(".tmp")));
  });

  test("a secret that is to be replaced is, and stays closed", async () => {
    const path = join(dir, "secret");
    await writeSecretFile(path, "one", { replace: false });
    await writeSecretFile(path, "two", { replace: true });
    assert.equal(await readSecretFile(path), "two");
    assert.equal((await stat(path)).mode & 0o777, 0o600);
  });

  test("what is no key of ours is refused, and what is not there is said so", async () => {
    await assert.rejects(loadKey(join(dir, "none.pem")), failsWith("secret-missing"));
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
    const p384 = generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey;
    const pem = (key: typeof rsa) => String(key.export({ type: "pkcs8", format: "pem" }));
    for (const [name, text] of Object.entries({ text: "x", rsa: pem(rsa), p384: pem(p384) })) {
      const path = join(dir, `${name}.pem`);
      await writeFile(path, text, { mode: 0o600 });
      await assert.rejects(loadKey(path), failsWith("secret-malformed"), name);
    }
    const path = join(dir, "long");
    await writeFile(path, "x".repeat(identityLimits.secretFileBytes + 1), { mode: 0o600 });
    await assert.rejects(readSecretFile(path), failsWith("secret-malformed"));
  });

  test("a JWK with a private part, another curve, or no point of its curve is none", () => {
    const key = makeKey("ES256");
    const jwk = publicJwk(key);
    const whole = createPrivateKey(keyToPem(key)).export({ format: "jwk" });
    const octets = { kty: "oct", k: "AAAA" };
    const off = { ...jwk, y: "A".repeat(43) };
    const zero = { kty: "EC", crv: "P-256", x: "A".repeat(43), y: "A".repeat(43) };
    for (const bad of [whole, octets, off, zero, { ...jwk, crv: "P-384" }, { ...jwk, kid: "a" }])
      assert.ok(!publicJwkSchema.safeParse(bad).success, JSON.stringify(Object.keys(bad)));
  });

  test("a JWK that writes a key another way, for another thumbprint, is none", () => {
    const jwk = publicJwk(makeKey("EdDSA"));
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 43 characters hold 258 bits: the last two are spare, and must be zero.
    const at = alphabet.indexOf(jwk.x.at(-1) ?? "");
    const x = `${jwk.x.slice(0, -1)}${alphabet[at + 1]}`;
    assert.deepEqual(Buffer.from(x, "base64url"), Buffer.from(jwk.x, "base64url"));
    assert.ok(!publicJwkSchema.safeParse({ ...jwk, x }).success);
  });
});
