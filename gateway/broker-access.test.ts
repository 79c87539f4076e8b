import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { limits } from "./limits.js";
import { closeBrokers, closed, openBroker, root, some, up } from "./testing/raw-broker.js";
import { connectPacket, packetTypes, publishPacket, subscribePacket } from "./testing/raw-mqtt.js";
import { until } from "./testing/wait.js";
import { createTopicAccess } from "./topic-access.js";

afterEach(closeBrokers);

describe("before a CONNECT is accepted", () => {
  it("a first packet that is none closes the connection, without an answer", async () => {
    const { raw, refused, received } = await openBroker();
    const others = [
      publishPacket(up("dev-a"), some),
      subscribePacket(1, ["#"]),
      Uint8Array.of(0xc0, 0),
      Buffer.from("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"),
    ];
    for (const bytes of others) {
      const stranger = await raw();
      stranger.send(bytes);
      await closed(stranger);
      assert.deepEqual(stranger.received, []);
    }
    assert.deepEqual(
      refused,
      others.map(() => "packet"),
    );
    assert.deepEqual(received, []);
  });

  it("nothing behind it is read; once it is, all that came is", async () => {
    const { raw, received } = await openBroker();
    const stranger = await raw();
    // Together more than the packets that the library would keep for a client to be.
    const eager = Array.from({ length: 200 }, (_, i) =>
      publishPacket(up("dev-a"), Buffer.alloc(i)),
    );
    stranger.send(connectPacket("dev-a"), ...eager);
    await until("all are taken", () => received.length === 200);
    assert.deepEqual(
      received.map(({ bytes }) => bytes),
      eager.map((_, i) => i),
    );
    assert.ok(!stranger.closed);
  });

  it("what follows one that is refused is never looked at", async () => {
    const { raw, refused } = await openBroker();
    const stranger = await raw();
    const large = publishPacket(up("dev-a"), Buffer.alloc(wire.mqttPacketBytes));
    stranger.send(connectPacket("no/id"), large);
    await closed(stranger);
    assert.deepEqual(refused, ["client-id no/id"]);
  });

  it("names that objects inherit are refused", async () => {
    const { raw, received } = await openBroker();
    for (const name of ["__proto__", "constructor", "toString", "hasOwnProperty", "prototype"]) {
      const stranger = await raw();
      assert.equal(await stranger.connect(name), 2, name);
      await closed(stranger);
    }
    assert.deepEqual(received, []);
  });

  it("a will is refused, and never published", async () => {
    const { raw, device } = await openBroker();
    const other = await device("dev-b");
    await other.subscribe([`${root}/all/+`, `${root}/down/dev-b/+`]);
    for (const topic of [`${root}/all/published`, `${root}/down/dev-b/offer`, up("dev-a")]) {
      for (const retain of [false, true]) {
        const stranger = await raw();
        assert.equal(await stranger.connect("dev-a", { topic, retain }), 5);
        await closed(stranger);
      }
    }
    assert.deepEqual(await other.subscribe([`${root}/all/published`]), [0], "nothing is retained");
    assert.equal(other.count(packetTypes.publish), 0);
  });
});

