import assert from "node:assert/strict";
import { test } from "node:test";
import { firstOf } from "tributary/cli/api.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import {
  assembled,
  type Floor,
  type FloorCloud,
  finished,
  importModel,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";

const ROUNDS = 4;
const fleet = [
  { device: "press-1", gateway: "gw-1", samples: 3 },
  { device: "press-2", gateway: "gw-1", samples: 120 },
  { device: "lathe-1", gateway: "gw-2", samples: 1 },
  { device: "lathe-2", gateway: "gw-2", samples: 999 },
  { device: "mill-1", gateway: "gw-3", samples: 17 },
  { device: "mill-2", gateway: "gw-3", samples: 64 },
  { device: "mill-3", gateway: "gw-3", samples: 5 },
];

/** Runs a session of the fleet, each device at the gateway that `placed` names. */
async function runSession(
  floor: Floor,
  cloud: FloorCloud,
  name: string,
  placed: (member: (typeof fleet)[number]) => string,
): Promise<void> {
  const gateways = new Map(
    await Promise.all(
      [...new Set(fleet.map(placed))].map(
        async (id) => [id, await floor.gateway(id, { upstreamPort: cloud.grpcPort })] as const,
      ),
    ),
  );
  const devices = await Promise.all(
    fleet.map((member) => {
      const site = placed(member);
      const trainer = createStepTrainer(member);
      return floor.device(member.device, {
        site,
        mqttPort: gateways.get(site)?.mqttPort ?? 0,
        trainer,
      });
    }),
  );
  const counts = [...gateways.keys()].map((id) => [
    id,
    fleet.filter((member) => placed(member) === id).length,
  ]);
  await assembled(cloud.api, Object.fromEntries(counts));
  await cloud.api.startSession({ ...sessionParams, name, rounds: ROUNDS });
  await finished(cloud.api, name);
  for (const device of devices) await device.close();
  for (const gateway of gateways.values()) await gateway.close();
}

test("every model is, to the bit, what the formulas give; a tree of gateways and one gateway agree", async () => {
  const floor = await openFloor();
  try {
    const cloud = await floor.cloud();
    const { api } = cloud;
    await importModel(api, "start", layout, initialValues);
    await runSession(floor, cloud, "tree", ({ gateway }) => gateway);

    let model = startFrom(initialValues);
    let parent = "start.0";
    for (let round = 1; round <= ROUNDS; round++) {
      const id = `tree.${round}`;
      const row = await api.model(id);
      const expected = fedAvg(model, round, fleet, bitsOf);
      assert.equal(row.sumDigest, expected.sumDigest, `the exact sum of ${id}`);
      assert.deepEqual(await weightsOf(api, id), expected.values, id);
      const { state, session, weight, contributors } = row;
      assert.deepEqual(
        { state, session, weight, contributors, parent: row.parent, round: row.round },
        {
          state: "published",
          session: "tree",
          weight: fleet.reduce((sum, { samples }) => sum + samples, 0),
          contributors: fleet.length,
          parent,
          round: id,
        },
      );
      assert.equal(row.metrics.loss, Math.round(2 ** 20 / round) / 2 ** 20);
      model = expected;
      parent = id;
    }
    const trail = await firstOf(api.trail(`tree.${ROUNDS}`));
    assert.deepEqual(
      trail.map(({ id }) => id),
      ["tree.4", "tree.3", "tree.2", "tree.1", "start.0"],
    );
    const books = await firstOf(api.contributions("tree"), 1_000);
    const counted = books.map(({ round, device, gateway, samples, outcome, model: to }) =>
      [round, device, gateway, samples, outcome, to].join(" "),
    );
    const all = [1, 2, 3, 4].flatMap((round) =>
      fleet.map(({ device, gateway, samples }) =>
        [round, device, gateway, samples, "model", `tree.${round}`].join(" "),
      ),
    );
    assert.deepEqual(counted.sort(), all.sort());

    await runSession(floor, cloud, "flat", () => "gw-all");
    for (let round = 1; round <= ROUNDS; round++) {
      const [tree, flat] = [`tree.${round}`, `flat.${round}`];
      assert.deepEqual(await weightsOf(api, flat), await weightsOf(api, tree));
      assert.equal((await api.model(flat)).sumDigest, (await api.model(tree)).sumDigest);
    }
  } finally {
    await floor.close();
  }
});
