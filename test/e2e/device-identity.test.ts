import assert from "node:assert/strict";
import { createPublicKey } from "node:crypto";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, it } from "node:test";
import { createDevice } from "@tributary/device-sdk/device.js";
import { enrolDevice } from "@tributary/device-sdk/enrol.js";
import type { DeviceEvent, ReportedEvent } from "@tributary/device-sdk/events.js";
import { type DeviceIdentity, openIdentity } from "@tributary/device-sdk/identity.js";
import { createBroker, type DeviceLink } from "@tributary/gateway/broker.js";
import { createDeviceAccess } from "@tributary/gateway/device-access.js";
import { type AskAuthority, createDeviceEnrol } from "@tributary/gateway/device-enrol.js";
import {
  createDeviceFleet,
  type DeviceFleet,
  SITE,
} from "@tributary/gateway/testing/device-fleet.js";
import { type Clock, systemClock } from "@tributary/proto/host/clock.js";
import { type Random, systemRandom } from "@tributary/proto/host/random.js";
import { readCertificates } from "@tributary/proto/identity/certificate.js";
import { publicKey } from "@tributary/proto/identity/keys.js";
import { readRequest } from "@tributary/proto/identity/request.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { refuse } from "@tributary/proto/wire/verdict.js";
import { placeOf, tryConnect, tryConnectTls } from "tributary/cli/check/network.js";
import { createEventLog } from "../floor/event-log.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

/** Devices with their identities at a real broker; the authority behind it is a few lines here. */

const DAY_MS = 24 * 60 * 60_000;
const impatient: Random = { ...systemRandom(), next: () => 0.02 };
const closers: (() => unknown)[] = [];
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "tributary-identity-"));
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
  await rm(dir, { recursive: true, force: true });
});

/** A clock that is ahead of the machine's by so much. */
function ahead(byMs: () => number): Clock {
  const clock = systemClock();
  return { ...clock, nowMs: () => clock.nowMs() + byMs() };
}

type Ask = { claim: string; request: string };

async function openGateway(fleet: DeviceFleet = createDeviceFleet()) {
  /** How far the whole site is ahead. */
  const time = { aheadMs: 0, spared: false };
  const nowMs = () => Date.now() + time.aheadMs;
  const asks: Ask[] = [];
  const grants: Parameters<DeviceFleet["authority"]["certify"]>[2][] = [];
  let answer: AskAuthority = async (claim, request) => {
    asks.push({ claim, request });
    const read = await readRequest(request);
    assert.ok(read.ok);
    const { name } = read.request.payload;
    const { jwk } = read.request;
    const subject = { fleet: fleet.identity.fleet, kind: "device", site: SITE, name } as const;
    const from = Math.floor(nowMs() / 1000) - 300;
    const dates = { fromMs: from * 1000, toMs: nowMs() + 30 * DAY_MS, ...grants.shift() };
    const certificate = fleet.authority.certify(subject, publicKey(jwk), dates);
    const [parsed] = readCertificates(certificate);
    assert.ok(parsed !== undefined && jwk.kty === "OKP");
    const exp = Math.floor(dates.toMs / 1000);
    const token = await fleet.token(name, { iat: from, nbf: from, exp, cnf: { jwk } });
    const grant = {
      ...{ certificate, token, chain: [], anchors: [fleet.authority.certificate] },
      serial: parsed.serialNumber.toLowerCase(),
      notAfterMs: exp * 1000,
      jwks: fleet.identity.jwks,
      denylist: "",
    };
    return { ok: true, grant };
  };
  const enrol = createDeviceEnrol({
    site: SITE,
    ask: (claim, request) => answer(claim, request),
    retryAfterMs: 100,
    events: () => {},
  });
  const here = new Map<string, string | undefined>();
  const refused: string[] = [];
  const link: DeviceLink = await createBroker({
    site: SITE,
    clock: systemClock(),
    identity: fleet.identity,
    admission: createDeviceAccess({
      identity: fleet.identity,
      nowMs,
      spares: () => time.spared,
    }),
    handlers: {
      onMessage(device, kind, bytes) {
        if (kind === "hello") {
          const welcome = { gateway: "gw-1", site: SITE, incarnation: "i1" };
          link.send(device, "welcome", encodeEnvelope(welcome));
        } else if (kind === "renew") {
          const send: DeviceLink["send"] = link.send;
          enrol.take(
            { device, claim: undefined, send: (to, message) => send(device, to, message) },
            "renew",
            bytes,
          );
        }
      },
      onConnected: (device, credential) => here.set(device, credential?.by),
      onDisconnected: (device) => here.delete(device),
      onPetition: enrol.take,
      onRefused: (device, reason, detail) => refused.push(`${reason} ${device} ${detail}`),
    },
  });
  const port = await link.listen("127.0.0.1", 0);
  closers.push(() => link.close());
  return {
    ...{ fleet, link, here, refused, asks, grants, time },
    url: `mqtts://127.0.0.1:${port}`,
    answerWith(next: AskAuthority) {
      answer = next;
    },
  };
}

