import assert from "node:assert/strict";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import type { Encoding } from "@tributary/proto/algebra/grid.js";
import { bufferBudgets } from "./budgets.js";
import { type SiteLoad, sizeSite } from "./size.js";
import type { TestDevice } from "./testing/device.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
after(() => stage.close());

const load: SiteLoad = {
  devices: 10,
  parameters: 20_000,
  encoding: "f32",
  roundsPerHour: 6,
  outageMs: 7 * 24 * 3_600_000,
  siteRounds: true,
  uploadSlots: 4,
};

async function bytesIn(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder)) bytes += (await stat(join(folder, name))).size;
  return bytes;
}

/** What a real gateway writes for one round: its journal, then its Partial, with the link away. */
async function measure(devices: number, parameters: number, encoding: Encoding, together: boolean) {
  const reducer = await stage.reducer();
  const dir = await stage.dataDir();
  const gateway = await stage.gateway(dir, reducer.address, { absentGraceMs: 60_000 });
  const names = Array.from({ length: devices }, (_, i) => `dev-${i}`);
  const here: TestDevice[] = [];
  for (const name of names) here.push(await stage.device(gateway, name));
  await reported(reducer, devices);
  const grid = { fractionBits: [encoding === "i16" ? 10 : 16], range: 4 };
  const plan = samplePlan({ layout: [{ name: "w", shape: [parameters] }], grid });
  assert.equal(plan.encoding, encoding);
  reducer.openRound(plan, [...names, "absent"]);
  const upload = async (device: TestDevice) => {
    await device.next("offer");
    await device.upload(sampleUpdate(plan, device.device, 2));
    await device.next("receipt");
  };
  if (together) await Promise.all(here.map(upload));
  else for (const device of here) await upload(device);
  const journal = await bytesIn(join(dir, "rounds"));
  reducer.answer = () => {
    throw new Error("it is not to arrive");
  };
  reducer.tell({ $case: "roundClosed", value: { round: plan.round, outcome: "published" } });
  await until("it seals", () => gateway.events.some((e) => e.name === "round-sealed"));
  const partial = await bytesIn(join(dir, "outbox"));
  await gateway.close();
  return { journal, partial };
}

function predicted(changes: Partial<SiteLoad>) {
  const size = sizeSite({ ...load, ...changes });
  const of = (name: string) => size.parts.find((part) => part.name === name)?.bytes ?? Number.NaN;
  return { journal: of("journal of a round"), partial: of("Partial") };
}

/** The formulas are never less than what is written, and at most this much more. */
const FACTOR = 1.25;

describe("the size of a site", () => {
  it("is within the stated factor of what a gateway writes when updates come one by one", async () => {
    for (const encoding of ["f32", "i16"] as const) {
      const real = await measure(10, 20_000, encoding, false);
      const size = predicted({ encoding });
      for (const name of ["journal", "partial"] as const) {
        const ratio = size[name] / real[name];
        assert.ok(ratio >= 1 && ratio <= FACTOR, `${name}, ${encoding}: ${ratio}`);
      }
    }
  });

  it("is no less than what a gateway writes when they come together", async () => {
    const real = await measure(16, 20_000, "f32", true);
    const size = predicted({ devices: 16 });
    assert.ok(real.journal <= size.journal, `${real.journal} of ${size.journal}`);
  });

  it("does not grow with the outage but in rounds, for what waits merges", () => {
    const week = sizeSite(load);
    const hour = sizeSite({ ...load, outageMs: 3_600_000 });
    assert.equal(week.buffer.bytes, hour.buffer.bytes);
    assert.equal(week.upload.bytes, hour.upload.bytes);
    assert.deepEqual([week.outageRounds, hour.outageRounds], [7 * 24 * 6, 6]);
    const without = sizeSite({ ...load, siteRounds: false });
    assert.equal(without.outageRounds, 0);
    assert.ok(without.writtenOffline.bytes < week.writtenOffline.bytes);
  });

  it("leaves the results their room in the budget that it names", () => {
    for (const parameters of [1_000, 1_000_000, 100_000_000]) {
      const { buffer, budget } = sizeSite({ ...load, parameters });
      const { results } = bufferBudgets({ budgetBytes: budget.bytes, buffers: {} });
      assert.ok(results >= buffer.bytes, `${parameters}`);
    }
  });

  it("grows with devices, parameters and rounds", () => {
    const least = sizeSite(load);
    const changes = [{ devices: 100 }, { parameters: 200_000 }];
    for (const change of changes) {
      const more = sizeSite({ ...load, ...change });
      for (const name of [
        "buffer",
        "memory",
        "writtenOnline",
        "writtenOffline",
        "upload",
      ] as const) {
        assert.ok(more[name].bytes > least[name].bytes, name);
      }
    }
    assert.ok(
      sizeSite({ ...load, roundsPerHour: 60 }).writtenOnline.bytes > least.writtenOnline.bytes,
    );
  });
});
