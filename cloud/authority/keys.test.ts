import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { connect, createServer, type TLSSocket } from "node:tls";
import { seededRandom, systemRandom } from "@tributary/proto/host/random.js";
import { createKeyring } from "@tributary/proto/identity/keyring.js";
import { keyToPem, makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import { signUserToken, verifyUserToken } from "@tributary/proto/identity/tokens.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { openBackup, sealBackup } from "./backup.js";
import { leafCertificate } from "./certificates.js";
import {
  type AuthorityKeys,
  anchorsOf,
  authorityFile,
  authorityKeysSchema,
  chainOf,
  changeAuthority,
  jwksOf,
  keepAuthority,
  keyViews,
  listKey,
  makeAuthorityKeys,
  readAuthorityKeys,
  rotate,
  signerOf,
  tokenKey,
} from "./keys.js";
import { authorityLimits } from "./limits.js";

const random = systemRandom();
const nowMs = Date.now();
const fleet = "press-works";
const first = await makeAuthorityKeys(fleet, nowMs, random);
const failsWith = (code: string) => (error: unknown) =>
  error instanceof TributaryError && error.code === code;

type Peer = { readonly key: string; readonly cert: string };

async function peer(keys: AuthorityKeys, kind: "gateway" | "device"): Promise<Peer> {
  const key = makeKey(kind === "device" ? "EdDSA" : "ES256");
  const whose = { fleet, kind, name: `${kind}-1`, site: "north", jwk: publicJwk(key) };
  const from = Math.floor(nowMs / 1000) - 60;
  const { certificate } = await leafCertificate(
    whose,
    signerOf(keys),
    { from, to: from + 3_600 },
    random,
  );
  return { key: keyToPem(key), cert: certificate + chainOf(keys, nowMs).join("") };
}

type Meeting = { readonly server: Peer; readonly client: Peer };
type Trust = { readonly ofServer: string[]; readonly ofClient: string[] };

/** Lets a client and a server meet over TLS 1.3, and says what each thinks of the other. */
async function meet({ server, client }: Meeting, { ofServer, ofClient }: Trust) {
  const listener = createServer({
    ...server,
    ca: ofServer,
    requestCert: true,
    rejectUnauthorized: false,
    minVersion: "TLSv1.3",
  });
  const met = once(listener, "secureConnection") as Promise<[TLSSocket]>;
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  const socket = connect({
    ...client,
    ca: ofClient,
    port,
    host: "127.0.0.1",
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  });
  await once(socket, "secureConnect");
  const [served] = await met;
  const verdicts = { server: socket.authorized, client: served.authorized };
  socket.destroy();
  served.destroy();
  listener.close();
  await once(listener, "close");
  return verdicts;
}

const both = { server: true, client: true };

describe("an authority's certificates", () => {
  test("let a gateway and a device know each other over TLS, by name", async () => {
    const meeting = { server: await peer(first, "gateway"), client: await peer(first, "device") };
    const anchors = anchorsOf(first, nowMs);
    assert.deepEqual(await meet(meeting, { ofServer: anchors, ofClient: anchors }), both);
    const certificate = new X509Certificate(meeting.client.cert);
    assert.equal(certificate.subjectAltName, `URI:tributary:${fleet}/device/north/device-1`);
    assert.equal(certificate.subject, "CN=device-1");
    assert.ok(!certificate.ca);
    assert.ok(certificate.checkIssued(new X509Certificate(anchors[0] ?? "")));
  });

  test("are no use to another fleet, nor is a device's to serve with", async () => {
    const other = await makeAuthorityKeys(fleet, nowMs, random);
    const server = await peer(first, "gateway");
    const client = await peer(other, "device");
    const anchors = anchorsOf(first, nowMs);
    const trust = { ofServer: anchors, ofClient: anchors };
    assert.deepEqual(await meet({ server, client }, trust), { server: true, client: false });
    const pretender = { server: await peer(first, "device"), client: await peer(first, "device") };
    assert.deepEqual(await meet(pretender, trust), { server: false, client: true });
  });

  test("do not make their holder an authority", async () => {
    const key = makeKey("ES256");
    const whose = {
      fleet,
      kind: "gateway",
      name: "g1",
      site: "north",
      jwk: publicJwk(key),
    } as const;
    const from = Math.floor(nowMs / 1000) - 60;
    const life = { from, to: from + 3_600 };
    const { certificate } = await leafCertificate(whose, signerOf(first), life, random);
    const below = { fleet, kind: "device", name: "d1", site: "north" } as const;
    const deviceKey = makeKey("EdDSA");
    const made = await leafCertificate(
      { ...below, jwk: publicJwk(deviceKey) },
      { certificate, key },
      life,
      random,
    );
    const client = { key: keyToPem(deviceKey), cert: made.certificate + certificate };
    const anchors = anchorsOf(first, nowMs);
    const trust = { ofServer: anchors, ofClient: anchors };
    const server = await peer(first, "gateway");
    assert.deepEqual(await meet({ server, client }, trust), { server: true, client: false });
  });

  test("go on through rotations, for those who trust any authority of before", async () => {
    const options = { nowMs, overlapMs: 3_600_000, random };
    const second = await rotate(first, "roots", options);
    const third = await rotate(second, "roots", options);
    assert.equal(anchorsOf(third, nowMs).length, 3);
    const oldest = anchorsOf(first, nowMs);
    const meeting = { server: await peer(third, "gateway"), client: await peer(third, "device") };
    for (const anchor of anchorsOf(third, nowMs)) {
      const one = [anchor];
      assert.deepEqual(await meet(meeting, { ofServer: one, ofClient: one }), both);
    }
    const mixed = { server: await peer(second, "gateway"), client: await peer(first, "device") };
    const all = anchorsOf(second, nowMs);
    assert.deepEqual(await meet(mixed, { ofServer: all, ofClient: oldest }), both);
    const laterMs = nowMs + options.overlapMs;
    assert.deepEqual(anchorsOf(third, laterMs), anchorsOf(third, nowMs).slice(0, 1));
    assert.deepEqual(chainOf(third, laterMs), []);
  });

  test("end with their authority at the latest", async () => {
    const to = Date.parse("2200-01-01") / 1000;
    const jwk = publicJwk(makeKey("EdDSA"));
    const whose = { fleet, kind: "device", name: "d1", site: "north", jwk } as const;
    const { certificate, validity } = await leafCertificate(
      whose,
      signerOf(first),
      { from: 1, to },
      random,
    );
    const anchor = new X509Certificate(anchorsOf(first, nowMs)[0] ?? "");
    assert.equal(validity.to * 1000, Date.parse(anchor.validTo));
    assert.equal(new X509Certificate(certificate).validTo, anchor.validTo);
  });

  test("have serials of their own, of one length, that Node reads as we write them", async () => {
    const serials = new Set<string>();
    for (let seed = 0; seed < 20; seed++) {
      const jwk = publicJwk(makeKey("EdDSA"));
      const whose = { fleet, kind: "device", name: "d1", site: "north", jwk } as const;
      const life = { from: 1, to: 2 };
      const made = await leafCertificate(whose, signerOf(first), life, seededRandom(seed));
      assert.match(made.serial, /^[4-7][0-9a-f]{31}$/);
      assert.equal(new X509Certificate(made.certificate).serialNumber.toLowerCase(), made.serial);
      serials.add(made.serial);
    }
    assert.equal(serials.size, 20);
  });
});

describe("an authority's signing keys", () => {
  const options = { nowMs, overlapMs: 1_000, random };
  const token = { sub: "ada", name: "Ada", roles: [], iat: Math.floor(nowMs / 1000), jti: "u1" };

  test("rotate: what the old one signed is taken until the overlap ends, and not after", async () => {
    const rotated = await rotate(first, "signing", options);
    const exp = token.iat + 86_400;
    const old = await signUserToken(fleet, { ...token, exp }, tokenKey(first));
    const fresh = await signUserToken(fleet, { ...token, exp }, tokenKey(rotated));
    const judged = async (text: string, atMs: number) => {
      const keyring = createKeyring(jwksOf(rotated, atMs));
      const rules = { fleet, keyring, nowMs: atMs, isRevoked: () => false };
      const verdict = await verifyUserToken(text, rules);
      return verdict.ok ? "taken" : verdict.code;
    };
    assert.equal(await judged(old, nowMs + 999), "taken");
    assert.equal(await judged(fresh, nowMs + 999), "taken");
    assert.equal(await judged(old, nowMs + 1_000), "token-signature");
    assert.equal(await judged(fresh, nowMs + 1_000), "taken");
    assert.equal(listKey(rotated, nowMs).kid, tokenKey(first).kid);
    assert.equal(listKey(rotated, nowMs + 1_000).kid, tokenKey(rotated).kid);
  });

  test("rotate without an overlap: the old one is gone at once", async () => {
    const rotated = await rotate(first, "signing", { ...options, overlapMs: 0 });
    assert.deepEqual(
      rotated.signing.map(({ kid }) => kid),
      [tokenKey(rotated).kid],
    );
    assert.notEqual(tokenKey(rotated).kid, tokenKey(first).kid);
    assert.equal(
      anchorsOf(await rotate(first, "roots", { ...options, overlapMs: 0 }), nowMs).length,
      1,
    );
  });

  test("are shown without their secrets, and are so many at a time", async () => {
    let keys = first;
    for (let count = 1; count < authorityLimits.keysAtOnce; count++)
      keys = await rotate(keys, "signing", options);
    await assert.rejects(rotate(keys, "signing", options), failsWith("authority-busy"));
    const later = await rotate(keys, "signing", { ...options, nowMs: nowMs + 1_000 });
    assert.equal(later.signing.length, 2);
    const views = keyViews(keys, nowMs);
    assert.deepEqual(
      views.map(({ what, state }) => `${what} ${state}`),
      [
        "authority current",
        ...Array.from({ length: authorityLimits.keysAtOnce - 1 }, () => "signing retired"),
        "signing current",
      ],
    );
    assert.doesNotMatch(JSON.stringify([views, jwksOf(keys, nowMs)]), /PRIVATE|"d"/);
  });
});

describe("an authority's file", () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "tributary-authority-"));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  test("is its owner's alone, and is changed as a whole", async () => {
    const again = { nowMs, overlapMs: 1_000, random };
    const turn = (found: AuthorityKeys) => rotate(found, "signing", again);
    await assert.rejects(changeAuthority(dir, turn), failsWith("authority-missing"));
    assert.deepEqual(await readdir(dir), []);
    await keepAuthority(dir, first);
    await assert.rejects(keepAuthority(dir, first), failsWith("authority-exists"));
    const file = authorityFile(dir);
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.equal((await stat(join(dir, "authority"))).mode & 0o777, 0o700);
    assert.deepEqual(await readAuthorityKeys(file), first);
    const rotated = await changeAuthority(dir, turn);
    assert.equal(rotated.signing.length, 2);
    assert.deepEqual(await readAuthorityKeys(file), rotated);
    await assert.rejects(changeAuthority(dir, () => Promise.reject(new Error("not now"))));
    assert.deepEqual(await readAuthorityKeys(file), rotated);
    // At the same time: each on top of the other, or refused where it would have waited long.
    const turns = await Promise.allSettled([
      changeAuthority(dir, turn),
      changeAuthority(dir, turn),
    ]);
    const done = turns.filter((one) => one.status === "fulfilled");
    for (const one of turns)
      if (one.status === "rejected") assert.ok(failsWith("data-dir-locked")(one.reason));
    assert.ok(done.length > 0);
    assert.equal((await readAuthorityKeys(file)).signing.length, 2 + done.length);
    assert.deepEqual(await readdir(join(dir, "authority")), ["authority.json"]);
  });

  test("that others can read, or that is damaged, is refused without a word of its content", async () => {
    const file = authorityFile(dir);
    await chmod(file, 0o644);
    await assert.rejects(readAuthorityKeys(file), failsWith("secret-exposed"));
    await chmod(file, 0o600);
    const text = await readFile(file, "utf8");
    await writeFile(file, text.replace('"version": 1', '"version": 2'));
    await assert.rejects(readAuthorityKeys(file), (error: unknown) => {
      assert.ok(failsWith("secret-malformed")(error));
      assert.match((error as Error).message, /wrong: version/);
      assert.doesNotMatch((error as Error).message, /PRIVATE/);
      return true;
    });
  });
});

