import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { anchorOf, claimText, readClaim } from "@tributary/proto/identity/claim.js";
import { denials, readDenylist } from "@tributary/proto/identity/denylist.js";
import type { Grant } from "@tributary/proto/identity/grant.js";
import { createKeyring } from "@tributary/proto/identity/keyring.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import type { Identity } from "@tributary/proto/identity/names.js";
import { type RequestPayload, writeRequest } from "@tributary/proto/identity/request.js";
import { verifyDeviceToken } from "@tributary/proto/identity/tokens.js";
import type { CloudEvent } from "../events.js";
import { limits } from "../limits.js";
import { openStore, type SqlStore } from "../store/open.js";
import { type Authority, type ClaimScope, openAuthority } from "./authority.js";
import { changeAuthority, keepAuthority, makeAuthorityKeys, rotate } from "./keys.js";

const DAY_MS = 86_400_000;
const startMs = Date.parse("2031-03-01T12:00:00Z");
const fleet = "press-works";
const random = systemRandom();

describe("an authority", () => {
  let dir: string;
  let store: SqlStore;
  let authority: Authority;
  const clock = createManualClock(startMs);
  const events: CloudEvent[] = [];

  const open = () =>
    openAuthority({
      dataDir: dir,
      store: store.identities,
      clock,
      random,
      rules: { certificateDays: 30, graceDays: 180 },
      events: (event) => events.push(event),
    });

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "tributary-authority-"));
    store = await openStore({ dataDir: dir });
    assert.equal(await open(), undefined);
    await keepAuthority(dir, await makeAuthorityKeys(fleet, startMs, random));
    const opened = await open();
    assert.ok(opened);
    authority = opened;
  });
  after(async () => {
    await store?.close();
    await rm(dir, { recursive: true, force: true });
  });

  type Wanted = Identity & { readonly key?: ReturnType<typeof makeKey> };
  let names = 0;
  const newName = () => `unit-${++names}`;
  const aDevice = (): Wanted & { key: ReturnType<typeof makeKey> } => ({
    kind: "device",
    name: newName(),
    site: "north",
    key: makeKey("EdDSA"),
  });
  const aGateway = (): Wanted & { key: ReturnType<typeof makeKey> } => ({
    ...aDevice(),
    kind: "gateway",
    key: makeKey("ES256"),
  });
  const claimFor = async (wanted: Identity, change: Partial<ClaimScope> = {}): Promise<string> => {
    const { kind, name, site } = wanted;
    const scope = { kind, name, site, uses: 1, approval: false, lifeMs: DAY_MS, ...change };
    const made = await authority.createClaim(scope);
    assert.ok(made.ok);
    return made.text;
  };
  const identityOf = ({ kind, name, site }: Identity) => ({ kind, name, site });
  const nonce = () => Buffer.from(random.bytes(16)).toString("base64url");
  const iat = 1;
  const requestOf = (
    wanted: Identity & { key: ReturnType<typeof makeKey> },
    claim: string,
    change: Partial<RequestPayload> = {},
  ) => {
    const id = readClaim(claim)?.id ?? "none";
    const payload = { ...identityOf(wanted), nonce: nonce(), iat, claim: id, ...change };
    return writeRequest(payload as RequestPayload, wanted.key);
  };
  const renewalOf = (
    wanted: Identity & { key: ReturnType<typeof makeKey> },
    renew: string,
    former?: ReturnType<typeof makeKey>,
  ) => writeRequest({ ...identityOf(wanted), nonce: nonce(), iat, renew }, wanted.key, former);
  type Answer = Awaited<ReturnType<Authority["enrol"]>>;
  const codeOf = (answer: Answer) => (answer.ok ? "granted" : answer.code);
  const grantOf = (answer: Answer): Grant => {
    assert.ok(answer.ok, codeOf(answer));
    return answer.grant;
  };
  const enrolled = async (wanted: Identity & { key: ReturnType<typeof makeKey> }) => {
    const claim = await claimFor(wanted);
    const request = await requestOf(wanted, claim);
    return { ...grantOf(await authority.enrol(claim, request)), claim, request };
  };
  const keyring = async () => createKeyring(await authority.jwks());

  test("gives a device a certificate, anchors and a token for its claim, once", async () => {
    const device = aDevice();
    const claim = await claimFor(device);
    const given = grantOf(await authority.enrol(claim, await requestOf(device, claim)));
    const certificate = new X509Certificate(given.certificate);
    assert.equal(certificate.subjectAltName, `URI:tributary:${fleet}/device/north/${device.name}`);
    assert.ok(certificate.checkPrivateKey(device.key));
    assert.ok(certificate.verify(new X509Certificate(given.anchors[0] ?? "").publicKey));
    assert.equal(anchorOf(given.anchors[0] ?? ""), readClaim(claim)?.anchor);
    assert.equal(Date.parse(certificate.validTo), given.notAfterMs);
    assert.equal(given.notAfterMs - clock.nowMs(), 30 * DAY_MS);
    assert.equal(clock.nowMs() - Date.parse(certificate.validFrom), 300_000);
    assert.deepEqual(given.chain, []);
    const judged = await verifyDeviceToken(given.token ?? "", {
      fleet,
      keyring: createKeyring(given.jwks),
      nowMs: clock.nowMs(),
      device: device.name,
      site: "north",
      isVoid: () => false,
    });
    assert.ok(judged.ok);
    assert.equal(judged.token.exp * 1000, given.notAfterMs);
    const other = { ...device, key: makeKey("EdDSA") };
    assert.equal(codeOf(await authority.enrol(claim, await requestOf(other, claim))), "claim-used");
    assert.ok(events.some((event) => event.name === "enrolled" && event.who === device.name));
  });

  test("gives a gateway no token", async () => {
    assert.equal((await enrolled(aGateway())).token, null);
  });

  test("gives the same key the same certificate again, when its answer was lost", async () => {
    const device = aDevice();
    const { claim, request, certificate } = await enrolled(device);
    assert.equal(grantOf(await authority.enrol(claim, request)).certificate, certificate);
    const anew = await requestOf(device, claim);
    clock.advance(2 * DAY_MS);
    assert.equal(grantOf(await authority.enrol(claim, anew)).certificate, certificate);
    const renamed = await requestOf({ ...device, name: newName() }, claim);
    assert.equal(codeOf(await authority.enrol(claim, renamed)), "request-subject");
    clock.advance(28 * DAY_MS);
    assert.equal(codeOf(await authority.enrol(claim, anew)), "claim-used");
  });

  test("takes a claim once, however many ask at the same time", async () => {
    const device = aDevice();
    const claim = await claimFor(device, { name: "*" });
    const asking = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const one = { ...aDevice(), site: device.site };
        return { one, request: await requestOf(one, claim) };
      }),
    );
    const answers = await Promise.all(asking.map(({ request }) => authority.enrol(claim, request)));
    const codes = answers.map(codeOf).sort();
    assert.deepEqual(codes, [...Array.from({ length: 7 }, () => "claim-used"), "granted"]);
  });

  test("takes a claim for many as often as it says", async () => {
    const claim = await claimFor(aDevice(), { name: "press-*", uses: 2 });
    const ask = async (name: string) => {
      const one = { ...aDevice(), name };
      return codeOf(await authority.enrol(claim, await requestOf(one, claim)));
    };
    assert.deepEqual(
      [await ask("press-1"), await ask("other"), await ask("press-2"), await ask("press-3")],
      ["granted", "claim-scope", "granted", "claim-used"],
    );
  });

  test("refuses what a claim is not for", async () => {
    const device = aDevice();
    const claim = await claimFor(device);
    const ask = async (wanted: Wanted, change: Partial<RequestPayload> = {}) =>
      codeOf(
        await authority.enrol(
          claim,
          await requestOf({ key: device.key, ...wanted }, claim, change),
        ),
      );
    assert.equal(await ask({ ...device, name: newName() }), "claim-scope");
    assert.equal(await ask({ ...device, site: "south" }), "claim-scope");
    assert.equal(await ask({ ...aGateway(), name: device.name }), "claim-scope");
    assert.equal(await ask({ ...device, key: makeKey("ES256") }), "request-malformed");
    assert.equal(await ask(device, { claim: "another" }), "request-subject");
    assert.equal(codeOf(await authority.enrol(claim, "a.b.c")), "request-malformed");
    const { id, secret, anchor } = readClaim(claim) ?? assert.fail();
    const wrong = claimText({ id, anchor, secret: Buffer.alloc(32).toString("base64url") });
    const request = await requestOf(device, claim);
    assert.equal(codeOf(await authority.enrol(wrong, request)), "claim-unknown");
    // The secret is judged before the signature, which costs more.
    assert.equal(codeOf(await authority.enrol(wrong, "a.b.c")), "claim-unknown");
    const unknown = claimText({ id: "a".repeat(12), secret, anchor });
    assert.equal(codeOf(await authority.enrol(unknown, request)), "claim-unknown");
    assert.equal(codeOf(await authority.enrol("tc1.x", request)), "claim-malformed");
    // None of it used the claim up.
    assert.equal(await ask(device), "granted");
  });

  test("refuses a claim that has ended, or was taken back", async () => {
    const device = aDevice();
    const brief = await claimFor(device, { lifeMs: 1_000 });
    clock.advance(1_000);
    assert.equal(
      codeOf(await authority.enrol(brief, await requestOf(device, brief))),
      "claim-expired",
    );
    const withdrawn = await claimFor(device);
    const { id = "" } = readClaim(withdrawn) ?? {};
    assert.ok((await authority.revokeClaim(id)).ok);
    const answer = await authority.enrol(withdrawn, await requestOf(device, withdrawn));
    assert.equal(codeOf(answer), "claim-revoked");
    const unknown = await authority.revokeClaim("unknown");
    assert.equal(unknown.ok ? "" : unknown.code, "unknown-claim");
  });

  test("reads nothing more of an address of which too much has failed, and goes on with others", async () => {
    const wanted = aDevice();
    const claim = await claimFor(wanted);
    const codeFrom = async (from: string, text: string, request: string) => {
      const verdict = await authority.enrol(text, request, from);
      return verdict.ok ? "enrolled" : verdict.code;
    };
    const { burst } = limits.attempts.address;
    for (let i = 0; i < burst; i++)
      assert.equal(await codeFrom("10.0.0.1", "no claim", ""), "claim-malformed");
    assert.equal(await codeFrom("10.0.0.1", claim, ""), "too-many-attempts");
    const renewed = await authority.renew("no request", "10.0.0.1");
    assert.equal(renewed.ok ? "renewed" : renewed.code, "too-many-attempts");
    assert.equal(await codeFrom("10.0.0.2", claim, "no request"), "request-malformed");
    const passedOn = await authority.enrol("no claim", "");
    assert.equal(passedOn.ok ? "enrolled" : passedOn.code, "claim-malformed");
  });

  test("keeps nothing of a claim's secret", async () => {
    const claim = await claimFor(aDevice());
    const { id = "", secret = "" } = readClaim(claim) ?? {};
    const row = await store.identities.claim(id);
    assert.ok(row);
    assert.ok(!JSON.stringify(row).includes(secret));
    const { items } = await authority.listClaims({ limit: 1_000 });
    const shown = items.find((one) => one.id === id);
    assert.ok(shown && !("secretDigest" in shown));
  });

  test("lets those wait whose claim wants it, until somebody decides", async () => {
    const device = aDevice();
    const claim = await claimFor(device, { name: "*", approval: true, uses: 2 });
    const request = await requestOf(device, claim);
    const ask = async () => codeOf(await authority.enrol(claim, request));
    assert.deepEqual([await ask(), await ask()], ["claim-pending", "claim-pending"]);
    const waiting = async (name: string) => {
      const { items } = await authority.listEnrolments({ state: "pending" }, { limit: 100 });
      return items.find((one) => one.name === name)?.id ?? "";
    };
    const id = await waiting(device.name);
    assert.ok((await authority.decide(id, "accepted")).ok);
    assert.ok((await authority.decide(id, "accepted")).ok);
    const late = await authority.decide(id, "rejected");
    assert.equal(late.ok ? "" : late.code, "wrong-state");
    assert.deepEqual([await ask(), await ask()], ["granted", "granted"]);
    const unwanted = aDevice();
    const other = await requestOf(unwanted, claim);
    assert.equal(codeOf(await authority.enrol(claim, other)), "claim-pending");
    assert.ok((await authority.decide(await waiting(unwanted.name), "rejected")).ok);
    assert.equal(codeOf(await authority.enrol(claim, other)), "claim-rejected");
    const third = await requestOf(aDevice(), claim);
    assert.equal(codeOf(await authority.enrol(claim, third)), "claim-used");
  });

  test("accepts nobody for a name that was taken meanwhile", async () => {
    const device = aDevice();
    const claim = await claimFor(device, { approval: true });
    assert.equal(
      codeOf(await authority.enrol(claim, await requestOf(device, claim))),
      "claim-pending",
    );
    await enrolled({ ...device, key: makeKey("EdDSA") });
    const { items } = await authority.listEnrolments({ state: "pending" }, { limit: 100 });
    const { id = "" } = items.find((one) => one.name === device.name) ?? {};
    const decided = await authority.decide(id, "accepted");
    assert.equal(decided.ok ? "" : decided.code, "identity-taken");
  });

  test("gives a name once", async () => {
    const device = aDevice();
    await enrolled(device);
    for (const key of [makeKey("EdDSA"), device.key]) {
      const claim = await claimFor(device);
      const answer = await authority.enrol(claim, await requestOf({ ...device, key }, claim));
      assert.equal(codeOf(answer), "identity-taken");
    }
    await enrolled({ ...aGateway(), name: device.name });
  });

  test("renews with the same key; a repeat gets the same certificate, for a while", async () => {
    const device = aDevice();
    const { serial } = await enrolled(device);
    clock.advance(20 * DAY_MS);
    const request = await renewalOf(device, serial);
    const next = grantOf(await authority.renew(request));
    assert.notEqual(next.serial, serial);
    assert.equal(next.notAfterMs - clock.nowMs(), 30 * DAY_MS);
    assert.ok(next.token);
    assert.equal(grantOf(await authority.renew(request)).serial, next.serial);
    clock.advance(600_000);
    assert.notEqual(grantOf(await authority.renew(request)).serial, next.serial);
  });

  test("renews with a new key by the word of the old one, which counts no more then", async () => {
    const gateway = aGateway();
    const { serial, claim, request: first } = await enrolled(gateway);
    const fresh = { ...gateway, key: makeKey("ES256") };
    const unasked = await authority.renew(await renewalOf(fresh, serial));
    assert.equal(codeOf(unasked), "request-signature");
    const stranger = await authority.renew(await renewalOf(fresh, serial, makeKey("ES256")));
    assert.equal(codeOf(stranger), "request-signature");
    const request = await renewalOf(fresh, serial, gateway.key);
    const next = grantOf(await authority.renew(request));
    assert.ok(new X509Certificate(next.certificate).checkPrivateKey(fresh.key));
    // The answer was lost: the same request gets it again.
    assert.equal(grantOf(await authority.renew(request)).serial, next.serial);
    assert.equal(
      codeOf(await authority.renew(await renewalOf(gateway, serial))),
      "request-signature",
    );
    const third = { ...gateway, key: makeKey("ES256") };
    assert.equal(codeOf(await authority.enrol(claim, first)), "identity-taken");
    const ofBefore = await renewalOf(third, serial, fresh.key);
    assert.equal(codeOf(await authority.renew(ofBefore)), "request-signature");
    const backwards = await renewalOf(third, serial, gateway.key);
    assert.equal(codeOf(await authority.renew(backwards)), "request-signature");
    assert.equal(
      codeOf(await authority.renew(await renewalOf(third, next.serial, fresh.key))),
      "granted",
    );
    // Played again, the first step does not bring its key back.
    assert.equal(codeOf(await authority.renew(request)), "request-signature");
  });

  test("renews after a certificate's end within the grace, and not past it", async () => {
    const device = aDevice();
    const { serial, notAfterMs } = await enrolled(device);
    clock.advance(notAfterMs + 180 * DAY_MS - clock.nowMs());
    const request = await renewalOf(device, serial);
    assert.equal(codeOf(await authority.renew(request)), "granted");
    const late = aDevice();
    const given = await enrolled(late);
    clock.advance(given.notAfterMs + 180 * DAY_MS - clock.nowMs() + 1);
    assert.equal(codeOf(await authority.renew(await renewalOf(late, given.serial))), "grace-ended");
  });

  test("renews nobody else's certificate", async () => {
    const [one, other] = [aDevice(), aDevice()];
    const { serial } = await enrolled(one);
    await enrolled(other);
    const asThief = await renewalOf(other, serial);
    assert.equal(codeOf(await authority.renew(asThief)), "request-subject");
    const asOwner = await renewalOf({ ...one, key: other.key }, serial);
    assert.equal(codeOf(await authority.renew(asOwner)), "request-signature");
    assert.equal(codeOf(await authority.renew(await renewalOf(one, "abcdef"))), "identity-unknown");
    const moved = await renewalOf({ ...one, site: "south" }, serial);
    assert.equal(codeOf(await authority.renew(moved)), "request-subject");
    const claim = await claimFor(aDevice());
    assert.equal(codeOf(await authority.renew(await requestOf(one, claim))), "request-malformed");
  });

  test("shuts out who is revoked, for all that was given; a new key gets in again", async () => {
    const device = aDevice();
    const { serial, claim, request, certificate } = await enrolled(device);
    const revoked = await authority.revoke("device", device.name);
    assert.ok(revoked.ok);
    const read = await readDenylist(revoked.denylist.text, { fleet, keyring: await keyring() });
    assert.ok(read.ok);
    assert.equal(read.list.sequence, revoked.denylist.sequence);
    const isVoid = denials(read.list);
    const startOf = (pem: string) => Date.parse(new X509Certificate(pem).validFrom) / 1000;
    assert.ok(isVoid("device", device.name, startOf(certificate)));
    const now = Math.floor(clock.nowMs() / 1000);
    assert.ok(isVoid("device", device.name, now));
    assert.equal(
      codeOf(await authority.renew(await renewalOf(device, serial))),
      "identity-revoked",
    );
    assert.equal(codeOf(await authority.enrol(claim, request)), "identity-revoked");
    const again = await claimFor(device);
    assert.equal(
      codeOf(await authority.enrol(again, await requestOf(device, again))),
      "identity-revoked",
    );
    // Enrolled anew in the same second, and void no more.
    const fresh = { ...device, key: makeKey("EdDSA") };
    const given = grantOf(await authority.enrol(again, await requestOf(fresh, again)));
    assert.ok(!isVoid("device", device.name, startOf(given.certificate)));
    const rules = {
      fleet,
      keyring: await keyring(),
      nowMs: clock.nowMs(),
      device: device.name,
      site: "north",
      isVoid: (name: string, at: number) => isVoid("device", name, at),
    };
    assert.ok((await verifyDeviceToken(given.token ?? "", rules)).ok);
    const { items } = await authority.listIdentities({ limit: 1_000 });
    assert.equal(items.find(({ name }) => name === device.name)?.state, "active");
    // Revoked once more in that second: that one is void, too.
    const twice = await authority.revoke("device", device.name);
    assert.ok(twice.ok && twice.denylist.sequence > revoked.denylist.sequence);
    assert.ok(denials(twice.denylist)("device", device.name, startOf(given.certificate)));
    const unknown = await authority.revoke("device", "nobody");
    assert.equal(unknown.ok ? "" : unknown.code, "identity-unknown");
  });

  test("lets the denylist's sequence grow with each change, though the clock is set back", async () => {
    const [one, other] = [aDevice(), aDevice()];
    await enrolled(one);
    await enrolled(other);
    const first = await authority.revoke("device", one.name);
    clock.shiftWall(-DAY_MS);
    const second = await authority.revoke("device", other.name);
    clock.shiftWall(DAY_MS);
    assert.ok(first.ok && second.ok);
    assert.ok(second.denylist.sequence > first.denylist.sequence);
    const { before = 0 } = second.denylist.entries.find(({ name }) => name === other.name) ?? {};
    assert.ok(before * 1000 > clock.nowMs());
    assert.equal((await authority.denylist()).sequence, second.denylist.sequence);
  });

  test("forgets a denial once all that it voided has ended", async () => {
    const [old, fresh] = [aDevice(), aDevice()];
    await enrolled(old);
    assert.ok((await authority.revoke("device", old.name)).ok);
    const listed = async () => (await authority.denylist()).entries.map(({ name }) => name);
    assert.ok((await listed()).includes(old.name));
    clock.advance(211 * DAY_MS);
    await enrolled(fresh);
    assert.ok((await listed()).includes(old.name));
    assert.ok((await authority.revoke("device", fresh.name)).ok);
    assert.deepEqual(await listed(), [fresh.name]);
    clock.advance(211 * DAY_MS);
    assert.deepEqual(await listed(), [fresh.name]);
  });

  test("issues with rotated keys at once, and those of before stay good", async () => {
    const before = await enrolled(aDevice());
    const device = aDevice();
    const given = await enrolled(device);
    const options = { nowMs: clock.nowMs(), overlapMs: 35 * DAY_MS, random };
    await changeAuthority(dir, (found) => rotate(found, "roots", options));
    await changeAuthority(dir, (found) => rotate(found, "signing", options));
    const next = grantOf(await authority.renew(await renewalOf(device, given.serial)));
    assert.equal(next.anchors.length, 2);
    assert.equal(next.chain.length, 1);
    assert.equal(next.jwks.keys.length, 2);
    const [newest = "", oldest = ""] = next.anchors;
    assert.deepEqual(before.anchors, [oldest]);
    assert.ok(new X509Certificate(next.certificate).verify(new X509Certificate(newest).publicKey));
    const link = new X509Certificate(next.chain[0] ?? "");
    assert.ok(link.verify(new X509Certificate(oldest).publicKey));
    // Who has not heard of the new key can still read the list.
    const known = createKeyring(before.jwks);
    assert.ok((await readDenylist(next.denylist, { fleet, keyring: known })).ok);
    const claim = await claimFor(aDevice());
    assert.equal(readClaim(claim)?.anchor, anchorOf(newest));
  });

  test("goes on after a restart of the cloud, with nothing lost", async () => {
    const device = aDevice();
    const { claim, request, certificate } = await enrolled(device);
    await store.close();
    store = await openStore({ dataDir: dir });
    const opened = await open();
    assert.ok(opened);
    authority = opened;
    assert.equal(grantOf(await authority.enrol(claim, request)).certificate, certificate);
  });

  test("forgets claims that ended long ago", async () => {
    const old = readClaim(await claimFor(aDevice()));
    clock.advance(92 * DAY_MS);
    const fresh = readClaim(await claimFor(aDevice()));
    assert.equal(await store.identities.claim(old?.id ?? ""), undefined);
    assert.ok(await store.identities.claim(fresh?.id ?? ""));
  });
});
