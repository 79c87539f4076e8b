import assert from "node:assert/strict";
import { once } from "node:events";
import { createConnection } from "node:net";
import { afterEach, describe, it } from "node:test";
import { connect as connectTls } from "node:tls";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { allTopic, deviceFilters, downTopic, upTopic } from "@tributary/proto/wire/topics.js";
import { connectAsync, type IClientOptions, type MqttClient } from "mqtt";
import { createBroker, type DeviceLink } from "./broker.js";
import { type Credential, createDeviceAccess } from "./device-access.js";
import type { Petitioner } from "./device-enrol.js";
import { limits } from "./limits.js";
import { createDeviceFleet, type DeviceFleet, SITE } from "./testing/device-fleet.js";
import { connectPacket, openRawMqtt } from "./testing/raw-mqtt.js";
import { until } from "./testing/wait.js";

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const HOUR_MS = 3_600_000;

async function open(fleet: DeviceFleet = createDeviceFleet()) {
  const received: string[] = [];
  const refused: string[] = [];
  const here = new Map<string, Credential | undefined>();
  const petitions: { petitioner: Petitioner; asks: string }[] = [];
  const clock = createManualClock(Date.now());
  const time = { nowMs: Date.now() };
  const link: DeviceLink = await createBroker({
    site: SITE,
    clock,
    identity: fleet.identity,
    admission: createDeviceAccess({
      identity: fleet.identity,
      nowMs: () => time.nowMs,
      spares: () => false,
    }),
    handlers: {
      onMessage: (device, kind) => received.push(`${device} ${kind}`),
      onConnected: (device, credential) => here.set(device, credential),
      onDisconnected: (device) => here.delete(device),
      onPetition: (petitioner, asks) => petitions.push({ petitioner, asks }),
      onRefused: (device, reason, detail) =>
        refused.push(`${reason} ${device} ${reason === "credential" ? detail.split(":")[0] : ""}`),
    },
  });
  const port = await link.listen("127.0.0.1", 0);
  closers.push(() => link.close());
  const client = async (clientId: string, options: IClientOptions = {}): Promise<MqttClient> => {
    const connected = await connectAsync({
      ...{ protocol: "mqtts", host: "127.0.0.1", port, protocolVersion: 4, clientId },
      ...{ keepalive: 15, reconnectPeriod: 0, rejectUnauthorized: false },
      ...options,
    });
    connected.on("error", () => {});
    closers.push(() => connected.endAsync(true));
    return connected;
  };
  return { fleet, link, port, received, refused, here, petitions, clock, time, client };
}

const gone = (client: MqttClient) => until("the connection closes", () => !client.connected);
const hello = (device: string) => upTopic(SITE, device, "hello");

