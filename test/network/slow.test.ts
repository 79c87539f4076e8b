import assert from "node:assert/strict";
import { test } from "node:test";
import { fedAvg, startFrom } from "../floor/expected.js";
import {
  assembled,
  finished,
  importModel,
  mergedBy,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { type LinkProxy, openProxy } from "../floor/proxy.js";
import { sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";

const PARAMETERS = 30_000;
const layout = [{ name: "w", shape: [PARAMETERS] }];
const values = Float32Array.from({ length: PARAMETERS }, (_, i) => Math.sin(i + 1));
const fleet = [
  { device: "press-1", samples: 3 },
  { device: "press-2", samples: 11 },
];

/** Bytes a second of the device link, and of the uplink: some seconds for each transfer. */
const SITE_RATE = 100_000;
const UPLINK_RATE = 80_000;
const DELAY_MS = 150;

test("a round over throttled and delayed links takes longer and is the same to the bit", async () => {
  const floor = await openFloor();
  const proxies: LinkProxy[] = [];
  try {
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, values);
    const uplink = await openProxy(cloud.grpcPort);
    proxies.push(uplink);
    const gateway = await floor.gateway("gw-1", { upstreamPort: uplink.port });
    const siteLink = await openProxy(gateway.mqttPort);
    proxies.push(siteLink);
    uplink.throttle(UPLINK_RATE);
    siteLink.throttle(SITE_RATE);
    for (const link of proxies) link.delay(DELAY_MS);
    const trainers = fleet.map(createStepTrainer);
    for (const [i, { device }] of fleet.entries()) {
      const trainer = trainers[i];
      assert.ok(trainer);
      await floor.device(device, { site: "gw-1", mqttPort: siteLink.port, trainer });
    }
    await assembled(cloud.api, { "gw-1": fleet.length });
    const startedMs = performance.now();
    await cloud.api.startSession({
      ...{ ...sessionParams, grid: { fractionBits: 20, range: 1 } },
      ...{ name: "slow", rounds: 1, devicesMin: fleet.length },
      absentGraceMs: sessionParams.deadlineMs,
    });
    await finished(cloud.api, "slow");
    const sentUp = PARAMETERS * 8;
    const leastMs = (sentUp / UPLINK_RATE) * 1_000;
    assert.ok(performance.now() - startedMs >= leastMs, "the links were not slow");
    const all = fleet.map(({ device }) => device);
    assert.deepEqual(await mergedBy(cloud.api, "slow"), [[1, all]]);
    const model = fedAvg(startFrom(values), 1, fleet, () => 20);
    assert.deepEqual(await weightsOf(cloud.api, "slow.1"), model.values);
    for (const trainer of trainers) assert.deepEqual(trainer.asked, ["slow.1"]);
    assert.equal(gateway.count("uplink-lost"), 0, "a slow link is not taken for a dead one");
  } finally {
    await floor.close();
    for (const link of proxies) await link.close();
  }
});
