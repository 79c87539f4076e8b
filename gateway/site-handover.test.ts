import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { contributionKey } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { type Database, levelDatabase } from "./store-table.js";
import type { TestDevice } from "./testing/device.js";
import type { TestReducer } from "./testing/reducer.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported, type StartedGateway } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

const layout = [{ name: "w", shape: [4] }];
const model = encodeSafetensors(layout, Float32Array.of(0.5, -1, 1 / 3, 0));
const base = makeManifest("mnist.0", model, sha256, 1024);
const training = { epochs: 1, seed: 7 };
const plan = samplePlan({ layout, base, siteRounds: 1, offlineSiteRounds: 50, training });

/** What a write of a hand-over comes to: `lost` before it is on disk, `landed` after; `dead` from then on. */
type Fault = { readonly lands: boolean; readonly dies: boolean };

/** The index, in which the `nth` write of a hand-over meets with a fault. */
function faulty(nth: number, { lands, dies }: Fault) {
  const seen = { handovers: 0, met: false };
  const database = (path: string): Database => {
    const real = levelDatabase(path);
    return {
      open: () => real.open(),
      get: (key) => real.get(key),
      iterator: (range) => real.iterator(range),
      keys: (range) => real.keys(range),
      close: () => real.close(),
      async batch(operations, options) {
        if (seen.met && dies) throw new Error("it was killed");
        const puts = (prefix: string) =>
          operations.some(({ type, key }) => type === "put" && key.startsWith(prefix));
        if (!(puts("entry!") && puts("round!")) || ++seen.handovers !== nth)
          return real.batch(operations, options);
        seen.met = true;
        if (lands) await real.batch(operations, options);
        throw new Error("it was killed");
      },
    };
  };
  return { database, seen };
}

async function give(device: TestDevice, round: string, steps: number, samples: number) {
  const find = () => device.got("offer").find((offer) => offer.plan.round === round);
  await until(`${device.device} is offered ${round}`, find);
  const offer = find() as NonNullable<ReturnType<typeof find>>;
  await device.upload(sampleUpdate(offer.plan, device.device, steps, { samples }));
  await until("it is receipted", () => device.got("receipt").some((r) => r.round === round));
}

const told = (gateway: StartedGateway, name: string) =>
  gateway.events.filter((event) => event.name === name).length;

/** After a write that failed, updates are refused until another has succeeded. */
const takesUpdates = (gateway: StartedGateway) =>
  until("it takes updates", () => {
    const states = gateway.events.filter((event) => event.name === "storage-state");
    const [newest] = states.slice(-1);
    return newest?.name !== "storage-state" || newest.state === "ok";
  });

/** Every contribution that reached an upstream, with a coordinate of its sum. */
const arrived = (...reducers: TestReducer[]) =>
  reducers.flatMap(({ partials }) =>
    partials.map(({ contributors, sum }) => `${contributors.map(contributionKey)} ${sum[0]}`),
  );

describe("a hand-over", () => {
  const faults: Record<string, Fault> = {
    "that is killed before it is durable": { lands: false, dies: true },
    "that is killed once it is durable": { lands: true, dies: true },
    "whose write fails": { lands: false, dies: false },
    "whose write fails though it is durable": { lands: true, dies: false },
  };
  const whole = ["mnist.1/dev-a 30", "mnist.1.2/dev-a 20"];

  for (const [what, fault] of Object.entries(faults)) {
    it(`of a first stretch, ${what}, neither loses nor repeats it`, async () => {
      const disk = memoryDisk();
      const { database, seen } = faulty(1, fault);
      const first = await stage.reducer();
      first.models.set("mnist.0", model);
      const dir = await stage.dataDir();
      const settings = { absentGraceMs: 20 };
      let gateway = await stage.gateway(dir, first.address, settings, { disk, database });
      let a = await stage.device(gateway, "dev-a");
      await reported(first, 1);
      first.openRound(plan, ["dev-a"]);
      await until("the base is here", () => told(gateway, "model-cached") > 0);
      await give(a, "mnist.1.1", 3, 10);
      await until("it meets with the fault", () => seen.met);
      if (fault.dies) {
        await gateway.close();
        gateway = await stage.gateway(dir, first.address, settings, { disk });
        a = await stage.device(gateway, "dev-a");
      }
      await until("it arrives", () => first.partials.length > 0);
      await until("it is gone", () => gateway.status().waiting.partials === 0);
      await takesUpdates(gateway);
      await first.close();
      await give(a, "mnist.1.2", 5, 4);
      const second = await stage.reducer(first.port);
      await until("the next stretch arrives", () => second.partials.length > 0);
      await until("it is gone", () => gateway.status().waiting.partials === 0);
      assert.deepEqual(arrived(first, second), whole);
    });

    it(`of a further stretch, ${what}, neither loses nor repeats it`, async () => {
      const disk = memoryDisk();
      const { database, seen } = faulty(2, fault);
      const first = await stage.reducer();
      first.models.set("mnist.0", model);
      const dir = await stage.dataDir();
      const settings = { absentGraceMs: 20 };
      let gateway = await stage.gateway(dir, first.address, settings, { disk, database });
      let a = await stage.device(gateway, "dev-a");
      await reported(first, 1);
      first.openRound(plan, ["dev-a"]);
      await until("the base is here", () => told(gateway, "model-cached") > 0);
      await give(a, "mnist.1.1", 3, 10);
      await until("it is delivered", () => told(gateway, "partial-delivered") === 1);
      await first.close();
      await give(a, "mnist.1.2", 5, 4);
      const second = await stage.reducer(first.port);
      await until("it meets with the fault", () => seen.met);
      if (fault.dies) {
        await gateway.close();
        gateway = await stage.gateway(dir, second.address, settings, { disk });
      }
      await until("the stretch arrives", () => second.partials.length > 0);
      await until("it is gone", () => gateway.status().waiting.partials === 0);
      assert.deepEqual(arrived(first, second), whole);
      // What follows is a stretch of its own, on all that came before.
      await takesUpdates(gateway);
      await second.close();
      a = await stage.device(gateway, "dev-a");
      const next = () => a.got("offer").find((offer) => /^mnist\.1\.[3-9]$/.test(offer.plan.round));
      await until("it goes on", next);
      const round = next()?.plan.round as string;
      await give(a, round, 7, 2);
      const third = await stage.reducer(first.port);
      await until("that arrives", () => third.partials.length > 0);
      assert.match(arrived(third)[0] ?? "", /^mnist\.1\.[3-9]\/dev-a 14$/);
      assert.equal(third.partials.length, 1);
    });
  }
});
