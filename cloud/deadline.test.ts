import assert from "node:assert/strict";
import { test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import { createDevices } from "./devices.js";
import { createGateways } from "./gateways.js";
import { limits } from "./limits.js";
import { createModels } from "./models.js";
import { openSessions } from "./sessions.js";
import { paramsOf } from "./testing/cloud.js";
import { memoryStore } from "./testing/memory-store.js";
import { modelBytes } from "./testing/rounds.js";

const YEAR_MS = 365 * 24 * 60 * 60 * 1_000;
const START_MS = 1_700_000_000_000;
const deadlineMs = 1_000;
const absentGraceMs = 100;
const kernel = loadKernel();

async function settle(): Promise<void> {
  for (let i = 0; i < 50; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

async function* pieces(bytes: Uint8Array) {
  yield bytes;
}

/** A session with one gateway and one device, whose clock the test holds. */
async function openWorld() {
  const clock = createManualClock(START_MS);
  const disk = memoryDisk({ random: seededRandom(1) });
  const store = memoryStore();
  const random = seededRandom(2);
  const models = createModels(disk, store, random);
  const remaining: number[] = [];
  const boot = async () => {
    const gateways = createGateways(clock, []);
    const devices = createDevices(clock, []);
    const sessions = await openSessions({
      clock,
      random,
      disk,
      kernel,
      store,
      models,
      gateways,
      devices,
      links: {
        send(_gateway, { message }) {
          if (message?.$case === "roundOpened") remaining.push(message.value.remainingMs);
        },
        broadcast: () => undefined,
      },
      events: () => undefined,
    });
    const attach = async () => {
      const hello = { gateway: "g", site: "g", incarnation: "i", softwareVersion: "" };
      gateways.attach(hello);
      const device = { device: "a", sdk: "", attributes: Buffer.alloc(0), site: "", gateway: "" };
      devices.change("g", "g", { all: true, joined: [device], left: [] });
      await sessions.members.attached("g", []);
      sessions.members.fleetChanged();
      await settle();
    };
    await sessions.resumeAll();
    await settle();
    return { sessions, attach };
  };
  let world = await boot();
  assert.ok((await models.importFile("s", pieces(modelBytes), 0)).ok);
  await world.attach();
  const times = { deadlineMs, absentGraceMs, uploadWindowMs: 100, failedRoundsMax: 100 };
  assert.ok((await world.sessions.sessions.start(paramsOf({ ...times, sitesQuorum: 1 }))).ok);
  await settle();
  return {
    clock,
    remaining,
    view: () => world.sessions.sessions.status("s"),
    async advance(ms: number) {
      clock.advance(ms);
      await settle();
    },
    async restart() {
      await world.sessions.close();
      world = await boot();
    },
    close: () => world.sessions.close(),
  };
}

const steps = { "a year ahead": YEAR_MS, "back at 1970": -START_MS, "an hour back": -3_600_000 };

for (const [what, stepMs] of Object.entries(steps)) {
  test(`a wall clock that steps, ${what}, neither ends nor stretches a round`, async () => {
    const world = await openWorld();
    assert.equal(world.view()?.round?.id, "s.1");
    await world.advance(deadlineMs / 2);
    world.clock.shiftWall(stepMs);
    await world.advance(deadlineMs / 2 - 1);
    assert.equal(world.view()?.round?.id, "s.1", "it is not ended");
    await world.advance(1);
    assert.equal(world.view()?.round, null, "it is not stretched");
    await world.close();
  });

  test(`a wall clock that steps, ${what}, neither ends nor stretches a pause`, async () => {
    const world = await openWorld();
    await world.advance(deadlineMs);
    assert.equal(world.view()?.activity, "pausing");
    world.clock.shiftWall(stepMs);
    await world.advance(limits.pauseMs - 1);
    assert.equal(world.view()?.activity, "pausing");
    await world.advance(1);
    assert.equal(world.view()?.round?.id, "s.2");
    await world.close();
  });

  test(`a restart under a wall clock that stepped, ${what}, gives a round its grace and no more than its deadline`, async () => {
    const world = await openWorld();
    await world.advance(10);
    world.clock.shiftWall(stepMs);
    await world.restart();
    const left = stepMs > 0 ? absentGraceMs : deadlineMs;
    await world.advance(left - 1);
    assert.equal(world.view()?.round?.id, "s.1");
    await world.advance(1);
    assert.equal(world.view()?.round, null);
    await world.close();
  });
}

test("a gateway is told how long its site has, whatever the wall clock says", async () => {
  const world = await openWorld();
  assert.deepEqual(world.remaining, [deadlineMs - 100]);
  world.clock.shiftWall(YEAR_MS);
  assert.equal(world.view()?.round?.deadlineAtMs, START_MS + YEAR_MS + deadlineMs);
  await world.close();
});
