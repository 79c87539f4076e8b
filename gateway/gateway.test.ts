import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { configSchema } from "./config.js";
import type { GatewayEvent } from "./events.js";
import { createGateway, type Gateway, type GatewayParts } from "./gateway.js";
import { connectDevice, type TestDevice } from "./testing/device.js";
import { openTestReducer, type TestReducer } from "./testing/reducer.js";
import { sampleModel, samplePlan, sampleUpdate } from "./testing/sample.js";
import { until } from "./testing/wait.js";

/** What a test opened, closed again in reverse. */
const open: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

async function dataDir(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "gateway-"));
  open.push(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function reducerAt(port = 0): Promise<TestReducer> {
  const reducer = await openTestReducer(port);
  reducer.models.set("mnist.0", sampleModel);
  open.push(() => reducer.close());
  return reducer;
}

type Started = Gateway & { readonly events: GatewayEvent[] };

async function start(
  dir: string,
  upstream: string,
  settings: object = {},
  parts: Partial<GatewayParts> = {},
): Promise<Started> {
  const events: GatewayEvent[] = [];
  const config = configSchema.parse({
    site: "plant",
    gateway: "gw-1",
    dataDir: dir,
    listen: { port: 0 },
    upstream,
    reconnect: { baseMs: 10, capMs: 50 },
    retryAfterMs: 10,
    ...settings,
  });
  const gateway = await createGateway({
    config,
    softwareVersion: "0.0.0",
    events: (event) => events.push(event),
    parts,
  });
  open.push(() => gateway.close());
  return Object.assign(gateway, { events });
}

async function device(gateway: Gateway, name: string): Promise<TestDevice> {
  const connected = await connectDevice(gateway.mqttPort, name);
  open.push(() => connected.close());
  await connected.hello();
  return connected;
}

async function attachedWith(reducer: TestReducer, devices: number): Promise<void> {
  await until("the devices are reported", () => {
    const listed = new Set(
      reducer.heard("devicesChanged").flatMap(({ joined }) => joined.map((d) => d.device)),
    );
    return listed.size >= devices;
  });
}

describe("a gateway", () => {
  it("runs a round: offers, receipts, sums exactly, ships", async () => {
    const reducer = await reducerAt();
    const gateway = await start(await dataDir(), reducer.address);
    const a = await device(gateway, "dev-a");
    const b = await device(gateway, "dev-b");
    await attachedWith(reducer, 2);
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a", "dev-b"]);

    const offer = await a.next("offer");
    assert.equal(offer.plan.round, plan.round);
    assert.equal(offer.gateway, "gw-1");
    const first = sampleUpdate(plan, "dev-a", 3, { samples: 10 });
    await a.upload(first, 64);
    assert.equal((await a.next("receipt")).digest, first.begin.digest);
    await b.upload(sampleUpdate(plan, "dev-b", -1, { samples: 7 }));
    await b.next("receipt");

    await until("the Partial arrives", () => reducer.partials.length === 1);
    const partial = reducer.partials[0];
    assert.equal(partial?.weight, 17n);
    assert.deepEqual(partial?.contributors, [
      { device: "dev-a", samples: 10 },
      { device: "dev-b", samples: 7 },
    ]);
    assert.ok(partial?.sum.every((value) => value === 3n * 10n - 7n));
    await until("the seal is reported", () => reducer.lastProgress(plan.round)?.sealed);
    assert.equal(reducer.lastProgress(plan.round)?.folded, 2);
  });
});
