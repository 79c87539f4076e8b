import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { describe, it } from "node:test";
import { readCertificates } from "@tributary/proto/identity/certificate.js";
import { makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import { signUserToken } from "@tributary/proto/identity/tokens.js";
import { createTestAuthority } from "@tributary/proto/vectors/authority.js";
import { createDeviceAccess, type Introduction } from "./device-access.js";
import { createDeviceFleet, FLEET, type Shown, SITE } from "./testing/device-fleet.js";

const HOUR_MS = 3_600_000;

function open({ spares = () => false }: { readonly spares?: (endedAtMs: number) => boolean } = {}) {
  const fleet = createDeviceFleet();
  const clock = { nowMs: Date.now() };
  const access = createDeviceAccess({
    identity: fleet.identity,
    nowMs: () => clock.nowMs,
    spares,
  });
  const admit = async (introduction: Partial<Introduction>) => {
    const admitted = await access.admit({
      ...{ device: "dev-a", username: undefined, password: undefined, certificates: [] },
      ...introduction,
    });
    return admitted.ok ? admitted.standing.as : admitted.code;
  };
  const show = (shown: Shown, device = "dev-a") =>
    admit({ device, certificates: readCertificates(shown.cert) });
  const tell = (password: string, device = "dev-a") =>
    admit({ device, username: "token", password });
  return { fleet, clock, access, admit, show, tell };
}

const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
const payloadOf = (token: string): object =>
  JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString());

describe("who shows a certificate", () => {
  it("is the device that it names, with its key", async () => {
    const { fleet, access } = open();
    const shown = fleet.certify("dev-a");
    const certificates = readCertificates(shown.cert);
    const admitted = await access.admit({
      ...{ device: "dev-a", username: undefined, password: undefined, certificates },
    });
    assert.ok(admitted.ok && admitted.standing.as === "device");
    const { by, key } = admitted.standing.credential;
    assert.equal(by, "certificate");
    assert.deepEqual(publicJwk(key), publicJwk(shown.public));
  });

  it("is nobody else: client A's certificate with client B's id is refused", async () => {
    const { fleet, show } = open();
    assert.equal(await show(fleet.certify("dev-a"), "dev-b"), "certificate-subject");
  });

  it("is a device of this site and fleet: a gateway's certificate lets no device in", async () => {
    const { fleet, show } = open();
    assert.equal(await show(fleet.certify("dev-a", { kind: "gateway" })), "certificate-subject");
    assert.equal(await show(fleet.certify("dev-a", { site: "other" })), "certificate-subject");
    assert.equal(await show(fleet.certify("dev-a", { fleet: "other" })), "certificate-subject");
  });

  it("has it of the fleet's authority", async () => {
    const { show } = open();
    const stranger = createTestAuthority();
    const key = makeKey("EdDSA");
    const cert = stranger.certify({ fleet: FLEET, kind: "device", site: SITE, name: "dev-a" }, key);
    assert.equal(await show({ key: "", cert, public: key }), "certificate-untrusted");
  });

  it("is late after its end, and early before its beginning, by the site's time", async () => {
    const { fleet, clock, show } = open();
    const fromMs = clock.nowMs + HOUR_MS;
    const shown = fleet.certify("dev-a", { fromMs, toMs: fromMs + HOUR_MS });
    assert.equal(await show(shown), "certificate-not-yet-valid");
    clock.nowMs += 1.5 * HOUR_MS;
    assert.equal(await show(shown), "device");
    clock.nowMs += HOUR_MS;
    assert.equal(await show(shown), "late");
  });

  it("is void when it was revoked after it got it, and is not with a later one", async () => {
    const { fleet, show } = open();
    const before = Math.floor(Date.now() / 1000);
    const old = fleet.certify("dev-a", { fromMs: (before - 10) * 1000 });
    const later = fleet.certify("dev-a", { fromMs: before * 1000 });
    fleet.revoke("dev-a", before);
    assert.equal(await show(old), "certificate-revoked");
    assert.equal(await show(later), "device");
    assert.equal(await show(fleet.certify("dev-b"), "dev-b"), "device");
  });
});

