import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { firstOf } from "tributary/cli/api.js";
import { runHere } from "tributary/cli/testing/command.js";
import { fedAvg, type ModelBits, startFrom } from "../floor/expected.js";
import {
  assembled,
  type Floor,
  type FloorCloud,
  type FloorDevice,
  type FloorGateway,
  finished,
  importModel,
  mergedBy,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer, type TrainerOptions } from "../floor/trainer.js";
import { until } from "../floor/until.js";

const fleet = [
  { device: "press", samples: 7 },
  { device: "lathe", samples: 30 },
];

let floor: Floor;
let cloud: FloorCloud;
let gateway: FloorGateway;

before(async () => {
  floor = await openFloor();
  cloud = await floor.cloud();
  gateway = await floor.gateway("gw-1", { upstreamPort: cloud.grpcPort });
  await importModel(cloud.api, "start", layout, initialValues);
});
after(() => floor.close());

/** Connects devices for one test; resolves once the cloud knows of them. */
async function connect(members: readonly TrainerOptions[]) {
  const trainers = members.map(createStepTrainer);
  const devices: FloorDevice[] = [];
  for (const [i, { device }] of members.entries()) {
    const trainer = trainers[i];
    assert.ok(trainer);
    const place = { site: "gw-1", mqttPort: gateway.mqttPort, trainer };
    devices.push(await floor.device(device, place));
  }
  await assembled(cloud.api, { "gw-1": members.length });
  return {
    trainers,
    devices,
    async close() {
      for (const device of devices) await device.close();
    },
  };
}

async function assertModel(id: string, expected: ModelBits): Promise<void> {
  assert.deepEqual(await weightsOf(cloud.api, id), expected.values, id);
}

test("a candidate that evaluates worse is held, an event says so, and the session goes on from its parent", async () => {
  const accuracies = new Map([
    ["gated.1", 0.9],
    ["gated.3", 0.2],
    ["gated.5", 0.875],
  ]);
  const accuracyOf = (model: string) => accuracies.get(model) ?? 0;
  const fleetHere = await connect(fleet.map((member) => ({ ...member, accuracyOf })));
  await cloud.api.startSession({
    ...sessionParams,
    name: "gated",
    rounds: 3,
    devicesMin: 2,
    evaluateEvery: 1,
    gate: { metric: "accuracy", direction: "higher", tolerance: 0.05 },
  });
  const { head } = await finished(cloud.api, "gated");
  assert.equal(head, "gated.5");

  const one = fedAvg(startFrom(initialValues), 1, fleet, bitsOf);
  await assertModel("gated.1", one);
  await assertModel("gated.3", fedAvg(one, 3, fleet, bitsOf));
  await assertModel("gated.5", fedAvg(one, 5, fleet, bitsOf));
  for (const { bases } of fleetHere.trainers) {
    assert.deepEqual(bases, ["start.0", "gated.1", "gated.1"]);
  }
  const states = await Promise.all([1, 3, 5].map((n) => cloud.api.model(`gated.${n}`)));
  assert.deepEqual(
    states.map(({ state, parent }) => [state, parent]),
    [
      ["published", "start.0"],
      ["held", "gated.1"],
      ["published", "gated.1"],
    ],
  );
  assert.deepEqual(
    cloud.events.flatMap((event) =>
      event.name === "model-held" ? [[event.level, event.model, event.reason]] : [],
    ),
    [["warn", "gated.3", "worse"]],
  );
  // No device was told of the held model.
  assert.equal(gateway.count("model-published", { model: "gated.1" }), 1);
  assert.equal(gateway.count("model-published", { model: "gated.3" }), 0);
  await until("the devices keep the newest good model", () =>
    fleetHere.devices.every((device) => device.model()?.id === "gated.5"),
  );
  await fleetHere.close();
});

test("`model activate` rolls back by hand: the open round stops, the next one starts from that model", async () => {
  const fleetHere = await connect(fleet);
  const [press] = fleetHere.trainers;
  assert.ok(press);
  press.hold(3);
  await cloud.api.startSession({ ...sessionParams, name: "rolled", rounds: 3, devicesMin: 2 });
  await until("round 3 trains", () => press.asked.length === 3);
  const url = `http://127.0.0.1:${cloud.httpPort}`;
  const activated = await runHere(["model", "activate", "rolled.1", "--url", url]);
  assert.equal(activated.code, 0, activated.stderr);
  assert.match(activated.stdout, /session rolled goes on from rolled\.1/);
  await cloud.event("round-closed", { round: "rolled.3", outcome: "stopped" });
  press.release();
  await finished(cloud.api, "rolled");

  assert.deepEqual(press.asked, ["rolled.1", "rolled.2", "rolled.3", "rolled.4"]);
  assert.deepEqual(press.bases, ["start.0", "rolled.1", "rolled.2", "rolled.1"]);
  const one = fedAvg(startFrom(initialValues), 1, fleet, bitsOf);
  await assertModel("rolled.2", fedAvg(one, 2, fleet, bitsOf));
  await assertModel("rolled.4", fedAvg(one, 4, fleet, bitsOf));
  assert.equal((await cloud.api.model("rolled.4")).parent, "rolled.1");
  const merged = await mergedBy(cloud.api, "rolled");
  assert.deepEqual(
    merged.map(([round]) => round),
    [1, 2, 4],
    "nothing of round 3 is in a model",
  );
  await fleetHere.close();
});

test("weights that are not finite never reach a model", async () => {
  const spoiled = [Number.NaN, Number.POSITIVE_INFINITY];
  const spoil = (weights: Float32Array, round: string) => {
    weights[2] = spoiled[Number(round.endsWith(".2"))] ?? 0;
  };
  const broken = { device: "broken", samples: 500, spoil };
  const fleetHere = await connect([...fleet, broken]);
  await cloud.api.startSession({ ...sessionParams, name: "nan", rounds: 2, devicesMin: 3 });
  await finished(cloud.api, "nan");

  let model = startFrom(initialValues);
  for (const round of [1, 2]) {
    model = fedAvg(model, round, fleet, bitsOf);
    await assertModel(`nan.${round}`, model);
    await fleetHere.devices[2]?.event("train-failed", { round: `nan.${round}` });
    await gateway.event("device-declined", { round: `nan.${round}`, code: "train-failed" });
  }
  const both = ["lathe", "press"];
  assert.deepEqual(
    await mergedBy(cloud.api, "nan"),
    [1, 2].map((round) => [round, both]),
  );
  assert.equal((await firstOf(cloud.api.models({ session: "nan" }))).length, 2);
  await fleetHere.close();
});
