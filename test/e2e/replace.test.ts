import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { firstOf } from "tributary/cli/api.js";
import { judge } from "../crash/account.js";
import { assembled, finished, importModel, openFloor } from "../floor/floor.js";
import { initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

const fleet = [
  { device: "lathe-1", site: "b", samples: 30 },
  { device: "press-1", site: "a", samples: 7 },
  { device: "press-2", site: "a", samples: 2 },
];

test("new hardware takes a gateway's place, and what the old one held counts when it turns up", async () => {
  const floor = await openFloor();
  try {
    const cloud = await floor.cloud();
    const { api } = cloud;
    await importModel(api, "start", layout, initialValues);
    const upstreamPort = cloud.grpcPort;
    const old = await floor.gateway("gw-a", { site: "a", upstreamPort });
    const wires = {
      a: await floor.wire(old.mqttPort),
      b: await floor.wire((await floor.gateway("gw-b", { site: "b", upstreamPort })).mqttPort),
    };
    const trainers = fleet.map(createStepTrainer);
    const devices = [];
    for (const [i, { device, site }] of fleet.entries()) {
      const trainer = trainers[i];
      assert.ok(trainer);
      const mqttPort = site === "a" ? wires.a.port : wires.b.port;
      devices.push(await floor.device(device, { site, mqttPort, trainer }));
    }
    const [, press1] = devices;
    const [lathe, , press2] = trainers;
    await assembled(api, { "gw-a": 2, "gw-b": 1 });
    press2?.hold();
    const absentGraceMs = sessionParams.deadlineMs;
    const params = { ...sessionParams, absentGraceMs, name: "s", rounds: 6, devicesMin: 3 };
    await api.startSession(params);
    await press1?.event("receipt", { round: "s.1" });
    await until("the other trains", () => press2?.asked.length === 1);

    // The old one's power supply is gone, with one receipted update in its journal.
    await old.close();
    lathe?.hold(3);
    const dataDir = join(floor.dir, "gw-a-new");
    const fresh = await floor.gateway("gw-a", { site: "a", upstreamPort, settings: { dataDir } });
    assert.notEqual(fresh.incarnation, old.incarnation);
    wires.a.target = fresh.mqttPort;
    press2?.release();
    await fresh.event("partial-delivered", { round: "s.2", outcome: "merged" });
    await until("the third round waits", () => lathe?.asked.at(-1) === "s.3");

    // Repaired, it is plugged in again, beside the one that took its place.
    const again = await floor.gateway("gw-a", { site: "a", upstreamPort });
    assert.equal(again.incarnation, old.incarnation);
    await again.event("partial-delivered", { round: "s.1" });
    await again.close();
    lathe?.release();
    await finished(api, "s");

    const books = await firstOf(api.contributions("s"), Number.POSITIVE_INFINITY);
    const receipts = devices.flatMap(({ name, events }) =>
      events.flatMap((event) =>
        event.name === "receipt" ? [{ round: event.round, device: name }] : [],
      ),
    );
    const { lost, doubled } = judge("s", receipts, books);
    assert.deepEqual({ lost, doubled }, { lost: [], doubled: [] });
    const first = books.filter(({ round, device }) => round === 1 && device === "press-1");
    assert.equal(first.length, 1, "what the old one held is on record once");
    for (const { asked } of trainers)
      assert.equal(new Set(asked).size, asked.length, "nobody trained twice for a round");
  } finally {
    await floor.close();
  }
});