type Gateway = Awaited<ReturnType<typeof openGateway>>;

function enrolling({ url, fleet }: Pick<Gateway, "url" | "fleet">, changes: object = {}) {
  const log = createEventLog<DeviceEvent>("dev-a");
  const aborting = new AbortController();
  closers.push(() => aborting.abort());
  const enrolled = enrolDevice({
    ...{ dir: join(dir, "identity"), device: "dev-a", site: SITE, gateway: url },
    ...{ claim: `${fleet.claim}\n`, clock: systemClock(), random: impatient },
    ...{ signal: aborting.signal, report: log.add },
    ...changes,
  });
  enrolled.catch(() => {});
  return { ...log, enrolled, abort: () => aborting.abort() };
}

async function start(
  { url }: Pick<Gateway, "url">,
  identity: DeviceIdentity,
  {
    credential = "certificate",
    clock = systemClock(),
  }: {
    readonly credential?: "certificate" | "token";
    readonly clock?: Clock;
  } = {},
) {
  const log = createEventLog<ReportedEvent>(identity.device);
  const device = await createDevice({
    ...{ device: identity.device, site: SITE, gateway: url, identity, credential },
    trainer: createStepTrainer({ device: identity.device, samples: 1 }),
    onEvent: log.add,
    parts: { random: impatient, systemAttributes: async () => ({}), clock },
  });
  closers.push(() => device.close());
  await device.start();
  return { ...device, ...log };
}

