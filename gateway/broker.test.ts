import assert from "node:assert/strict";
import { once } from "node:events";
import { createConnection, type Socket } from "node:net";
import { afterEach, describe, it } from "node:test";
import { systemClock } from "@tributary/proto/host/clock.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { connect, connectAsync, type IClientOptions, type MqttClient } from "mqtt";
import { createBroker, type DeviceLink } from "./broker.js";
import { limits } from "./limits.js";
import { until } from "./testing/wait.js";

const open: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

type Received = { device: string; kind: string | undefined; bytes: Uint8Array };

async function broker() {
  const received: Received[] = [];
  const refused: string[] = [];
  const here = new Set<string>();
  const changes: string[] = [];
  const link: DeviceLink = await createBroker({
    site: "plant",
    clock: systemClock(),
    handlers: {
      onMessage(device, kind, bytes) {
        received.push({ device, kind, bytes: Uint8Array.from(bytes) });
      },
      onConnected(device) {
        here.add(device);
        changes.push(`+${device}`);
      },
      onDisconnected(device) {
        here.delete(device);
        changes.push(`-${device}`);
      },
      onRefused: (_, reason) => refused.push(reason),
    },
  });
  const port = await link.listen("127.0.0.1", 0);
  open.push(() => link.close());
  return { link, port, received, refused, here, changes };
}

async function client(port: number, clientId: string, options: IClientOptions = {}) {
  const connected = await connectAsync({
    host: "127.0.0.1",
    port,
    protocolVersion: 4,
    clientId,
    keepalive: 15,
    reconnectPeriod: 0,
    ...options,
  });
  connected.on("error", () => {});
  open.push(() => connected.endAsync(true));
  return connected;
}

const closed = (c: MqttClient) => until("the connection closes", () => !c.connected);

async function socket(port: number): Promise<Socket> {
  const raw = createConnection(port, "127.0.0.1");
  raw.on("error", () => {});
  open.push(() => raw.destroy());
  await once(raw, "connect");
  return raw;
}

describe("connecting", () => {
  it("needs a device id as the client id", async () => {
    const { port, refused } = await broker();
    for (const id of ["dev a", "../x", "a".repeat(65), "aedes/1", "$SYS"]) {
      await assert.rejects(client(port, id), /Identifier rejected/);
    }
    await assert.rejects(client(port, "", { clean: true }), /Identifier rejected/);
    assert.equal(refused.length, 6);
    await client(port, "a".repeat(64));
  });

  it("refuses wills", async () => {
    const { port } = await broker();
    const will = { topic: "tributary/v1/plant/up/dev-b/begin", payload: Buffer.from("x") };
    await assert.rejects(client(port, "dev-a", { will }), /Not authorized/);
  });

  it("needs a keepalive, so that a death is noticed", async () => {
    const { port } = await broker();
    await assert.rejects(client(port, "dev-a", { keepalive: 0 }), /Not authorized/);
    const most = limits.keepaliveSecondsMax;
    await assert.rejects(client(port, "dev-a", { keepalive: most + 1 }), /Not authorized/);
  });

  it("keeps no session, even for a device that asks for one", async () => {
    const { port } = await broker();
    const present: unknown[] = [];
    for (let i = 0; i < 2; i++) {
      const c = connect({
        host: "127.0.0.1",
        port,
        protocolVersion: 4,
        clientId: "dev-a",
        clean: false,
        reconnectPeriod: 0,
      });
      open.push(() => c.endAsync(true));
      await new Promise<void>((resolve) => {
        c.once("connect", ({ sessionPresent }) => {
          present.push(sessionPresent);
          resolve();
        });
      });
      await c.subscribeAsync("tributary/v1/plant/all/+", { qos: 1 });
      await c.endAsync(true);
    }
    assert.deepEqual(present, [false, false]);
  });

  it("of the same device again closes the older connection and leaves it connected", async () => {
    const { port, here, changes, link } = await broker();
    const older = await client(port, "dev-a");
    const newer = await client(port, "dev-a");
    await closed(older);
    assert.equal(newer.connected, true);
    const third = await client(port, "dev-a");
    await closed(newer);
    await until("the changes arrive", () => changes.length === 5);
    assert.deepEqual(changes, ["+dev-a", "-dev-a", "+dev-a", "-dev-a", "+dev-a"]);
    assert.ok(here.has("dev-a"));
    const got: string[] = [];
    third.on("message", (topic) => got.push(topic));
    link.send("dev-a", "welcome", new Uint8Array(1));
    await until("the newest is spoken to", () => got.length === 1);
    await third.endAsync(true);
    await until("it is gone", () => !here.has("dev-a"));
  });
});

