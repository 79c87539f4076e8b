import { openMqttLink } from "@tributary/device-sdk/link.js";
import { createBroker } from "@tributary/gateway/broker.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { upSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { upTopic } from "@tributary/proto/wire/topics.js";
import { connectAsync } from "mqtt";
import { openProxy } from "../floor/proxy.js";
import { until } from "../floor/until.js";
import { type DeviceLinkStage, deviceLinkContract } from "./device-link.contract.js";
import { simulatedBroker, simulatedLink } from "./device-link.js";
import { createLinksStage } from "./links-stage.js";

const site = "s";

/** The production links: a broker and MQTT clients on this machine, through a proxy. */
async function openReal(): Promise<DeviceLinkStage> {
  const ends: (() => Promise<unknown>)[] = [];
  const proxy = await openProxy(0);
  ends.push(() => proxy.close());
  const clock = systemClock();
  return {
    async gateway(handlers) {
      const link = await createBroker({ site, handlers, clock });
      proxy.target = await link.listen("127.0.0.1", 0);
      ends.push(() => link.close());
      return link;
    },
    device(options) {
      const url = `mqtt://127.0.0.1:${proxy.port}`;
      const link = openMqttLink({ ...options, url, site, clock, random: seededRandom(1) });
      ends.push(() => link.close());
      return link;
    },
    async repeat(device, kind, bytes) {
      const options = { clientId: device, protocolVersion: 4, keepalive: 15 } as const;
      const client = await connectAsync({ ...options, host: "127.0.0.1", port: proxy.port });
      ends.push(() => client.endAsync(true));
      for (const dup of [false, true]) {
        await client.publishAsync(upTopic(site, device, kind), Buffer.from(bytes), { qos: 1, dup });
      }
    },
    cut() {
      proxy.cut();
      proxy.restore();
    },
    freeze: proxy.freeze,
    thaw: proxy.thaw,
    until,
    async close() {
      proxy.thaw();
      for (const end of ends.reverse()) await end();
    },
  };
}

async function openSimulated(): Promise<DeviceLinkStage> {
  const stage = createLinksStage();
  const { network } = stage;
  const random = seededRandom("broker");
  const gateway = stage.machine("g1");
  const devices = new Set<string>();
  let frozen: readonly ("up" | "down")[] = [];
  let repeats = 0;
  const clog = () => {
    for (const name of devices) {
      if (frozen.includes("up")) network.clog(name, "g1");
      if (frozen.includes("down")) network.clog("g1", name);
    }
  };
  const device: DeviceLinkStage["device"] = (options) => {
    const { life, clock } = stage.machine(options.device);
    devices.add(options.device);
    clog();
    const open = simulatedLink(network, life, "g1", { sent() {}, received() {} });
    return open({ ...options, url: "", site, clock, random: seededRandom(1) });
  };
  return {
    async gateway(handlers) {
      // Drawn for each message from a device: below the rate it comes twice.
      const drawn = { ...random, next: () => 1 - repeats };
      const link = await simulatedBroker(
        network,
        gateway.life,
        drawn,
        0.5,
      )({
        ...{ site, handlers },
        clock: gateway.clock,
      });
      await link.listen("", 0);
      return link;
    },
    device,
    async repeat(name, kind, bytes) {
      const envelope = decodeEnvelope(upSchemas[kind], bytes, wire.upHeaderBytes);
      if (!envelope.ok) throw new Error(envelope.message);
      let up = false;
      const link = device({
        device: name,
        hello: () => ({ sdk: "", attributes: {} }),
        onUp() {
          up = true;
        },
        onDown() {},
        onMessage() {},
        onUnreadable() {},
      });
      await stage.until("it is up", () => up);
      repeats = 1;
      // The header was read by the schema of its kind.
      void link.publish(kind, envelope.header as never, envelope.payload).catch(() => {});
    },
    cut() {
      for (const name of devices) network.cut(name, "g1");
    },
    freeze(...ways) {
      frozen = ways.length === 0 ? ["up", "down"] : ways;
      clog();
    },
    thaw() {
      frozen = [];
      for (const name of devices) {
        network.open(name, "g1");
        network.open("g1", name);
      }
    },
    until: stage.until,
    async close() {},
  };
}

deviceLinkContract("MQTT", openReal);
deviceLinkContract("the simulated device link", openSimulated);