describe("who shows a token", () => {
  it("is the device that it was given to", async () => {
    const { fleet, tell } = open();
    assert.equal(await tell(await fleet.token("dev-a")), "device");
  });

  it("is nobody else: A's token with B's id, or at another site, is refused", async () => {
    const { fleet, tell } = open();
    assert.equal(await tell(await fleet.token("dev-a"), "dev-b"), "token-subject");
    assert.equal(await tell(await fleet.token("dev-a", { site: "other" })), "token-subject");
  });

  it("is refused with an expired, early, wrong-audience or wrong-issuer one", async () => {
    const { fleet, tell } = open();
    const now = Math.floor(Date.now() / 1000);
    const { token } = fleet;
    assert.equal(await tell(await token("dev-a", { aud: "api" })), "token-audience");
    assert.equal(await tell(await token("dev-a", { iss: "tributary:other" })), "token-issuer");
    assert.equal(await tell(await token("dev-a", { nbf: now + 600 })), "token-not-yet-valid");
    const ended = await token("dev-a", { iat: now - 7_200, nbf: now - 7_200, exp: now - 3_600 });
    assert.equal(await tell(ended), "late", "it may ask for the next one");
    assert.equal(await tell(ended, "dev-b"), "token-subject", "and for nobody else's");
  });

  it("is refused with one that no key of the fleet signed: alg none, a key confused, a forged end", async () => {
    const { fleet, tell } = open();
    const good = await fleet.token("dev-a");
    const typ = "tributary-device+jwt";
    const none = `${part({ alg: "none", typ, kid: "k1" })}.${good.split(".")[1]}.`;
    assert.equal(await tell(none), "token-signature");
    const body = `${part({ alg: "HS256", typ, kid: "k1" })}.${good.split(".")[1]}`;
    const secret = JSON.stringify(fleet.identity.jwks.keys[0]);
    const mac = createHmac("sha256", secret).update(body).digest("base64url");
    assert.equal(await tell(`${body}.${mac}`), "token-signature");
    const stranger = { kid: "k1", key: makeKey("EdDSA") };
    assert.equal(await tell(await fleet.token("dev-a", {}, stranger)), "token-signature");
    const now = Math.floor(Date.now() / 1000);
    const old = await fleet.token(
      "dev-a",
      { iat: now - 9, nbf: now - 9, exp: now - 600 },
      stranger,
    );
    assert.equal(await tell(old), "token-signature", "what has ended is not taken on its word");
    const [head, , signature] = good.split(".");
    const longer = part({ ...payloadOf(good), exp: now + 1_000_000 });
    assert.equal(await tell(`${head}.${longer}.${signature}`), "token-signature");
    for (const text of ["", "x", "a.b.c", "x".repeat(100_000)])
      assert.equal(await tell(text), "token-malformed", text.slice(0, 10));
  });

  it("is refused with a person's, and after a revocation", async () => {
    const { fleet, tell } = open();
    const iat = Math.floor(Date.now() / 1000) - 10;
    const person = { sub: "dev-a", name: "A", roles: [], iat, exp: iat + 600, jti: "u1" };
    assert.equal(await tell(await signUserToken(FLEET, person, fleet.issuer)), "token-kind");
    const token = await fleet.token("dev-a");
    fleet.revoke("dev-a", iat + 5);
    assert.equal(await tell(token), "token-revoked");
  });
});

describe("who shows a claim", () => {
  it("is a newcomer, whatever it calls itself, and one of this fleet's alone", async () => {
    const { fleet, admit } = open();
    assert.equal(await admit({ username: "enrol", password: fleet.claim }), "newcomer");
    const other = createDeviceFleet().claim;
    assert.equal(await admit({ username: "enrol", password: other }), "claim-unknown");
    for (const password of [undefined, "", "tc1.x", await fleet.token("dev-a")])
      assert.equal(await admit({ username: "enrol", password }), "claim-malformed");
    assert.equal(await admit({ username: "dev-a", password: fleet.claim }), "token-malformed");
  });
});

it("who shows nothing is refused", async () => {
  const { admit } = open();
  assert.equal(await admit({}), "certificate-missing");
  assert.equal(await admit({ username: "dev-a" }), "certificate-missing");
});

describe("what has ended while the site is cut off", () => {
  it("counts, of a certificate and of a token, and to the same end", async () => {
    const now = Date.now();
    const spared = new Set([now - HOUR_MS, (Math.floor(now / 1000) - 3_600) * 1000]);
    const { fleet, show, tell } = open({ spares: (endedAtMs) => spared.has(endedAtMs) });
    const toMs = Math.floor(now / 1000) * 1000 - HOUR_MS;
    const fromMs = toMs - HOUR_MS;
    assert.equal(await show(fleet.certify("dev-a", { fromMs, toMs })), "device");
    assert.equal(await show(fleet.certify("dev-a", { fromMs, toMs: toMs - 1_000 })), "late");
    const times = { iat: fromMs / 1000, nbf: fromMs / 1000 };
    assert.equal(await tell(await fleet.token("dev-a", { ...times, exp: toMs / 1000 })), "device");
    assert.equal(
      await tell(await fleet.token("dev-a", { ...times, exp: toMs / 1000 - 1 })),
      "late",
    );
  });

  it("does not count once it was revoked", async () => {
    const { fleet, show } = open({ spares: () => true });
    const toMs = Date.now() - HOUR_MS;
    fleet.revoke("dev-a", Math.floor(Date.now() / 1000));
    const shown = fleet.certify("dev-a", { fromMs: toMs - HOUR_MS, toMs });
    assert.equal(await show(shown), "certificate-revoked");
  });
});

it("a connection may go on until what it showed ends, or is void", async () => {
  const { fleet, clock, access } = open();
  const toMs = clock.nowMs + HOUR_MS;
  const admitted = await access.admit({
    ...{ device: "dev-a", username: undefined, password: undefined },
    certificates: readCertificates(fleet.certify("dev-a", { toMs }).cert),
  });
  assert.ok(admitted.ok);
  const objection = () => access.objection("dev-a", admitted.standing)?.code;
  assert.equal(objection(), undefined);
  clock.nowMs += 2 * HOUR_MS;
  assert.equal(objection(), "certificate-expired");
  clock.nowMs -= 2 * HOUR_MS;
  fleet.revoke("dev-a", Math.floor(clock.nowMs / 1000));
  assert.equal(objection(), "certificate-revoked");
});