describe("many connections of one device at once", () => {
  it("leave one, which is spoken to, and whose end is noticed", async () => {
    const { port, link, here } = await broker();
    const rivals = await Promise.all(
      Array.from({ length: 6 }, () => client(port, "dev-a").catch(() => undefined)),
    );
    const alive = () => rivals.filter((c) => c?.connected);
    await until("one is left", () => alive().length === 1);
    const [winner] = alive();
    let got = 0;
    winner?.on("message", () => got++);
    link.send("dev-a", "welcome", new Uint8Array(1));
    await until("it is spoken to", () => got === 1);
    await winner?.endAsync(true);
    await until("it is gone", () => !here.has("dev-a"));
  });
});

describe("packets past their bound", () => {
  it("close the connection before a CONNECT is read", async () => {
    const { port, refused } = await broker();
    const raw = await socket(port);
    // 256 MB announced.
    raw.write(Uint8Array.from([0x10, 0xff, 0xff, 0xff, 0x7f]));
    await once(raw, "close");
    assert.deepEqual(refused, ["packet"]);
  });

  it("close the connection after it, too", async () => {
    const { port, received } = await broker();
    const c = await client(port, "dev-a");
    const topic = "tributary/v1/plant/up/dev-a/chunk";
    const overhead = 2 + topic.length + 2 + 4;
    await c.publishAsync(topic, Buffer.alloc(wire.mqttPacketBytes - overhead), { qos: 1 });
    assert.equal(received.length, 1);
    c.publish(topic, Buffer.alloc(wire.mqttPacketBytes - overhead + 1), { qos: 1 });
    await closed(c);
    assert.equal(received.length, 1);
  });

  it("are small for anything but PUBLISH", async () => {
    const { port } = await broker();
    const c = await client(port, "dev-a");
    const filters = Array.from({ length: 100 }, (_, i) => `tributary/v1/plant/all/${i}x`.repeat(3));
    c.subscribe(filters);
    await closed(c);
  });
});

describe("publishing", () => {
  it("goes to own topics of the own site only", async () => {
    const { port, received } = await broker();
    const topics = [
      "tributary/v1/plant/up/dev-b/begin",
      "tributary/v1/other/up/dev-a/begin",
      "tributary/v1/plant/down/dev-a/offer",
      "tributary/v1/plant/all/published",
      "tributary/v1/plant/up/dev-a/begin/more",
      "$SYS/broker/heartbeat",
      "anything",
    ];
    for (const topic of topics) {
      const c = await client(port, "dev-a");
      c.publish(topic, "x", { qos: 1 });
      await closed(c);
    }
    assert.equal(received.length, 0);
  });

  it("takes no retained message and no QoS 2", async () => {
    const { port, received } = await broker();
    for (const options of [{ retain: true }, { qos: 2 as const }]) {
      const c = await client(port, "dev-a");
      c.publish("tributary/v1/plant/up/dev-a/hello", "x", options);
      await closed(c);
    }
    assert.equal(received.length, 0);
  });

  it("hands messages on in order, with an unknown kind as such", async () => {
    const { port, received } = await broker();
    const c = await client(port, "dev-a");
    for (const kind of ["hello", "gossip", "begin"]) {
      c.publish(`tributary/v1/plant/up/dev-a/${kind}`, kind, { qos: 1 });
    }
    await until("all arrive", () => received.length === 3);
    assert.deepEqual(
      received.map(({ device, kind, bytes }) => [device, kind, Buffer.from(bytes).toString()]),
      [
        ["dev-a", "hello", "hello"],
        ["dev-a", undefined, "gossip"],
        ["dev-a", "begin", "begin"],
      ],
    );
  });
});