describe("at a broker with an identity", () => {
  it("a device comes in with its certificate or with its token, and its key is known", async () => {
    const { fleet, client, here, received } = await open();
    const shown = fleet.certify("dev-a");
    const a = await client("dev-a", shown);
    const b = await client("dev-b", { username: "token", password: await fleet.token("dev-b") });
    assert.ok(here.get("dev-a")?.key.equals(shown.public));
    assert.equal(here.get("dev-b")?.by, "token");
    await a.publishAsync(hello("dev-a"), "x", { qos: 1 });
    await b.publishAsync(hello("dev-b"), "x", { qos: 1 });
    assert.deepEqual(received, ["dev-a hello", "dev-b hello"]);
    const [tls] = [(a.stream as unknown as { getProtocol(): string }).getProtocol()];
    assert.equal(tls, "TLSv1.3");
  });

  it("client A's certificate with client B's id, and A's token as B, are refused", async () => {
    const { fleet, client, refused, here } = await open();
    await assert.rejects(client("dev-b", fleet.certify("dev-a")), /Not authorized/);
    const password = await fleet.token("dev-a");
    await assert.rejects(client("dev-b", { username: "token", password }), /Not authorized/);
    assert.deepEqual(refused, [
      "credential dev-b certificate-subject",
      "credential dev-b token-subject",
    ]);
    assert.equal(here.size, 0);
  });

  it("A's token posting as B ends the connection, and nothing of it arrives", async () => {
    const { fleet, client, received } = await open();
    const a = await client("dev-a", { username: "t", password: await fleet.token("dev-a") });
    a.publish(hello("dev-b"), "x", { qos: 1 });
    await gone(a);
    assert.deepEqual(received, []);
  });

  it("nothing, a stranger's certificate, and no TLS at all are refused", async () => {
    const { client, port, refused } = await open();
    await assert.rejects(client("dev-a"), /Not authorized/);
    const stranger = createDeviceFleet().certify("dev-a");
    const shown = connectTls({ host: "127.0.0.1", port, rejectUnauthorized: false, ...stranger });
    shown.on("error", () => {}).resume();
    await once(shown, "close");
    const plain = createConnection(port, "127.0.0.1");
    plain.on("error", () => {}).resume();
    plain.write(connectPacket("dev-a"));
    await once(plain, "close");
    await until("all are counted", () => refused.length === 3);
    assert.deepEqual(refused, [
      "credential dev-a certificate-missing",
      "credential  certificate-untrusted",
      "tls  ",
    ]);
  });

  it("a CONNECT of 300 MB is refused when it announces it, and so is one that comes in TLS records", async () => {
    const { port, refused } = await open();
    const socket = connectTls({ host: "127.0.0.1", port, rejectUnauthorized: false });
    await once(socket, "secureConnect");
    socket.on("error", () => {}).resume();
    const length = 300 * 1024 * 1024;
    const digits = [0, 7, 14, 21].map(
      (shift) => ((length >> shift) & 127) | (shift < 21 ? 128 : 0),
    );
    const before = process.memoryUsage().arrayBuffers;
    socket.write(Uint8Array.from([0x10, ...digits]));
    const piece = Buffer.alloc(1024 * 1024);
    let sent = 0;
    const more = (): void => {
      while (!socket.destroyed && sent < 300 && socket.write(piece)) sent++;
    };
    socket.on("drain", more);
    more();
    await until("it is closed", () => socket.destroyed);
    assert.deepEqual(refused, ["packet  "]);
    assert.ok(process.memoryUsage().arrayBuffers - before < 64 * 1024 * 1024);
  });

  it("a revoked device's live connection is cut, and it does not come back; others stay", async () => {
    const { fleet, client, link, here, refused } = await open();
    const shown = fleet.certify("dev-a");
    const a = await client("dev-a", shown);
    const other = await client("dev-b", fleet.certify("dev-b"));
    const before = Math.floor(Date.now() / 1000) + 1;
    fleet.revoke("dev-a", before);
    assert.equal(
      link.cut?.((device, givenAt) => device === "dev-a" && givenAt < before),
      1,
    );
    await gone(a);
    await until("it is gone here", () => !here.has("dev-a"));
    await assert.rejects(client("dev-a", shown), /Not authorized/);
    const password = await fleet.token("dev-a");
    await assert.rejects(client("dev-a", { username: "t", password }), /Not authorized/);
    assert.ok(other.connected);
    assert.deepEqual(refused, [
      "credential dev-a certificate-revoked",
      "credential dev-a certificate-revoked",
      "credential dev-a token-revoked",
    ]);
  });

  it("a connection ends with what was shown for it", async () => {
    const { fleet, client, clock, time, here } = await open();
    const a = await client("dev-a", fleet.certify("dev-a", { toMs: time.nowMs + HOUR_MS }));
    const b = await client("dev-b", fleet.certify("dev-b"));
    clock.advance(limits.accessSweepMs);
    assert.deepEqual([...here.keys()], ["dev-a", "dev-b"]);
    time.nowMs += 2 * HOUR_MS;
    clock.advance(limits.accessSweepMs);
    await gone(a);
    await until("it is gone here", () => !here.has("dev-a"));
    assert.ok(b.connected);
  });

  it("resumes no session: who comes again shows again who it is", async () => {
    const { port } = await open();
    for (const maxVersion of ["TLSv1.2", "TLSv1.3"] as const) {
      const options = { host: "127.0.0.1", port, rejectUnauthorized: false, maxVersion };
      const first = connectTls(options);
      let session: Buffer | undefined;
      first.on("session", (given) => {
        session = given;
      });
      await once(first, "secureConnect");
      session ??= first.getSession();
      first.destroy();
      const second = connectTls({ ...options, ...(session && { session }) });
      await once(second, "secureConnect");
      assert.equal(second.isSessionReused(), false, maxVersion);
      second.destroy();
    }
  });

  it("shows its new certificate in the next handshake, and with it the authorities", async () => {
    const { fleet, port } = await open();
    const serial = async () => {
      const socket = connectTls({ host: "127.0.0.1", port, rejectUnauthorized: false });
      await once(socket, "secureConnect");
      const shown = socket.getPeerCertificate(true);
      socket.destroy();
      const root = shown.issuerCertificate.raw;
      assert.ok(fleet.identity.anchors.some((anchor) => anchor.raw.equals(root)));
      return shown.serialNumber;
    };
    const first = await serial();
    assert.equal(await serial(), first);
    fleet.renewGateway();
    assert.notEqual(await serial(), first);
  });
});