describe("what a device may do with topics", () => {
  it("ends its connection with a publish elsewhere, and none of it arrives", async () => {
    const { raw, device, received, refused, link } = await openBroker();
    const other = await device("dev-b");
    await other.subscribe([`${root}/all/+`, `${root}/down/dev-b/+`]);
    const topics = [
      up("dev-b"),
      `${root}/all/published`,
      `${root}/down/dev-b/offer`,
      "$SYS/broker/clients",
      "$share/g/tributary/v1/plant/all",
      "/tributary/v1/plant/up/dev-a",
      `${root}/up`,
    ];
    for (const topic of topics) {
      const stranger = await raw();
      await stranger.connect("dev-a");
      stranger.send(publishPacket(topic, some));
      await closed(stranger);
    }
    assert.deepEqual(received, []);
    assert.deepEqual(
      refused,
      topics.map(() => "publish dev-a"),
    );
    link.send("dev-b", "closed", some);
    await until("its own arrives", () => other.count(packetTypes.publish) === 1);
  });

  it("ends it with a retained publish, and nothing is retained", async () => {
    const { raw, device, refused } = await openBroker();
    for (const topic of [up("dev-a"), `${root}/all/published`]) {
      const stranger = await raw();
      await stranger.connect("dev-a");
      stranger.send(publishPacket(topic, some, { retain: true }));
      await closed(stranger);
    }
    assert.deepEqual(refused, ["retain dev-a", "publish dev-a"]);
    const late = await device("dev-b");
    await late.subscribe([`${root}/all/+`, `${root}/all/published`]);
    const other = await device("dev-a");
    await other.subscribe([`${root}/all/+`]);
    assert.equal(late.count(packetTypes.publish) + other.count(packetTypes.publish), 0);
  });

  it("leaves it without any filter but its own, whatever the wildcard", async () => {
    const { device, link, refused, served } = await openBroker();
    const curious = await device("dev-a");
    const other = await device("dev-b");
    await other.subscribe([`${root}/down/dev-b/+`, `${root}/all/+`]);
    const filters = [
      "#",
      "+",
      "+/#",
      "+/+/+/+/+/+",
      "$SYS/#",
      "$SYS/+/new/clients",
      "$share/g/#",
      "$share/g/tributary/#",
      "$share/g/+/+/+/all",
      `${root}/#`,
      `${root}/down/#`,
      `${root}/down/+/+`,
      `${root}/down/dev-a/#`,
      `${root}/down/dev-b/closed`,
      `${root}/+/dev-b/+`,
      `${root}/up/+/+`,
      `${root}/up/dev-a/+`,
      "tributary/v1/+/all/+",
      "tributary/+/plant/all/+",
    ];
    const codes = await curious.subscribe(filters);
    assert.deepEqual(
      codes,
      filters.map(() => 0x80),
    );
    assert.equal(refused.length, filters.length);
    link.send("dev-b", "closed", some);
    link.broadcast("published", some);
    await served(other, "dev-b");
    assert.equal(other.count(packetTypes.publish), 2);
    assert.equal(curious.count(packetTypes.publish), 0);
  });

  it("is checked again when a message is forwarded: a filter too wide brings nothing", async () => {
    const { device, link, served } = await openBroker({
      access: { ...createTopicAccess("plant"), maySubscribe: () => true, mayPublish: () => true },
    });
    const curious = await device("dev-a");
    const filters = ["#", "$SYS/#", `${root}/down/+/+`, `${root}/up/+/+`];
    assert.deepEqual(await curious.subscribe(filters), [0, 0, 0, 0]);
    const other = await device("dev-b");
    await served(other, "dev-b");
    assert.equal(curious.count(packetTypes.publish), 0, "neither what is said nor who comes");
    link.send("dev-a", "closed", some);
    await until("its own does", () => curious.count(packetTypes.publish) > 0);
    link.broadcast("published", some);
    await until("and the site's", () => curious.count(packetTypes.publish) > 1);
  });

  it("ends its connection at a topic or a filter deeper than the protocol's", async () => {
    const { device, received, refused } = await openBroker();
    const deep = Array.from({ length: limits.topicLevels + 1 }, () => "a").join("/");
    const deepest = "/".repeat(4_000);
    const topics = [deep, deepest, `$share/g/${root}/all/x`, `${up("dev-a")}/deeper`];
    for (const topic of topics) {
      const first = await device("dev-a");
      first.send(publishPacket(topic, some));
      await closed(first);
      const second = await device("dev-a");
      second.send(subscribePacket(1, [topic]));
      await closed(second);
      assert.equal(second.count(packetTypes.suback), 0);
    }
    assert.deepEqual(received, []);
    assert.deepEqual(
      refused,
      [...topics, ...topics].map(() => "protocol dev-a"),
    );
  });
});

describe("what is no MQTT", () => {
  it("ends the connection, and is counted", async () => {
    const { device, refused } = await openBroker();
    const reserved = await device("dev-a");
    reserved.send(Uint8Array.of(0xf0, 0));
    await closed(reserved);
    const twice = await device("dev-b");
    twice.send(connectPacket("dev-b"));
    await closed(twice);
    const flags = await device("dev-c");
    flags.send(Uint8Array.of(0x80, 2, 0, 1));
    await closed(flags);
    assert.deepEqual(refused, ["protocol dev-a", "protocol dev-b", "protocol dev-c"]);
  });
});