describe("subscribing", () => {
  it("is granted for the device's own two filters and refused for any other", async () => {
    const { port } = await broker();
    const c = await client(port, "dev-a");
    const granted = async (filter: string) => {
      const grants = await c.subscribeAsync(filter, { qos: 1 }).catch(() => undefined);
      return grants?.[0]?.qos === 1;
    };
    assert.ok(await granted("tributary/v1/plant/down/dev-a/+"));
    assert.ok(await granted("tributary/v1/plant/all/+"));
    assert.ok(await granted("tributary/v1/plant/down/dev-a/offer"));
    const refused = [
      "#",
      "+/+/+/+/+/+",
      "$SYS/#",
      "tributary/v1/plant/down/dev-b/+",
      "tributary/v1/plant/down/+/+",
      "tributary/v1/plant/up/dev-a/+",
      "tributary/v1/plant/up/dev-b/begin",
      "tributary/v1/other/all/+",
    ];
    for (const filter of refused) assert.ok(!(await granted(filter)), filter);
  });

  it("brings broadcasts, and no other device's messages", async () => {
    const { port, link } = await broker();
    const got: string[] = [];
    for (const name of ["dev-a", "dev-b"]) {
      const c = await client(port, name);
      c.on("message", (topic) => got.push(`${name} ${topic}`));
      await c.subscribeAsync(["tributary/v1/plant/all/+", `tributary/v1/plant/down/${name}/+`]);
    }
    link.broadcast("published", new Uint8Array(3));
    link.send("dev-a", "receipt", new Uint8Array(3));
    link.sendAll("dev-b", "published", new Uint8Array(3));
    link.send("dev-b", "closed", new Uint8Array(3));
    await until("all arrive", () => got.length === 5);
    assert.deepEqual(got.sort(), [
      "dev-a tributary/v1/plant/all/published",
      "dev-a tributary/v1/plant/down/dev-a/receipt",
      "dev-b tributary/v1/plant/all/published",
      "dev-b tributary/v1/plant/all/published",
      "dev-b tributary/v1/plant/down/dev-b/closed",
    ]);
  });
});

describe("pressure", () => {
  it("tells when a device is gone or has taken the bytes", async () => {
    const { port, link } = await broker();
    let sent = 0;
    link.send("nobody", "part", new Uint8Array(10), () => sent++);
    assert.equal(sent, 1);
    await client(port, "dev-a");
    link.send("dev-a", "part", new Uint8Array(200_000), () => sent++);
    await until("the bytes are taken", () => sent === 2);
  });

  it("stops reading from a device that does not read its answers", async () => {
    const { port, link, received } = await broker();
    const c = await client(port, "dev-a");
    let sent = 0;
    c.stream.pause();
    // More than the kernel's buffers hold, so that it waits in the broker.
    for (let i = 0; i < 80; i++)
      link.send("dev-a", "part", new Uint8Array(256 * 1024), () => sent++);
    await until("the sockets are full", () => sent < 80);
    const topic = "tributary/v1/plant/up/dev-a/decline";
    for (let i = 0; i < 2_000; i++) c.publish(topic, Buffer.alloc(1_000), { qos: 0 });
    // Another device is served all the while: time enough for all of it to have come.
    const other = await client(port, "dev-b");
    for (let i = 0; i < 300; i++) {
      await other.publishAsync("tributary/v1/plant/up/dev-b/decline", "x", { qos: 1 });
    }
    const before = received.filter(({ device }) => device === "dev-a").length;
    assert.ok(before < 2_000, `${before} arrived`);
    c.stream.resume();
    await until("the rest arrives", () => received.length === 2_300);
    await until("all is sent", () => sent === 80);
  });
});
