import assert from "node:assert/strict";
import { test } from "node:test";
import { fedAvg, startFrom } from "../floor/expected.js";
import {
  assembled,
  type Floor,
  finished,
  gatewaySettings,
  importModel,
  mergedBy,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

const fleet = [
  { device: "press-1", samples: 11 },
  { device: "press-2", samples: 2 },
  { device: "press-3", samples: 300 },
  { device: "press-4", samples: 45 },
];
const quick = fleet.slice(0, 2);
const slow = fleet.slice(2);

async function startGateway(floor: Floor, upstreamPort: number) {
  const tier = await floor.process(
    "gateway",
    gatewaySettings(floor.dir, "gw-1", "a", upstreamPort),
  );
  const { port, incarnation } = await tier.event("gateway-started");
  return { ...tier, port: Number(port), incarnation };
}

test("a gateway killed in mid-round keeps what it receipted, and asks nobody for it again", async () => {
  const floor = await openFloor();
  try {
    const cloud = await floor.cloud();
    const { api } = cloud;
    await importModel(api, "start", layout, initialValues);
    const first = await startGateway(floor, cloud.grpcPort);
    const wire = await floor.wire(first.port);
    const trainers = new Map(fleet.map((member) => [member.device, createStepTrainer(member)]));
    const trainerOf = ({ device }: { device: string }) => {
      const trainer = trainers.get(device);
      assert.ok(trainer);
      return trainer;
    };
    const devices = new Map(
      await Promise.all(
        fleet.map(async (member) => {
          const place = { site: "a", mqttPort: wire.port, trainer: trainerOf(member) };
          return [member.device, await floor.device(member.device, place)] as const;
        }),
      ),
    );
    await assembled(api, { "gw-1": fleet.length });

    for (const member of slow) trainerOf(member).hold();
    const params = { ...sessionParams, absentGraceMs: sessionParams.deadlineMs };
    await api.startSession({ ...params, name: "s", rounds: 2, devicesMin: fleet.length });
    for (const { device } of quick) await devices.get(device)?.event("receipt", { round: "s.1" });
    await until("the others train", () => slow.every((m) => trainerOf(m).asked.length === 1));
    await first.end("SIGKILL");

    const second = await startGateway(floor, cloud.grpcPort);
    wire.target = second.port;
    const resumed = await second.event("round-resumed", { round: "s.1" });
    assert.equal(resumed.contributors, quick.length);
    assert.equal(second.incarnation, first.incarnation);
    for (const member of slow) trainerOf(member).release();
    await finished(api, "s");

    let model = startFrom(initialValues);
    for (const round of [1, 2]) {
      const expected = fedAvg(model, round, fleet, bitsOf);
      assert.equal((await api.model(`s.${round}`)).sumDigest, expected.sumDigest);
      assert.deepEqual(await weightsOf(api, `s.${round}`), expected.values);
      model = expected;
    }
    const all = fleet.map(({ device }) => device);
    assert.deepEqual(await mergedBy(api, "s"), [
      [1, all],
      [2, all],
    ]);
    for (const member of fleet) {
      assert.deepEqual(trainerOf(member).asked, ["s.1", "s.2"], member.device);
    }
    assert.equal(await second.end("SIGTERM"), 0);
  } finally {
    await floor.close();
  }
});
