import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { readCertificates } from "@tributary/proto/identity/certificate.js";
import { type Denial, signDenylist } from "@tributary/proto/identity/denylist.js";
import type { Grant } from "@tributary/proto/identity/grant.js";
import { makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import type { SigningKey } from "@tributary/proto/identity/tokens.js";
import { createTestAuthority } from "@tributary/proto/vectors/authority.js";
import { identityFile, keepIdentity, openIdentity, ownKey } from "./identity-store.js";

const fleet = "press-works";
const authority = createTestAuthority();
const issuer = { kid: "k1", key: makeKey("EdDSA") };
const later = { kid: "k2", key: makeKey("EdDSA") };

function jwksOf(...signing: SigningKey[]): Grant["jwks"] {
  const keys = signing.map(({ kid, key }) => {
    const jwk = publicJwk(key);
    if (jwk.kty !== "OKP") throw new Error("an Ed25519 key");
    return { ...jwk, kid, alg: "EdDSA" as const, use: "sig" as const };
  });
  return { keys };
}

const listOf = (sequence: number, signing = issuer, entries: Denial[] = []) =>
  signDenylist({ fleet, sequence, issuedAt: sequence, entries }, signing);

type Context = { after(done: () => Promise<void>): void };

async function setup(t: Context) {
  const dataDir = await mkdtemp(join(tmpdir(), "tributary-identity-"));
  t.after(() => rm(dataDir, { recursive: true, force: true }));
  const holder = { dataDir, gateway: "gw-1", site: "plant" };
  const key = await ownKey(dataDir);
  const grant = async (changes: Partial<Grant> = {}, name = "gw-1", of = key): Promise<Grant> => {
    const subject = { fleet, kind: "gateway" as const, site: "plant", name };
    const certificate = authority.certify(subject, of);
    const [leaf] = readCertificates(certificate);
    return {
      certificate,
      serial: leaf?.serialNumber.toLowerCase() ?? "",
      notAfterMs: Date.parse(leaf?.validTo ?? ""),
      chain: [],
      anchors: [authority.certificate],
      token: null,
      jwks: jwksOf(issuer),
      denylist: await listOf(1),
      ...changes,
    };
  };
  return { dataDir, holder, key, grant };
}

test("what a gateway was granted is there after a restart, under a key that stays the same", async (t) => {
  const { dataDir, holder, key, grant } = await setup(t);
  assert.equal(await openIdentity(holder), undefined);
  assert.ok((await ownKey(dataDir)).equals(key));
  const kept = await keepIdentity(holder, fleet, key, await grant());
  const opened = await openIdentity(holder);
  assert.ok(opened);
  assert.deepEqual(
    [opened.fleet, opened.name, opened.site, opened.serial, opened.toMs],
    [fleet, "gw-1", "plant", kept.serial, kept.toMs],
  );
  assert.ok(opened.key.equals(key));
  assert.equal(opened.denylist?.sequence, 1);
});

test("a renewal takes the place of what was there, and says so", async (t) => {
  const { holder, key, grant } = await setup(t);
  const identity = await keepIdentity(holder, fleet, key, await grant());
  const before = identity.serial;
  let changes = 0;
  const stop = identity.onChange(() => changes++);
  await identity.takeGrant(await grant());
  assert.notEqual(identity.serial, before);
  stop();
  await identity.takeGrant(await grant());
  assert.equal(changes, 1);
  assert.equal((await openIdentity(holder))?.serial, identity.serial);
});

test("a grant for another key, another gateway or of another authority changes nothing", async (t) => {
  const { holder, key, grant } = await setup(t);
  const identity = await keepIdentity(holder, fleet, key, await grant());
  const { serial } = identity;
  const foreign = await grant({}, "gw-1", makeKey("ES256"));
  await assert.rejects(identity.takeGrant(foreign), { code: "grant-malformed" });
  await assert.rejects(identity.takeGrant(await grant({}, "gw-2")), { code: "identity-mismatch" });
  const anchors = [createTestAuthority("stranger").certificate];
  await assert.rejects(identity.takeGrant(await grant({ anchors })), { code: "grant-malformed" });
  assert.equal(identity.serial, serial);
  assert.equal((await openIdentity(holder))?.serial, serial);
  const moved = { ...holder, site: "mill" };
  await assert.rejects(openIdentity(moved), { code: "identity-mismatch" });
});

test("a newer denylist is kept, an older or a forged one is not, also by a grant", async (t) => {
  const { holder, key, grant } = await setup(t);
  const identity = await keepIdentity(holder, fleet, key, await grant());
  assert.deepEqual(await identity.takeDenylist(await listOf(5)), { ok: true, news: true });
  assert.deepEqual(await identity.takeDenylist(await listOf(5)), { ok: true, news: false });
  const code = async (text: string) => {
    const taken = await identity.takeDenylist(text);
    return taken.ok ? "taken" : taken.code;
  };
  assert.equal(await code(await listOf(4)), "denylist-old");
  assert.equal(await code(await listOf(9, later)), "denylist-signature");
  await identity.takeGrant(await grant({ denylist: await listOf(2) }));
  assert.equal(identity.denylist?.sequence, 5);
  assert.equal((await openIdentity(holder))?.denylist?.sequence, 5);
});

test("a kept denylist outlives the key that signed it; one that was changed stops the start", async (t) => {
  const { dataDir, holder, key, grant } = await setup(t);
  const identity = await keepIdentity(holder, fleet, key, await grant());
  const entry = { kind: "device" as const, name: "press-7", before: 9 };
  await identity.takeDenylist(await listOf(5, issuer, [entry]));
  // The issuer's old key is gone, and the newest list by the new one has not come.
  const rotated = { jwks: jwksOf(later), denylist: "" };
  await identity.takeGrant(await grant(rotated));
  const opened = await openIdentity(holder);
  assert.deepEqual(opened?.denylist?.entries, [entry]);

  const file = identityFile(dataDir, "denylist");
  const [head, , signature] = (await readFile(file, "utf8")).split(".");
  const emptied = { fleet, sequence: 5, issuedAt: 5, entries: [] };
  const body = Buffer.from(JSON.stringify(emptied)).toString("base64url");
  await writeFile(file, `${head}.${body}.${signature}`);
  await assert.rejects(openIdentity(holder), { code: "secret-malformed" });
});
