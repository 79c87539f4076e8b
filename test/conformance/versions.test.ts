import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import { createDevice } from "@tributary/device-sdk/device.js";
import type { ReportedEvent } from "@tributary/device-sdk/events.js";
import { openSlot } from "@tributary/device-sdk/slot.js";
import { sampleModel, sampleTask, sampleUpdate } from "@tributary/device-sdk/testing/sample.js";
import { openTestReducer } from "@tributary/gateway/testing/reducer.js";
import { samplePlan } from "@tributary/gateway/testing/sample.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { createEventLog } from "../floor/event-log.js";
import { openFloor } from "../floor/floor.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

test("a gateway refuses a plan of a newer version, and says that it is the version", async () => {
  const floor = await openFloor();
  const reducer = await openTestReducer();
  try {
    const gateway = await floor.gateway("gw-1", { upstreamPort: reducer.port });
    await until("the gateway is attached", () => reducer.attached);
    reducer.openRound({ ...samplePlan(), version: 2 } as unknown as Plan, ["press-7"]);
    await until("the plan is refused", () => reducer.heard("planRefused").length === 1);
    const refused = reducer.heard("planRefused")[0];
    assert.equal(refused?.code, "plan-invalid");
    assert.match(refused?.message ?? "", /version/);
    assert.equal(gateway.count("round-opened"), 0);
  } finally {
    await floor.close();
    await reducer.close();
  }
});

test("a gateway does not start on a round's journal of a newer format, and names the file", async () => {
  const floor = await openFloor();
  const reducer = await openTestReducer();
  try {
    const first = await floor.gateway("gw-1", { upstreamPort: reducer.port });
    await until("the gateway is attached", () => reducer.attached);
    reducer.openRound(samplePlan(), ["press-7"]);
    await first.event("round-opened");
    await first.close();
    const file = join(floor.dir, "gw-1", "rounds", `${samplePlan().round}.journal`);
    const bytes = await readFile(file);
    bytes.writeUInt32LE(bytes.readUInt32LE(8) + 1, 8);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, 20)), 20);
    await writeFile(file, bytes);
    await assert.rejects(floor.gateway("gw-1", { upstreamPort: reducer.port }), {
      code: "journal-version",
      message: /mnist\.1\.journal has journal format 2/,
    });
    assert.deepEqual(await readFile(file), bytes, "the file is left as it is");
  } finally {
    await floor.close();
    await reducer.close();
  }
});

/** Starts a device on a disk, with no gateway there; gives what it reported. */
async function startOn(disk: Disk): Promise<readonly ReportedEvent[]> {
  const log = createEventLog<ReportedEvent>("press-7");
  const device = await createDevice({
    device: "press-7",
    site: "north",
    gateway: "mqtt://127.0.0.1:1",
    trainer: createStepTrainer({ device: "press-7", samples: 1 }),
    onEvent: log.add,
    parts: { disk, systemAttributes: async () => ({}) },
  });
  await device.start();
  await log.event("started");
  await device.close();
  return log.events;
}

const heldBy = (events: readonly ReportedEvent[]) =>
  events.flatMap((event) => (event.name === "started" ? [event.held] : []));
const failures = (events: readonly ReportedEvent[]) =>
  events.flatMap((event) => (event.name === "storage-failed" ? [event] : []));

test("a device leaves an update that a newer version kept, and names the file", async () => {
  const disk = memoryDisk();
  const model = sampleModel("s.0");
  await openSlot(disk, "press-7").write(sampleUpdate(sampleTask("s.1", model), model));
  assert.deepEqual(heldBy(await startOn(disk)), ["s.1"]);

  const bytes = Buffer.from(await disk.readFile("slot"));
  const version = bytes.indexOf("version") + "version".length;
  assert.equal(bytes[version], 1);
  bytes[version] = 2;
  bytes.set(Buffer.from(sha256(bytes.subarray(32)), "hex"));
  await disk.writeFileAtomic("slot", [bytes]);
  await assert.rejects(startOn(disk), {
    code: "store-version",
    message: /slot.* version 2.*reads up to version 1/,
  });
  assert.deepEqual(Buffer.from(await disk.readFile("slot")), bytes);
});

test("a device fetches models anew when a newer version kept them, and names the file", async () => {
  const disk = memoryDisk();
  const index = JSON.stringify({ version: 2, models: [] });
  await disk.writeFileAtomic("models.json", [Buffer.from(index)]);
  const [failure] = failures(await startOn(disk));
  assert.equal(failure?.what, "model index");
  assert.match(failure.message, /models\.json.*version/);
});
