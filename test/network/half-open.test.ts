import assert from "node:assert/strict";
import { test } from "node:test";
import { createBroker } from "@tributary/gateway/broker.js";
import { createUpstream, type Upstream } from "@tributary/gateway/upstream.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import {
  assembled,
  type Floor,
  finished,
  importModel,
  mergedBy,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { type LinkProxy, openProxy } from "../floor/proxy.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

/** What the product promises, and so what is asserted: a link that has gone silent is given up. */
const NOTICED_MS = 15_000;

const member = { device: "press-1", samples: 9 };

async function withFloor(
  run: (floor: Floor, proxyTo: (port: number) => Promise<LinkProxy>) => Promise<void>,
): Promise<void> {
  const floor = await openFloor();
  const proxies: LinkProxy[] = [];
  try {
    await run(floor, async (port) => {
      const proxy = await openProxy(port);
      proxies.push(proxy);
      return proxy;
    });
  } finally {
    await floor.close();
    for (const proxy of proxies) await proxy.close();
  }
}

/** Freezes a link, and measures until each side has given it up, in milliseconds. */
async function noticed(proxy: LinkProxy, sides: readonly (() => Promise<unknown>)[]) {
  const frozenMs = performance.now();
  proxy.freeze();
  return Promise.all(
    sides.map(async (side) => {
      await side();
      return Math.round(performance.now() - frozenMs);
    }),
  );
}

test("a half-open uplink is given up by both sides within 15 s, and comes back", () =>
  withFloor(async (floor, proxyTo) => {
    const cloud = await floor.cloud();
    const proxy = await proxyTo(cloud.grpcPort);
    const gateway = await floor.gateway("gw-1", { upstreamPort: proxy.port });
    await assembled(cloud.api, { "gw-1": 0 });
    const took = await noticed(proxy, [
      () => gateway.event("uplink-lost"),
      () => cloud.event("gateway-detached", { gateway: "gw-1" }),
    ]);
    for (const ms of took) assert.ok(ms <= NOTICED_MS, `noticed after ${took.join(" and ")} ms`);
    proxy.thaw();
    await assembled(cloud.api, { "gw-1": 0 });
  }));

test("a half-open device link is given up by both sides within 15 s, and comes back", () =>
  withFloor(async (floor, proxyTo) => {
    const cloud = await floor.cloud();
    const gateway = await floor.gateway("gw-1", { upstreamPort: cloud.grpcPort });
    const proxy = await proxyTo(gateway.mqttPort);
    const trainer = createStepTrainer(member);
    const place = { site: "gw-1", mqttPort: proxy.port, trainer };
    const device = await floor.device(member.device, place);
    await assembled(cloud.api, { "gw-1": 1 });
    const took = await noticed(proxy, [
      () => device.event("link-down"),
      () => gateway.event("device-disconnected", { device: member.device }),
    ]);
    for (const ms of took) assert.ok(ms <= NOTICED_MS, `noticed after ${took.join(" and ")} ms`);
    proxy.thaw();
    await assembled(cloud.api, { "gw-1": 1 });
  }));

test("a device's receipt that is lost on a half-open link comes again; its update counts once", () =>
  withFloor(async (floor, proxyTo) => {
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, initialValues);
    const proxy = await proxyTo(0);
    let lost = 0;
    const gateway = await floor.gateway("gw-1", {
      upstreamPort: cloud.grpcPort,
      parts: {
        async broker(options) {
          const link = await createBroker(options);
          return {
            ...link,
            send(device, kind, bytes, sent) {
              if (kind === "receipt" && lost++ === 0) proxy.freeze();
              link.send(device, kind, bytes, sent);
            },
          };
        },
      },
    });
    proxy.target = gateway.mqttPort;
    const trainer = createStepTrainer(member);
    const place = { site: "gw-1", mqttPort: proxy.port, trainer };
    const device = await floor.device(member.device, place);
    await assembled(cloud.api, { "gw-1": 1 });
    await cloud.api.startSession({ ...sessionParams, name: "s", rounds: 2, devicesMin: 1 });
    await gateway.event("update-receipted", { round: "s.1", device: member.device });
    await until("the receipt is on the frozen link", () => lost === 1);
    await device.event("link-down");
    assert.equal(device.count("receipt"), 0);
    // A path that dropped its packets does not deliver them later.
    proxy.cut();
    proxy.thaw();
    proxy.restore();
    await gateway.event("update-repeated", { round: "s.1", device: member.device });
    await device.event("receipt", { round: "s.1" });
    await finished(cloud.api, "s");
    assert.deepEqual(trainer.asked, ["s.1", "s.2"]);
    assert.deepEqual(await mergedBy(cloud.api, "s"), [
      [1, [member.device]],
      [2, [member.device]],
    ]);
    const model = fedAvg(startFrom(initialValues), 1, [member], bitsOf);
    assert.deepEqual(await weightsOf(cloud.api, "s.1"), model.values);
  }));

test("a Partial whose receipt is lost on a half-open uplink is receipted again; it counts once", () =>
  withFloor(async (floor, proxyTo) => {
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, initialValues);
    const proxy = await proxyTo(cloud.grpcPort);
    const real = createUpstream(`127.0.0.1:${proxy.port}`, systemClock());
    let transfers = 0;
    const upstream: Upstream = {
      ...real,
      sendPartial(...args) {
        // What goes up arrives; what comes down, the receipt with it, does not.
        if (transfers++ === 0) proxy.freeze("down");
        return real.sendPartial(...args);
      },
    };
    const gateway = await floor.gateway("gw-1", { upstreamPort: proxy.port, parts: { upstream } });
    const trainer = createStepTrainer(member);
    const place = { site: "gw-1", mqttPort: gateway.mqttPort, trainer };
    await floor.device(member.device, place);
    await assembled(cloud.api, { "gw-1": 1 });
    await cloud.api.startSession({ ...sessionParams, name: "s", rounds: 2, devicesMin: 1 });
    await cloud.event("partial-accepted", { round: "s.1" });
    await gateway.event("uplink-lost");
    assert.equal(gateway.count("partial-delivered"), 0);
    proxy.cut();
    proxy.thaw();
    proxy.restore();
    await gateway.event("partial-delivered", { round: "s.1", outcome: "merged" });
    await finished(cloud.api, "s");
    assert.equal(transfers, 2, "one transfer for each round");
    assert.deepEqual(await mergedBy(cloud.api, "s"), [
      [1, [member.device]],
      [2, [member.device]],
    ]);
    const model = fedAvg(startFrom(initialValues), 1, [member], bitsOf);
    assert.deepEqual(await weightsOf(cloud.api, "s.1"), model.values);
  }));
