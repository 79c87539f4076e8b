import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { nodeDisk } from "@tributary/proto/host/disk.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import { type DiskState, type FickleDisk, fickleDisk } from "../floor/fickle-disk.js";
import {
  assembled,
  type Floor,
  type FloorCloud,
  type FloorGateway,
  finished,
  importModel,
  mergedBy,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

const run = promisify(execFile);
const member = { device: "press-1", samples: 9 };

/** One device that has trained for the first round and is about to send. */
async function aboutToSend(floor: Floor, cloud: FloorCloud, gateway: FloorGateway) {
  const { api } = cloud;
  await importModel(api, "start", layout, initialValues);
  const trainer = createStepTrainer(member);
  const place = { site: "gw-1", mqttPort: gateway.mqttPort, trainer };
  const device = await floor.device(member.device, place);
  await assembled(api, { "gw-1": 1 });
  trainer.hold();
  const absentGraceMs = sessionParams.deadlineMs;
  await api.startSession({ ...sessionParams, absentGraceMs, name: "s", rounds: 2, devicesMin: 1 });
  await until("the device trains", () => trainer.asked.length === 1);
  return { device, trainer };
}

async function whole({ api }: FloorCloud): Promise<void> {
  await finished(api, "s");
  assert.deepEqual(await mergedBy(api, "s"), [
    [1, [member.device]],
    [2, [member.device]],
  ]);
  let model = startFrom(initialValues);
  for (const round of [1, 2]) {
    model = fedAvg(model, round, [member], bitsOf);
    assert.deepEqual(await weightsOf(api, `s.${round}`), model.values);
  }
}

const refusals: Readonly<Record<Exclude<DiskState, "sound">, string>> = {
  full: "storage-full",
  "read-only": "storage-failed",
};

for (const state of ["full", "read-only"] as const) {
  test(`a gateway on a ${state} disk refuses at the door, says so, and goes on without a restart`, async () => {
    const floor = await openFloor();
    try {
      const cloud = await floor.cloud();
      const disk = fickleDisk(nodeDisk(join(floor.dir, "gw-1")));
      const gateway = await floor.gateway("gw-1", {
        upstreamPort: cloud.grpcPort,
        parts: { disk },
        settings: { retryAfterMs: 20 },
      });
      const { device, trainer } = await aboutToSend(floor, cloud, gateway);
      disk.turn(state);
      trainer.release();
      await device.event("refused", { code: refusals[state], retryable: true });
      await gateway.event("storage-state", { state });
      await until("it asks again, and is refused again", () => device.count("refused") > 1);
      assert.equal(device.count("receipt"), 0);
      disk.turn("sound");
      await device.event("receipt", { round: "s.1" });
      await whole(cloud);
      assert.deepEqual(trainer.asked, ["s.1", "s.2"], "the device held its update all the while");
    } finally {
      await floor.close();
    }
  });

  test(`a cloud on a ${state} disk takes no Partial, says so, and goes on without a restart`, async () => {
    const floor = await openFloor();
    try {
      const disk: FickleDisk = fickleDisk(nodeDisk(join(floor.dir, "cloud")));
      const cloud = await floor.cloud({ disk });
      const gateway = await floor.gateway("gw-1", { upstreamPort: cloud.grpcPort });
      const { device, trainer } = await aboutToSend(floor, cloud, gateway);
      disk.turn(state);
      trainer.release();
      await device.event("receipt", { round: "s.1" });
      await gateway.event("partial-delayed", { round: "s.1" });
      await until("it is tried again", () => gateway.count("partial-delayed") > 1);
      assert.equal(gateway.count("partial-delivered"), 0);
      assert.equal(cloud.count("partial-accepted"), 0);
      disk.turn("sound");
      await gateway.event("partial-delivered", { round: "s.1", outcome: "merged" });
      await whole(cloud);
    } finally {
      await floor.close();
    }
  });
}

/** What a gateway leaves free of the real file system. */
const RESERVE_BYTES = 64 * 1024;

/** A file system of its own, of so many bytes; undefined where this process may not mount one. */
async function mountTiny(t: TestContext, dir: string, bytes: number): Promise<boolean> {
  if (process.getuid?.() !== 0) {
    t.skip("not run: mounting a tmpfs takes root");
    return false;
  }
  await mkdir(dir, { recursive: true });
  try {
    await run("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", dir]);
    return true;
  } catch {
    t.skip("not run: this machine does not let a tmpfs be mounted");
    return false;
  }
}

test("a gateway on a real file system with no byte left refuses, and goes on when there is room", async (t) => {
  const floor = await openFloor();
  const place = join(floor.dir, "gw-1");
  if (!(await mountTiny(t, place, 8 * 1024 * 1024))) return floor.close();
  try {
    const cloud = await floor.cloud();
    const gateway = await floor.gateway("gw-1", {
      upstreamPort: cloud.grpcPort,
      settings: { retryAfterMs: 20, reserveDiskBytes: RESERVE_BYTES },
    });
    const { device, trainer } = await aboutToSend(floor, cloud, gateway);
    const filler = join(place, "filler");
    // Whatever else is written meanwhile, this takes the rest.
    await writeFile(filler, Buffer.alloc(16 * 1024 * 1024)).catch((error: NodeJS.ErrnoException) =>
      assert.equal(error.code, "ENOSPC"),
    );
    await until("it has looked", () => gateway.status().disk.freeBytes < RESERVE_BYTES);
    trainer.release();
    await device.event("refused", { code: "storage-full", retryable: true });
    await gateway.event("storage-state", { state: "full" });
    assert.equal(device.count("receipt"), 0);
    await rm(filler);
    await device.event("receipt", { round: "s.1" });
    await whole(cloud);
    assert.deepEqual(trainer.asked, ["s.1", "s.2"]);
    await gateway.close();
  } finally {
    await run("umount", ["-l", place]);
    await floor.close();
  }
});