describe("a device that enrols", () => {
  it("gets a certificate for the key that it made, keeps it to itself, and comes in with it", async () => {
    const gateway = await openGateway();
    const identity = await enrolling(gateway).enrolled;
    const place = { dir: join(dir, "identity"), device: "dev-a", site: SITE };
    for (const file of await readdir(place.dir))
      assert.equal((await stat(join(place.dir, file))).mode & 0o777, 0o600, file);
    assert.deepEqual((await readdir(place.dir)).sort(), [
      "anchors.pem",
      "certificate.pem",
      "fleet.json",
      "key.pem",
      "token.jwt",
    ]);
    const device = await start(gateway, identity);
    await device.event("link-up");
    assert.equal(gateway.here.get("dev-a"), "certificate");
    const again = await openIdentity(place);
    assert.equal(again?.serial, identity.serial);
    assert.ok(again?.key.equals(identity.key));
    assert.equal(gateway.asks.length, 1);
    assert.equal(gateway.asks[0]?.claim, gateway.fleet.claim, "the claim went with it");
  });

  it("comes in with its token, where it is to show that", async () => {
    const gateway = await openGateway();
    const device = await start(gateway, await enrolling(gateway).enrolled, { credential: "token" });
    await device.event("link-up");
    assert.equal(gateway.here.get("dev-a"), "token");
  });

  it("waits while the uplink is away and somebody is to accept it, then asks again with its key", async () => {
    const gateway = await openGateway();
    const keys: string[] = [];
    const codes = ["uplink-away", "claim-pending"] as const;
    const real = gateway.asks;
    let next = 0;
    const { answerWith } = gateway;
    const other = await openGateway(gateway.fleet);
    answerWith(async (claim, request) => {
      const read = await readRequest(request);
      keys.push(read.ok ? read.request.thumbprint : "");
      const code = codes[next++];
      if (code !== undefined) return refuse(code, "not yet");
      real.push({ claim, request });
      return refuse("claim-used", "the last word");
    });
    const waiting = enrolling(gateway);
    await assert.rejects(waiting.enrolled, { code: "claim-used" });
    assert.equal(new Set(keys).size, 1);
    assert.deepEqual(
      waiting.events.map((event) => "code" in event && event.code),
      ["uplink-away", "claim-pending"],
    );
    assert.ok((await enrolling(other).enrolled).serial, "and with it later, where it may");
  });

  it("says nothing, and no claim, to a gateway of another authority or site", async () => {
    const stranger = await openGateway();
    const own = createDeviceFleet();
    const waiting = enrolling({ url: stranger.url, fleet: own });
    await waiting.event("enrolment-waits", { code: "certificate-untrusted" });
    waiting.abort();
    await assert.rejects(waiting.enrolled);
    const gateway = await openGateway();
    const elsewhere = enrolling(gateway, { site: "other", dir: join(dir, "elsewhere") });
    await elsewhere.event("enrolment-waits", { code: "certificate-subject" });
    elsewhere.abort();
    await assert.rejects(elsewhere.enrolled);
    const said = [...stranger.refused, ...gateway.refused].filter(
      (text) => !text.startsWith("tls"),
    );
    assert.deepEqual(said, []);
  });
});

