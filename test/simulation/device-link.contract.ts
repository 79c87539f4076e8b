import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { limits as deviceLimits } from "@tributary/device-sdk/limits.js";
import type { DeviceLink, LinkOptions, Message } from "@tributary/device-sdk/link.js";
import type { BrokerOptions, DeviceLink as GatewayLink } from "@tributary/gateway/broker.js";
import { limits as gatewayLimits } from "@tributary/gateway/limits.js";
import { upSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { UpKind } from "@tributary/proto/wire/topics.js";

/** Both sides of a device link, and the way between them. */
export type DeviceLinkStage = {
  /** The gateway's side, which lets devices in. Called once, before any device. */
  gateway(handlers: BrokerOptions["handlers"]): Promise<GatewayLink>;
  device(options: Omit<LinkOptions, "url" | "site" | "clock" | "random">): DeviceLink;
  /** Sends one message from a device as a redelivery does: twice. */
  repeat(device: string, kind: UpKind, bytes: Uint8Array): Promise<void>;
  /** Breaks the connections that stand. */
  cut(): void;
  /** Nothing passes any more, and nobody is told. */
  freeze(...ways: ("up" | "down")[]): void;
  thaw(): void;
  until(what: string, holds: () => boolean): Promise<void>;
  close(): Promise<void>;
};

const welcome = { gateway: "g1", site: "s", incarnation: "i" };
const digest = "0".repeat(64);
const digits = (text: string) => Number(/\d+$/.exec(text)?.[0]);
const closedRound = (n: number) => encodeEnvelope({ round: `s.${n}` });
const part = (bytes: number) =>
  encodeEnvelope({ model: "m.1", digest, offset: 0 }, new Uint8Array(bytes));
const decline = (n: number) => ({ round: `s.${n}`, code: "not-eligible", message: "" }) as const;

async function openGateway(stage: DeviceLinkStage) {
  const received: { device: string; kind: UpKind | undefined; bytes: Uint8Array }[] = [];
  const changes: string[] = [];
  const refused: string[] = [];
  const link = await stage.gateway({
    onMessage(device, kind, bytes) {
      received.push({ device, kind, bytes: bytes.slice() });
      if (kind === "hello") link.send(device, "welcome", encodeEnvelope(welcome));
    },
    onConnected: (device) => changes.push(`+${device}`),
    onDisconnected: (device) => changes.push(`-${device}`),
    onRefused: (_, reason) => refused.push(reason),
  });
  const of = (kind: UpKind) => received.filter((message) => message.kind === kind);
  return { link, received, changes, refused, of };
}

function openDevice(stage: DeviceLinkStage, name: string) {
  const ups: string[] = [];
  const downs: number[] = [];
  const messages: Message[] = [];
  const unreadable: string[] = [];
  const link = stage.device({
    device: name,
    hello: () => ({ sdk: `sdk of ${name}`, attributes: { line: 4 } }),
    onUp: ({ gateway }) => ups.push(gateway),
    onDown: (_, retryMs) => downs.push(retryMs),
    onMessage: (message) => messages.push(message),
    onUnreadable: (kind, code) => unreadable.push(`${kind} ${code}`),
  });
  return { link, ups, downs, messages, unreadable };
}

/** What every device link must do; `open` gives one with nobody on it. */
export function deviceLinkContract(name: string, open: () => Promise<DeviceLinkStage>): void {
  const check = (what: string, run: (stage: DeviceLinkStage) => Promise<void>): void => {
    void it(what, async () => {
      const stage = await open();
      try {
        await run(stage);
      } finally {
        await stage.close();
      }
    });
  };
  const joined = async (stage: DeviceLinkStage) => {
    const gateway = await openGateway(stage);
    const device = openDevice(stage, "dev-a");
    await stage.until("the device is welcome", () => device.ups.length === 1);
    return { gateway, device };
  };

  describe(`${name}: a connection`, () => {
    check("begins with hello, under the device's own id, and is up with welcome", async (stage) => {
      const { gateway, device } = await joined(stage);
      assert.deepEqual(gateway.changes, ["+dev-a"]);
      const [first] = gateway.received;
      assert.deepEqual([first?.device, first?.kind], ["dev-a", "hello"]);
      const hello = decodeEnvelope(upSchemas.hello, first?.bytes ?? closedRound(0), 1_000);
      assert.ok(hello.ok);
      assert.deepEqual(hello.header, { sdk: "sdk of dev-a", attributes: { line: 4 } });
      gateway.link.send("dev-a", "welcome", encodeEnvelope(welcome));
      gateway.link.send("dev-a", "closed", closedRound(1));
      await stage.until("a message comes", () => device.messages.length === 1);
      assert.deepEqual(device.ups, ["g1"], "a second welcome is no second beginning");
    });

    check("is tried again until somebody is there; nothing is sent meanwhile", async (stage) => {
      const gateway = await openGateway(stage);
      stage.freeze();
      const device = openDevice(stage, "dev-a");
      await assert.rejects(device.link.publish("decline", decline(1)), /not connected/);
      await stage.until("an attempt is given up", () => device.downs.length > 0);
      stage.thaw();
      await stage.until("the device is welcome", () => device.ups.length === 1);
      assert.equal(gateway.of("decline").length, 0);
      assert.ok(device.downs.every((ms) => ms >= 0 && ms <= deviceLimits.backoffCapMs));
    });

    check(
      "that breaks is told to both, fails what was under way, and comes back",
      async (stage) => {
        const { gateway, device } = await joined(stage);
        stage.freeze();
        const lost = assert.rejects(device.link.publish("decline", decline(1)));
        stage.cut();
        await stage.until("the device knows", () => device.downs.length === 1);
        await lost;
        stage.thaw();
        await stage.until("it is back", () => device.ups.length === 2);
        await stage.until("the gateway has seen it", () => gateway.changes.length >= 3);
        assert.deepEqual(gateway.changes, ["+dev-a", "-dev-a", "+dev-a"]);
        assert.equal(gateway.of("hello").length, 2);
        device.link.publish("decline", decline(2)).catch(() => {});
        await stage.until("another comes", () => gateway.of("decline").length > 0);
        const [first] = gateway.of("decline");
        const read = decodeEnvelope(upSchemas.decline, first?.bytes ?? closedRound(0), 1_000);
        assert.ok(read.ok);
        assert.equal(read.header.round, "s.2", "what was lost is not sent again by the link");
      },
    );

    check("that falls silent is given up by both", async (stage) => {
      const { gateway, device } = await joined(stage);
      stage.freeze();
      await stage.until("the gateway gives up", () => gateway.changes.includes("-dev-a"));
      await stage.until("the device gives up", () => device.downs.length > 0);
      stage.thaw();
      await stage.until("it is back", () => device.ups.length === 2);
    });

    check("of the same device again takes the place of the older one", async (stage) => {
      const { gateway, device } = await joined(stage);
      const newer = openDevice(stage, "dev-a");
      await stage.until("the newer is up", () => newer.ups.length === 1);
      await stage.until("the older knows", () => device.downs.length === 1);
      assert.deepEqual(gateway.changes.slice(0, 3), ["+dev-a", "-dev-a", "+dev-a"]);
      await device.link.close();
    });

    check("ends with the device's close, and tells the device nothing", async (stage) => {
      const { gateway, device } = await joined(stage);
      const closing = device.link.close();
      await stage.until("the gateway knows", () => gateway.changes.includes("-dev-a"));
      await closing;
      assert.deepEqual(device.downs, []);
      let sent = 0;
      gateway.link.send("dev-a", "closed", closedRound(1), () => sent++);
      assert.equal(sent, 1, "what is for nobody is done with at once");
    });

    check("ends with the gateway's close, which the device is told", async (stage) => {
      const { gateway, device } = await joined(stage);
      await gateway.link.close();
      await stage.until("the device knows", () => device.downs.length > 0);
    });
  });

  describe(`${name}: messages`, () => {
    check("arrive whole and in order, upwards with an answer to each", async (stage) => {
      const { gateway, device } = await joined(stage);
      let acknowledged = 0;
      for (let n = 1; n <= 40; n++) {
        const payload = Uint8Array.of(n, 0, 255);
        void device.link
          .publish("chunk", { round: `s.${n}`, offset: n }, payload)
          .then(() => acknowledged++);
      }
      await stage.until("all are answered", () => acknowledged === 40);
      const read = gateway.of("chunk").map(({ bytes }) => {
        const envelope = decodeEnvelope(upSchemas.chunk, bytes, wire.upHeaderBytes);
        assert.ok(envelope.ok);
        return [digits(envelope.header.round), envelope.header.offset, [...envelope.payload]];
      });
      assert.deepEqual(
        read,
        Array.from({ length: 40 }, (_, i) => [i + 1, i + 1, [i + 1, 0, 255]]),
      );
    });

    check("arrive in order downwards, to one device or to all", async (stage) => {
      const { gateway, device } = await joined(stage);
      const other = openDevice(stage, "dev-b");
      await stage.until("both are welcome", () => other.ups.length === 1);
      let sent = 0;
      for (let n = 1; n <= 40; n++)
        gateway.link.send("dev-a", "closed", closedRound(n), () => sent++);
      await stage.until("all arrive", () => device.messages.length === 40);
      assert.equal(sent, 40);
      assert.deepEqual(
        device.messages.map((m) => m.kind === "closed" && digits(m.header.round)),
        Array.from({ length: 40 }, (_, i) => i + 1),
      );
      assert.equal(other.messages.length, 0);
      // Neither is a manifest: each must show what it is, all the same.
      gateway.link.broadcast("published", closedRound(1));
      gateway.link.sendAll("dev-b", "published", closedRound(1));
      await stage.until("all came", () => device.unreadable.length + other.unreadable.length === 3);
      assert.deepEqual([device.unreadable.length, other.unreadable.length], [1, 2]);
    });

    check("may come twice, as a redelivery does: the gateway gets both", async (stage) => {
      const gateway = await openGateway(stage);
      await stage.repeat("dev-a", "decline", encodeEnvelope(decline(1)));
      await stage.until("both came", () => gateway.of("decline").length === 2);
      const [first, second] = gateway.of("decline");
      assert.deepEqual(first, second);
    });

    check("are refused at the sender once too many are unanswered", async (stage) => {
      const { device } = await joined(stage);
      let first = false;
      void device.link.publish("decline", decline(0)).then(() => {
        first = true;
      });
      await stage.until("hello and this are answered", () => first);
      stage.freeze();
      const most = deviceLimits.unacknowledged;
      const all = Array.from({ length: most + 1 }, (_, n) =>
        device.link.publish("decline", decline(n)).then(
          () => "answered",
          (error: Error) => error.message,
        ),
      );
      assert.match((await all.at(-1)) ?? "", /too much/);
      stage.thaw();
      const answers = Promise.all(all.slice(0, most));
      let answered: string[] = [];
      void answers.then((them) => {
        answered = them;
      });
      await stage.until("the rest is answered", () => answered.length === most);
      assert.ok(answered.every((answer) => answer === "answered"));
    });

    check("wait for a device that does not read", async (stage) => {
      const { gateway, device } = await joined(stage);
      stage.freeze("down");
      let sent = 0;
      for (let n = 0; n < 80; n++)
        gateway.link.send("dev-a", "part", part(wire.chunkBytes), () => sent++);
      device.link.publish("decline", decline(1)).catch(() => {});
      await stage.until("time has passed", () => gateway.of("decline").length === 1);
      assert.ok(sent < 80, `${sent} of 80 are said to be taken`);
      stage.thaw();
      await stage.until("all are taken", () => sent === 80);
      await stage.until("all arrive", () => device.messages.length === 80);
    });

    check("past their bound end the connection upwards, and are named downwards", async (stage) => {
      const { gateway, device } = await joined(stage);
      gateway.link.send("dev-a", "part", part(wire.chunkBytes + 1));
      gateway.link.send("dev-a", "part", part(wire.chunkBytes));
      await stage.until("the second comes", () => device.messages.length === 1);
      assert.deepEqual(device.unreadable, ["part too-large"]);

      const most = new Uint8Array(wire.chunkBytes);
      let taken = false;
      void device.link.publish("chunk", { round: "s.1", offset: 0 }, most).then(() => {
        taken = true;
      });
      await stage.until("a chunk passes", () => taken);
      const large = new Uint8Array(wire.mqttPacketBytes);
      const lost = assert.rejects(device.link.publish("chunk", { round: "s.1", offset: 0 }, large));
      await stage.until("the connection ends", () => device.downs.length === 1);
      await lost;
      assert.equal(gateway.of("chunk").length, 1);
      assert.equal(gateway.refused.length, 1);
      await stage.until("it is back", () => device.ups.length === 2);
    });

    check("refused time and again have the device cut off for a while", async (stage) => {
      const { gateway, device } = await joined(stage);
      const other = openDevice(stage, "dev-b");
      await stage.until("both are welcome", () => other.ups.length === 1);
      const refusal = encodeEnvelope({ about: "begin", code: "busy", message: "", round: "s.1" });
      const { burst, perSecond } = gatewayLimits.allowance.refusals;
      let refusals = 0;
      for (; refusals < burst / 2; refusals++) gateway.link.send("dev-a", "refusal", refusal);
      await stage.until("they arrive", () => device.messages.length === refusals);
      assert.deepEqual(device.downs, [], "what happens to an honest device is not too much");
      // More than the whole, whatever has come back to it meanwhile.
      const startedMs = performance.now();
      const came = () => ((performance.now() - startedMs) / 1_000) * perSecond;
      for (let more = 0; more < burst + came() + 1; more++)
        gateway.link.send("dev-a", "refusal", refusal);
      await stage.until("the device is cut off", () => device.downs.length > 0);
      assert.deepEqual(gateway.refused[0], "refusals");
      await stage.until("it is let in again", () => device.ups.length === 2);
      assert.ok(gateway.refused.slice(1).every((reason) => reason === "allowance"));
      assert.deepEqual(other.downs, [], "nobody else is concerned");
    });

    check("that are none are named, and nothing else happens", async (stage) => {
      const { gateway, device } = await joined(stage);
      gateway.link.send("dev-a", "offer", Uint8Array.of(1, 2, 3));
      gateway.link.send("dev-a", "closed", encodeEnvelope({ round: "no round" }));
      gateway.link.send("dev-a", "closed", closedRound(7));
      await stage.until("the good one comes", () => device.messages.length === 1);
      assert.deepEqual(
        device.unreadable.map((text) => text.split(" ")[0]),
        ["offer", "closed"],
      );
      assert.deepEqual(device.downs, []);
    });
  });
}