describe("a backup", () => {
  const passphrase = "correct horse battery staple";
  const text = sealBackup(first, passphrase);

  test("opens with its passphrase, and says nothing without", () => {
    assert.deepEqual(openBackup(text, passphrase), first);
    assert.doesNotMatch(text, /PRIVATE|BEGIN/);
    assert.ok(!text.includes(Buffer.from("PRIVATE KEY").toString("base64url").slice(0, 12)));
    assert.throws(() => openBackup(text, `${passphrase}.`), failsWith("backup-closed"));
    assert.notEqual(sealBackup(first, passphrase), text);
  });

  test("in which any member was changed does not open", () => {
    const backup = JSON.parse(text);
    const flipped = (encoded: string) => {
      const bytes = Buffer.from(encoded, "base64url");
      bytes[0] = (bytes[0] ?? 0) ^ 1;
      return bytes.toString("base64url");
    };
    const { scrypt } = backup;
    const changes = [
      { fleet: "others" },
      { nonce: flipped(backup.nonce) },
      { tag: flipped(backup.tag) },
      { data: flipped(backup.data) },
      { scrypt: { ...scrypt, n: 2 ** 16 } },
      { scrypt: { ...scrypt, salt: flipped(scrypt.salt) } },
    ];
    for (const change of changes)
      assert.throws(
        () => openBackup(JSON.stringify({ ...backup, ...change }), passphrase),
        failsWith("backup-closed"),
        JSON.stringify(Object.keys(change)),
      );
    const malformed = [{ version: 2 }, { cipher: "none" }, { scrypt: { ...scrypt, n: 2 ** 30 } }];
    for (const change of [...malformed, { tag: backup.tag.slice(0, 6) }, { extra: 1 }])
      assert.throws(
        () => openBackup(JSON.stringify({ ...backup, ...change }), passphrase),
        failsWith("backup-malformed"),
        JSON.stringify(change),
      );
    assert.throws(() => openBackup("{}", passphrase), failsWith("backup-malformed"));
    assert.throws(() => openBackup("", passphrase), failsWith("backup-malformed"));
  });

  test("takes no short passphrase", () => {
    assert.throws(() => sealBackup(first, "short"), failsWith("backup-passphrase"));
  });

  test("of an authority keeps to the schema", () => {
    assert.ok(authorityKeysSchema.safeParse(first).success);
  });
});