describe("a newcomer", () => {
  const enrol = (fleet: DeviceFleet) => ({ username: "enrol", password: fleet.claim });

  it("may ask to enrol, hears the answer, and hears and says nothing else", async () => {
    const { fleet, client, link, petitions, received, here, refused } = await open();
    const newcomer = await client("dev-a", enrol(fleet));
    const heard: string[] = [];
    newcomer.on("message", (topic) => heard.push(topic));
    const answers = ["enrolled", "refusal"] as const;
    const own = answers.map((kind) => downTopic(SITE, "dev-a", kind));
    const granted = await newcomer.subscribeAsync(own, { qos: 1 });
    assert.deepEqual(
      granted.map(({ qos }) => qos),
      [1, 1],
    );
    for (const filter of [...deviceFilters(SITE, "dev-a"), allTopic(SITE, "published"), "#"]) {
      await assert.rejects(newcomer.subscribeAsync(filter), filter);
    }
    await newcomer.publishAsync(upTopic(SITE, "dev-a", "enrol"), "x", { qos: 1 });
    assert.equal(petitions[0]?.petitioner.device, "dev-a");
    assert.equal(petitions[0]?.petitioner.claim, fleet.claim);
    petitions[0]?.petitioner.send("enrolled", encodeEnvelope({}));
    await until("it hears", () => heard.length === 1);
    link.broadcast("published", encodeEnvelope({}));
    link.send("dev-a", "closed", encodeEnvelope({}));
    newcomer.publish(hello("dev-a"), "x", { qos: 1 });
    await gone(newcomer);
    assert.deepEqual(heard, [own[0]]);
    assert.deepEqual([received, [...here.keys()]], [[], []]);
    assert.equal(refused.at(-1), "publish dev-a ");
  });

  it("takes no device's place, and none of what is for it", async () => {
    const { fleet, client, here, link } = await open();
    const device = await client("dev-a", fleet.certify("dev-a"));
    const heard: string[] = [];
    device.on("message", (topic) => heard.push(topic));
    await device.subscribeAsync([...deviceFilters(SITE, "dev-a")]);
    const newcomer = await client("dev-a", enrol(fleet));
    newcomer.on("message", () => heard.push("the newcomer's"));
    await newcomer.subscribeAsync(downTopic(SITE, "dev-a", "refusal"));
    link.send("dev-a", "refusal", encodeEnvelope({}));
    await until("the device hears", () => heard.length > 0);
    await newcomer.endAsync();
    assert.ok(device.connected && here.has("dev-a"));
    assert.deepEqual(heard, [downTopic(SITE, "dev-a", "refusal")]);
  });

  it("with no claim of this fleet is refused", async () => {
    const { client } = await open();
    for (const password of ["x", createDeviceFleet().claim])
      await assert.rejects(client("dev-a", { username: "enrol", password }), /Not authorized/);
  });

  it("stays a minute, and more of one address than may be are told to come later", async () => {
    const { fleet, client, clock, refused } = await open();
    const here: MqttClient[] = [];
    for (let i = 0; i < limits.petitionersOfAddress; i++) {
      // The address's allowance: its time stands still but for this.
      clock.advance(200);
      here.push(await client(`dev-${i}`, enrol(fleet)));
    }
    await assert.rejects(client("dev-x", enrol(fleet)), /Server unavailable/);
    await client("dev-a", fleet.certify("dev-a"));
    clock.advance(limits.petitionerMs);
    for (const newcomer of here) await gone(newcomer);
    assert.equal(
      refused.filter((text) => text.startsWith("petitioners")).length,
      limits.petitionersOfAddress + 1,
    );
    await client("dev-x", enrol(fleet));
  });

  it("may not ask to renew, and a device whose certificate has ended may do that alone", async () => {
    const { fleet, client, petitions, time } = await open();
    const newcomer = await client("dev-a", enrol(fleet));
    newcomer.publish(upTopic(SITE, "dev-a", "renew"), "x", { qos: 1 });
    await gone(newcomer);
    const toMs = time.nowMs - HOUR_MS;
    const ended = fleet.certify("dev-b", { fromMs: toMs - HOUR_MS, toMs });
    const late = await client("dev-b", ended);
    await late.publishAsync(upTopic(SITE, "dev-b", "renew"), "x", { qos: 1 });
    assert.deepEqual(
      petitions.map(({ petitioner: { device, claim }, asks }) => [device, claim, asks]),
      [["dev-b", undefined, "renew"]],
    );
    late.publish(hello("dev-b"), "x", { qos: 1 });
    await gone(late);
  });
});

it("what cannot even be judged is not taken, and ends nothing but itself", async () => {
  const refused: string[] = [];
  const link = await createBroker({
    site: SITE,
    clock: createManualClock(),
    admission: { admit: () => Promise.reject(new Error("odd")), objection: () => undefined },
    handlers: {
      onMessage: () => {},
      onConnected: () => assert.fail("it came in"),
      onDisconnected: () => {},
      onRefused: (device, reason) => refused.push(`${reason} ${device}`),
    },
  });
  closers.push(() => link.close());
  const raw = await openRawMqtt(await link.listen("127.0.0.1", 0));
  closers.push(() => raw.close());
  assert.equal(await raw.connect("dev-a"), 5);
  assert.deepEqual(refused, ["client-id dev-a"]);
});

it("the packet bounds hold in TLS: a publish past its bound closes the connection", async () => {
  const { fleet, client, refused, received } = await open();
  const a = await client("dev-a", fleet.certify("dev-a"));
  const large = Buffer.alloc(wire.mqttPacketBytes + 1);
  a.publish(hello("dev-a"), large, { qos: 0 });
  await gone(a);
  assert.deepEqual(refused, ["packet dev-a "]);
  assert.deepEqual(received, []);
});