describe("an enrolled device", () => {
  it("renews at two thirds of the certificate's life, over its link, which stays up", async () => {
    const gateway = await openGateway();
    const identity = await enrolling(gateway).enrolled;
    const { serial } = identity;
    const time = { aheadMs: 0 };
    const device = await start(gateway, identity, { clock: ahead(() => time.aheadMs) });
    await device.event("link-up");
    assert.equal(gateway.asks.length, 1, "not before");
    await device.close();
    time.aheadMs = 21 * DAY_MS;
    gateway.time.aheadMs = 21 * DAY_MS;
    const later = await start(gateway, identity, { clock: ahead(() => time.aheadMs) });
    await later.event("renewed");
    assert.notEqual(identity.serial, serial);
    assert.equal(later.count("link-down"), 0);
    assert.equal(gateway.asks[1]?.claim, "");
    const read = await readRequest(gateway.asks[1]?.request ?? "");
    assert.ok(read.ok && "renew" in read.request.payload);
    assert.equal(read.request.payload.renew, serial);
    const kept = await openIdentity({ dir: join(dir, "identity"), device: "dev-a", site: SITE });
    assert.equal(kept?.serial, identity.serial, "and it is kept");
  });

  for (const credential of ["certificate", "token"] as const)
    it(`whose ${credential} has ended gets the next one, and comes in with that`, async () => {
      const gateway = await openGateway();
      const identity = await enrolling(gateway).enrolled;
      const { serial } = identity;
      gateway.time.aheadMs = 100 * DAY_MS;
      // Its own clock does not know: it hears it from the gateway.
      const device = await start(gateway, identity, { credential });
      await device.event("renewed");
      await device.event("link-up");
      assert.notEqual(identity.serial, serial);
      assert.equal(gateway.here.get("dev-a"), credential);
    });

  it("comes in with what has ended where the site is cut off, and asks in vain for the next", async () => {
    const gateway = await openGateway();
    const identity = await enrolling(gateway).enrolled;
    gateway.answerWith(async () => refuse("uplink-away", "cut off"));
    gateway.time.aheadMs = 100 * DAY_MS;
    gateway.time.spared = true;
    const device = await start(gateway, identity, { clock: ahead(() => 100 * DAY_MS) });
    await device.event("link-up");
    await device.event("renewal-failed", { code: "uplink-away" });
    assert.equal(device.count("link-down"), 0);
  });

  it("takes a gateway whose certificate has ended, for a time, and no gateway of elsewhere", async () => {
    const gateway = await openGateway();
    const identity = await enrolling(gateway).enrolled;
    const toMs = Date.now() - 90 * DAY_MS;
    gateway.fleet.renewGateway({ fromMs: toMs - 30 * DAY_MS, toMs });
    const device = await start(gateway, identity);
    await device.event("link-up");
    await device.close();
    const tooLong = Date.now() - 200 * DAY_MS;
    gateway.fleet.renewGateway({ fromMs: tooLong - 30 * DAY_MS, toMs: tooLong });
    const late = await start(gateway, identity);
    await late.event("link-down", { reason: "the certificate of gw-1 ended too long ago" });
    await late.close();
    const uris = ["tributary:press-works/device/plant/dev-b"];
    gateway.fleet.renewGateway({ uris });
    const fooled = await start(gateway, identity);
    await fooled.event("link-down", { reason: "that is the device dev-b, not a gateway of plant" });
    const stranger = await openGateway();
    const lost = await start(stranger, identity);
    await lost.event("link-down", { reason: "the certificate is not of a trusted authority" });
    assert.equal(fooled.count("link-up") + lost.count("link-up") + late.count("link-up"), 0);
  });

  it("that knows the older authority alone takes what a newer one issued, as a claim of before does", async () => {
    const gateway = await openGateway();
    const identity = await enrolling(gateway).enrolled;
    gateway.fleet.rotate();
    const device = await start(gateway, identity);
    await device.event("link-up");
    assert.equal(identity.anchors.length, 1);
    const other = { device: "dev-b", dir: join(dir, "other") };
    assert.ok((await enrolling(gateway, other).enrolled).serial);
  });

  it("that was revoked is cut off, and comes in no more", async () => {
    const gateway = await openGateway();
    const identity = await enrolling(gateway).enrolled;
    const device = await start(gateway, identity);
    await device.event("link-up");
    const before = Math.floor(Date.now() / 1000) + 1;
    gateway.fleet.revoke("dev-a", before);
    gateway.link.cut?.((_, givenAt) => givenAt < before);
    await until("it came again, in vain", () =>
      gateway.refused.some((text) =>
        text.includes("credential dev-a certificate-revoked: the device was revoked after"),
      ),
    );
    assert.ok(!gateway.here.has("dev-a"));
    assert.equal(device.count("link-up"), 1);
  });

  it("is refused a folder that holds another's identity", async () => {
    const gateway = await openGateway();
    await enrolling(gateway).enrolled;
    const place = { dir: join(dir, "identity"), device: "dev-b", site: SITE };
    await assert.rejects(openIdentity(place), { code: "grant-malformed" });
  });
});

it("a look at the machine finds a broker with TLS as it should be, and one without not", async () => {
  const { url } = await openGateway();
  assert.equal(await tryConnectTls(placeOf(url), 20_000), undefined);
  assert.notEqual(await tryConnect(placeOf(url), 20_000), undefined);
});

it("a grant for another key is not kept", async () => {
  const gateway = await openGateway();
  const identity = await enrolling(gateway).enrolled;
  const { cert } = gateway.fleet.certify("dev-a");
  const { serial, toMs: notAfterMs, token, jwks } = identity;
  const grant = {
    ...{ certificate: cert, serial, notAfterMs, token, jwks },
    ...{ chain: [], anchors: identity.anchors.map(String) },
  };
  await assert.rejects(identity.take(grant), { code: "grant-malformed" });
  assert.ok(
    createPublicKey(identity.key).equals(
      readCertificates(identity.certificate)[0]?.publicKey as never,
    ),
  );
});
