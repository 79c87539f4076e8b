import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { fedAvg, startFrom } from "../floor/expected.js";
import {
  assembled,
  type Floor,
  type FloorCloud,
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

/** One second here stands for a minute: the cut lasts 6 s, the round may take 5 hours, as 300 s. */
const MINUTE_MS = 1_000;
const CUT_MS = 6 * MINUTE_MS;

const near = { device: "near-1", samples: 5 };
const far = { device: "far-1", samples: 40 };

let floor: Floor;
let cloud: FloorCloud;
let proxies: LinkProxy[] = [];

before(async () => {
  floor = await openFloor();
  cloud = await floor.cloud();
  await importModel(cloud.api, "start", layout, initialValues);
});
after(async () => {
  await floor.close();
  for (const proxy of proxies) await proxy.close();
  proxies = [];
});

async function proxyTo(port: number): Promise<LinkProxy> {
  const proxy = await openProxy(port);
  proxies.push(proxy);
  return proxy;
}

/** Two sites, `far` behind a proxy to the cloud, and its device behind another; both train, held. */
async function inMidRound(session: string) {
  const uplink = await proxyTo(cloud.grpcPort);
  const nearGateway = await floor.gateway(`${session}-near`, { upstreamPort: cloud.grpcPort });
  const farGateway = await floor.gateway(`${session}-far`, { upstreamPort: uplink.port });
  const siteLink = await proxyTo(farGateway.mqttPort);
  const nearTrainer = createStepTrainer(near);
  const farTrainer = createStepTrainer(far);
  const nearDevice = await floor.device(near.device, {
    site: nearGateway.name,
    mqttPort: nearGateway.mqttPort,
    trainer: nearTrainer,
  });
  const farDevice = await floor.device(far.device, {
    site: farGateway.name,
    mqttPort: siteLink.port,
    trainer: farTrainer,
  });
  await assembled(cloud.api, { [nearGateway.name]: 1, [farGateway.name]: 1 });
  nearTrainer.hold();
  farTrainer.hold();
  await cloud.api.startSession({
    ...sessionParams,
    name: session,
    rounds: 2,
    devicesMin: 2,
    absentGraceMs: sessionParams.deadlineMs,
  });
  await until("both train", () => farTrainer.asked.length + nearTrainer.asked.length === 2);
  const close = async () => {
    for (const part of [nearDevice, farDevice, nearGateway, farGateway]) await part.close();
  };
  return { uplink, siteLink, nearTrainer, farTrainer, farGateway, farDevice, close };
}

/** Both rounds have both devices, and the models are the flat sums to the bit. */
async function whole(session: string): Promise<void> {
  await finished(cloud.api, session);
  const both = [far.device, near.device];
  assert.deepEqual(await mergedBy(cloud.api, session), [
    [1, both],
    [2, both],
  ]);
  let model = startFrom(initialValues);
  for (const round of [1, 2]) {
    model = fedAvg(model, round, [far, near], bitsOf);
    assert.deepEqual(await weightsOf(cloud.api, `${session}.${round}`), model.values);
  }
}

const elapsed = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test("an uplink cut for 6 minutes in mid-round (at 1:60) costs nothing: the site goes on", async () => {
  const stage = await inMidRound("up");
  const cutMs = performance.now();
  stage.uplink.cut();
  await cloud.event("gateway-detached", { gateway: stage.farGateway.name });
  stage.farTrainer.release();
  stage.nearTrainer.release();
  await stage.farDevice.event("receipt", { round: "up.1" });
  await stage.farGateway.event("round-sealed", { round: "up.1", contributors: 1 });
  await elapsed(CUT_MS - (performance.now() - cutMs));
  assert.equal(cloud.count("model-made", { session: "up" }), 0, "the round waits for the site");
  stage.uplink.restore();
  await whole("up");
  assert.deepEqual(stage.farTrainer.asked, ["up.1", "up.2"], "nobody trained twice for a round");
  await stage.close();
});

test("a device's link cut for 6 minutes in mid-round (at 1:60) costs nothing: it trains on and sends later", async () => {
  const stage = await inMidRound("down");
  const cutMs = performance.now();
  stage.siteLink.cut();
  await stage.farDevice.event("link-down");
  stage.farTrainer.release();
  stage.nearTrainer.release();
  await stage.farDevice.event("trained", { round: "down.1" });
  await elapsed(CUT_MS - (performance.now() - cutMs));
  assert.equal(cloud.count("model-made", { session: "down" }), 0, "the round waits for the device");
  stage.siteLink.restore();
  await whole("down");
  assert.deepEqual(stage.farTrainer.asked, ["down.1", "down.2"]);
  await stage.close();
});
