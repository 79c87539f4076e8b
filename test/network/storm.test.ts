import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { createDevice, type Device } from "@tributary/device-sdk/device.js";
import { firstOf } from "tributary/cli/api.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import {
  assembled,
  finished,
  gatewaySettings,
  importModel,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { openProxy } from "../floor/proxy.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

const DEVICES = 500;
/**
 * Attempts to connect that a device may need on a busy machine. The gateway takes all at once, so
 * it is about one on an idle one; a storm that feeds itself takes more and more.
 */
const ATTEMPTS_EACH = 4;
/** What the storm may add to the gateway's resident memory. */
const GROWTH_BYTES = 192 * 1024 * 1024;

const fleet = Array.from({ length: DEVICES }, (_, i) => ({
  device: `d-${String(i).padStart(3, "0")}`,
  samples: 1 + (i % 9),
}));

/** Resident memory of a process in bytes (proc(5)); undefined where there is no /proc. */
async function residentBytes(pid: number): Promise<number | undefined> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1];
  return kib === undefined ? undefined : Number(kib) * 1024;
}

test("500 devices that lose their gateway in mid-round come back by themselves, and all count once", async () => {
  const floor = await openFloor();
  const proxy = await openProxy(0);
  const devices: Device[] = [];
  try {
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, initialValues);
    const gateway = await floor.process(
      "gateway",
      gatewaySettings(floor.dir, "gw-1", "a", cloud.grpcPort),
    );
    proxy.target = Number((await gateway.event("gateway-started")).port);

    const counts = { up: 0, down: 0, receipts: 0 };
    const trainers = fleet.map(createStepTrainer);
    for (const [i, { device }] of fleet.entries()) {
      const trainer = trainers[i];
      assert.ok(trainer);
      trainer.hold();
      const made = await createDevice({
        ...{ device, site: "a", gateway: `mqtt://127.0.0.1:${proxy.port}`, trainer },
        onEvent({ name }) {
          if (name === "link-up") counts.up++;
          if (name === "link-down") counts.down++;
          if (name === "receipt") counts.receipts++;
        },
        parts: { systemAttributes: async () => ({}) },
      });
      devices.push(made);
      await made.start();
    }
    await assembled(cloud.api, { "gw-1": DEVICES });
    await cloud.api.startSession({
      ...{ ...sessionParams, name: "storm", rounds: 1, devicesMin: DEVICES },
      absentGraceMs: sessionParams.deadlineMs,
    });
    await until("all train", () => trainers.every(({ asked }) => asked.length > 0));
    const before = await residentBytes(gateway.pid);

    Object.assign(counts, { up: 0, down: 0 });
    proxy.cut();
    await until("all have lost the link", () => counts.down >= DEVICES);
    for (const trainer of trainers) trainer.release();
    proxy.restore();
    await until("all are back", () => counts.up >= DEVICES);
    await finished(cloud.api, "storm");
    await until("all have their receipt", () => counts.receipts >= DEVICES);

    for (const times of [counts.up, counts.down])
      assert.ok(times <= ATTEMPTS_EACH * DEVICES, `${times / DEVICES} attempts a device`);
    const after = await residentBytes(gateway.pid);
    if (before !== undefined && after !== undefined) {
      const grown = after - before;
      assert.ok(grown < GROWTH_BYTES, `the gateway grew by ${Math.round(grown / 2 ** 20)} MiB`);
    }

    const books = await firstOf(cloud.api.contributions("storm"), Number.POSITIVE_INFINITY);
    assert.deepEqual(
      books.map(({ device, samples, outcome, model }) => ({ device, samples, outcome, model })),
      fleet.map((member) => ({ ...member, outcome: "model", model: "storm.1" })),
    );
    const expected = fedAvg(startFrom(initialValues), 1, fleet, bitsOf);
    assert.equal((await cloud.api.model("storm.1")).sumDigest, expected.sumDigest);
    assert.deepEqual(await weightsOf(cloud.api, "storm.1"), expected.values);
    assert.ok(
      trainers.every(({ asked }) => asked.length === 1),
      "nobody trained twice",
    );
  } finally {
    for (const device of devices) await device.close();
    await floor.close();
    await proxy.close();
  }
});
