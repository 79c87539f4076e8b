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
import { openProxy } from "../floor/proxy.js";
import { sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

/** A model of many chunks: more than sockets and the frozen proxy hold. */
const PARAMETERS = 400_000;
const layout = [{ name: "w", shape: [PARAMETERS] }];
const values = Float32Array.from({ length: PARAMETERS }, (_, i) => Math.sin(i + 1));

const frozen = { device: "frozen", samples: 2 };
const others = ["press-1", "press-2", "press-3"].map((device, i) => ({ device, samples: 5 + i }));

test("a device that reads nothing any more does not hold up the others", async () => {
  const floor = await openFloor();
  const proxy = await openProxy(0);
  try {
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, values);
    const gateway = await floor.gateway("gw-1", { upstreamPort: cloud.grpcPort });
    proxy.target = gateway.mqttPort;
    const place = { site: "gw-1", trainer: createStepTrainer(frozen), mqttPort: proxy.port };
    const stuck = await floor.device(frozen.device, place);
    // With the first byte of the model, it stops reading: its pings still arrive.
    const base = proxy.passed("down");
    proxy.throttle(20_000, "down");
    const devices = await Promise.all(
      others.map((member) =>
        floor.device(member.device, {
          site: "gw-1",
          mqttPort: gateway.mqttPort,
          trainer: createStepTrainer(member),
        }),
      ),
    );
    await assembled(cloud.api, { "gw-1": others.length + 1 });
    await cloud.api.startSession({
      ...{ ...sessionParams, grid: { fractionBits: 20, range: 1 } },
      ...{ name: "s", rounds: 1, devicesMin: others.length + 1 },
      absentGraceMs: sessionParams.deadlineMs,
    });
    await until("the model is on its way to it", () => proxy.passed("down") > base + 10_000);
    proxy.freeze("down");
    for (const device of devices) await device.event("receipt", { round: "s.1" });
    assert.equal(stuck.count("fetched"), 0);
    assert.equal(cloud.count("model-made"), 0, "its round waits for it, and for nobody else");

    proxy.throttle(undefined);
    proxy.thaw();
    await finished(cloud.api, "s");
    const all = [frozen, ...others];
    assert.deepEqual(await mergedBy(cloud.api, "s"), [[1, all.map(({ device }) => device)]]);
    const model = fedAvg(startFrom(values), 1, all, () => 20);
    assert.deepEqual(await weightsOf(cloud.api, "s.1"), model.values);
  } finally {
    await floor.close();
    await proxy.close();
  }
});
