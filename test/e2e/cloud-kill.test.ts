import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { createApi } from "tributary/cli/api.js";
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
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

const ROUNDS = 3;
const press = { device: "press", samples: 7 };
const lathe = { device: "lathe", samples: 30 };

/** A cloud in a process of its own on this test's data directory. */
async function startCloud(floor: Floor) {
  const tier = await floor.process("cloud", {
    dataDir: join(floor.dir, "cloud"),
    grpc: { port: 0 },
    http: { port: 0 },
  });
  const { grpcPort, httpPort } = await tier.event("cloud-started");
  const api = createApi({ url: `http://127.0.0.1:${Number(httpPort)}` });
  return { ...tier, grpcPort: Number(grpcPort), api };
}

test("a cloud killed in mid-round and between rounds goes on by itself; nothing is lost or counted twice", async () => {
  const floor = await openFloor();
  try {
    const first = await startCloud(floor);
    const wire = await floor.wire(first.grpcPort);
    const gw1 = await floor.gateway("gw-1", { upstreamPort: wire.port });
    const gw2 = await floor.gateway("gw-2", { upstreamPort: wire.port });
    const pressTrainer = createStepTrainer(press);
    const latheTrainer = createStepTrainer(lathe);
    const openPress = () =>
      floor.device("press", { site: "gw-1", mqttPort: gw1.mqttPort, trainer: pressTrainer });
    const openLathe = () =>
      floor.device("lathe", { site: "gw-2", mqttPort: gw2.mqttPort, trainer: latheTrainer });
    await openPress();
    const firstLathe = await openLathe();
    await importModel(first.api, "start", layout, initialValues);
    await assembled(first.api, { "gw-1": 1, "gw-2": 1 });

    latheTrainer.hold();
    await first.api.startSession({
      ...sessionParams,
      name: "s",
      rounds: ROUNDS,
      devicesMin: 2,
      sitesQuorum: 2,
      absentGraceMs: sessionParams.deadlineMs,
    });
    await gw1.event("partial-delivered", { round: "s.1", outcome: "merged" });
    await until("lathe trains", () => latheTrainer.asked.length === 1);
    await first.end("SIGKILL");

    const second = await startCloud(floor);
    wire.target = second.grpcPort;
    assert.equal((await second.event("round-resumed", { round: "s.1" })).partials, 1);
    pressTrainer.hold();
    latheTrainer.release();

    // Round 2 ends while one of the two devices is away, so that the third waits for it.
    await gw2.event("partial-delivered", { round: "s.2", outcome: "merged" });
    await firstLathe.close();
    await assembled(second.api, { "gw-1": 1, "gw-2": 0 });
    pressTrainer.release();
    await until("the session waits for devices", async () => {
      const { head, round, activity } = await second.api.session("s");
      return head === "s.2" && round === null && activity === "waiting";
    });
    await second.end("SIGKILL");

    const third = await startCloud(floor);
    wire.target = third.grpcPort;
    const waiting = await third.api.session("s");
    assert.deepEqual([waiting.state, waiting.head], ["running", "s.2"]);
    await openLathe();
    await finished(third.api, "s");

    let model = startFrom(initialValues);
    for (let round = 1; round <= ROUNDS; round++) {
      const expected = fedAvg(model, round, [press, lathe], bitsOf);
      assert.equal((await third.api.model(`s.${round}`)).sumDigest, expected.sumDigest);
      assert.deepEqual(await weightsOf(third.api, `s.${round}`), expected.values);
      model = expected;
    }
    const both = ["lathe", "press"];
    assert.deepEqual(
      await mergedBy(third.api, "s"),
      [1, 2, 3].map((round) => [round, both]),
    );
    const asked = ["s.1", "s.2", "s.3"];
    assert.deepEqual(pressTrainer.asked, asked, "no device trained twice for a round");
    assert.deepEqual(latheTrainer.asked, asked);
    for (const cloud of [second, third]) assert.equal(cloud.count("optimizer-reset"), 0);
    assert.equal(await third.end("SIGTERM"), 0);
  } finally {
    await floor.close();
  }
});
