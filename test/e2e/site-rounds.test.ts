import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { firstOf } from "tributary/cli/api.js";
import { judge, readBooks } from "tributary/pilot/report/account.js";
import { readAudit } from "tributary/pilot/report/oracle.js";
import { type Contribution, fedAvg, type ModelBits, startFrom } from "../floor/expected.js";
import {
  assembled,
  type Floor,
  type FloorCloud,
  finished,
  gatewaySettings,
  importModel,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer, stepOf, type WatchedTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

let floor: Floor;
let cloud: FloorCloud;
const near: Contribution = { device: "near-1", samples: 5 };
const far: Contribution = { device: "far-1", samples: 40 };

before(async () => {
  floor = await openFloor();
  cloud = await floor.cloud();
  await importModel(cloud.api, "start", layout, initialValues);
});
after(() => floor.close());

function nearestEven(value: number): number {
  const below = Math.floor(value);
  const over = value - below;
  if (over === 0.5) return below % 2 === 0 ? below : below + 1;
  return over < 0.5 ? below : below + 1;
}

/**
 * S of what one site's device comes to in `rounds` site rounds from a model, and its weight. Of one
 * device the mean is its own delta on the grid.
 */
function siteSum(from: ModelBits, { device, samples }: Contribution, rounds: number): number[] {
  return Array.from(from.values, (base, i) => {
    const scale = 2 ** bitsOf(i);
    let delta = 0;
    let value = base;
    for (let k = 1; k <= rounds; k++) {
      const trained = Math.fround(value + stepOf(device, k, i));
      delta += nearestEven(Math.fround(trained - value) * scale) / scale;
      value = Math.fround(base + delta);
    }
    const q = Math.max(-scale, Math.min(scale, nearestEven(delta * scale)));
    return samples * q;
  });
}

/** FedAvg over sites of one device each, with as many site rounds as each has done. */
function expectedModel(
  from: ModelBits,
  sites: readonly (readonly [Contribution, number])[],
): ModelBits {
  const sums = sites.map(([member, rounds]) => siteSum(from, member, rounds));
  const weight = sites.reduce((total, [{ samples }]) => total + samples, 0);
  const master = from.master.map((value, i) => {
    const sum = sums.reduce((total, site) => total + (site[i] as number), 0);
    return value + sum / (weight * 2 ** bitsOf(i));
  });
  return { master, values: Float32Array.from(master) };
}

/** A site with one device, behind a wire that a test can cut. */
async function openSite(name: string, { device, samples }: Contribution, auditDir?: string) {
  const wire = await floor.wire(cloud.grpcPort);
  const settings = { absentGraceMs: 100 };
  const gateway = await floor.gateway(name, { upstreamPort: wire.port, settings });
  const trainer = createStepTrainer({ device, samples });
  const audit = auditDir === undefined ? {} : { auditDir };
  const place = { site: name, mqttPort: gateway.mqttPort, trainer, ...audit };
  const running = await floor.device(device, place);
  await assembled(cloud.api, { [name]: 1 });
  return {
    wire,
    gateway,
    trainer,
    async close() {
      await running.close();
      await gateway.close();
    },
  };
}

/** Whatever was receipted is in exactly one model, in as many updates as there were receipts. */
async function assertAccounted(session: string, auditDir: string): Promise<void> {
  const findings = judge(await readBooks(cloud.api, [session]), await readAudit(auditDir));
  const { exact, missing, doubled } = findings;
  assert.deepEqual({ exact, missing, doubled }, { exact: true, missing: [], doubled: [] });
}

test("two site rounds a round give the oracle's model to the bit", async () => {
  const sites = [await openSite("duo-near", near), await openSite("duo-far", far)];
  await cloud.api.startSession({ ...sessionParams, name: "duo", rounds: 2, siteRounds: 2 });
  await finished(cloud.api, "duo");
  let model = startFrom(initialValues);
  for (const round of [1, 2]) {
    model = expectedModel(model, [
      [near, 2],
      [far, 2],
    ]);
    assert.deepEqual(await weightsOf(cloud.api, `duo.${round}`), model.values);
  }
  for (const { trainer } of sites) {
    assert.deepEqual(trainer.asked, ["duo.1.1", "duo.1.2", "duo.2.1", "duo.2.2"]);
    assert.deepEqual(trainer.bases, ["start.0", "duo.1.1", "duo.1", "duo.2.1"]);
  }
  await assertRows("duo", [
    [1, far.device, 2],
    [1, near.device, 2],
    [2, far.device, 2],
    [2, near.device, 2],
  ]);
  for (const site of sites) await site.close();
});

async function assertRows(
  session: string,
  expected: readonly (readonly [round: number, device: string, updates: number])[],
): Promise<void> {
  const rows = await firstOf(cloud.api.contributions(session), Number.POSITIVE_INFINITY);
  const found = rows.map(({ round, device, updates }) => [round, device, updates] as const);
  const byName = ([a, c]: readonly [number, string, number], [b, d]: (typeof expected)[number]) =>
    a - b || (c < d ? -1 : 1);
  assert.deepEqual(found.toSorted(byName), expected);
}

test("one site round a round gives the flat model to the bit", async () => {
  const sites = [await openSite("solo-near", near), await openSite("solo-far", far)];
  const solo = { ...sessionParams, name: "solo", rounds: 1, offlineSiteRounds: 5 };
  await cloud.api.startSession(solo);
  await finished(cloud.api, "solo");
  const flat = fedAvg(startFrom(initialValues), 1, [near, far], bitsOf);
  assert.deepEqual(await weightsOf(cloud.api, "solo.1"), flat.values);
  assert.equal((await cloud.api.model("solo.1")).sumDigest, flat.sumDigest);
  for (const site of sites) {
    assert.deepEqual(site.trainer.asked, ["solo.1.1"]);
    await site.close();
  }
});

/** Lets a held trainer do one training after the other, until it was asked for a round. */
async function trainUntil(trainer: WatchedTrainer, round: string): Promise<void> {
  trainer.release();
  await until(`it trains for ${round}`, () => trainer.asked.includes(round));
}

test("a site that is cut off goes on, and hands over one Partial for all its site rounds", async () => {
  const audit = join(floor.dir, "audit", "cut");
  const sites = [await openSite("cut-near", near, audit), await openSite("cut-far", far, audit)];
  const [there, away] = sites as [(typeof sites)[0], (typeof sites)[0]];
  there.trainer.hold();
  away.trainer.hold();
  await cloud.api.startSession({
    ...sessionParams,
    name: "cut",
    rounds: 1,
    offlineSiteRounds: 1_000,
    absentGraceMs: sessionParams.deadlineMs,
  });
  await until("both train", () => sites.every(({ trainer }) => trainer.asked.length === 1));
  away.wire.cut();
  await away.gateway.event("uplink-lost");
  await trainUntil(away.trainer, "cut.1.4");
  away.wire.restore();
  await away.gateway.event("partial-delivered", { round: "cut.1", outcome: "merged" });
  there.trainer.release();
  await finished(cloud.api, "cut");

  const rows = await firstOf(cloud.api.contributions("cut"), Number.POSITIVE_INFINITY);
  const updates = rows.find(({ device }) => device === far.device)?.updates ?? 0;
  assert.ok(updates >= 3, `${updates} site rounds`);
  assert.equal(away.gateway.count("partial-delivered"), 1);
  const model = expectedModel(startFrom(initialValues), [
    [near, 1],
    [far, updates],
  ]);
  assert.deepEqual(await weightsOf(cloud.api, "cut.1"), model.values);
  await assertAccounted("cut", audit);
  for (const site of sites) await site.close();
});

test("what a cut-off site did is in a later model when its round is over by then", async () => {
  const audit = join(floor.dir, "audit", "late");
  const sites = [await openSite("late-near", near, audit), await openSite("late-far", far, audit)];
  const [there, away] = sites as [(typeof sites)[0], (typeof sites)[0]];
  there.trainer.hold();
  away.trainer.hold();
  await cloud.api.startSession({
    ...sessionParams,
    name: "late",
    rounds: 2,
    offlineSiteRounds: 1_000,
    absentGraceMs: 0,
  });
  await until("both train", () => sites.every(({ trainer }) => trainer.asked.length === 1));
  away.wire.cut();
  await cloud.event("gateway-detached", { gateway: "late-far" });
  there.trainer.release();
  there.trainer.hold();
  await until("the next round trains", () => there.trainer.asked.includes("late.2.1"));
  await trainUntil(away.trainer, "late.1.4");
  away.wire.restore();
  await away.gateway.event("partial-delivered", { round: "late.1", outcome: "kept" });
  there.trainer.release();
  await finished(cloud.api, "late");

  const rows = await firstOf(cloud.api.contributions("late"), Number.POSITIVE_INFINITY);
  const [late] = rows.filter(({ device, round }) => device === far.device && round === 1);
  assert.equal(late?.model, "late.2");
  assert.ok((late?.updates ?? 0) >= 3);
  await assertAccounted("late", audit);
  for (const site of sites) await site.close();
});

test("a site that has handed over trains on when its link is cut, and all of it counts once", async () => {
  const audit = join(floor.dir, "audit", "on");
  const sites = [await openSite("on-near", near, audit), await openSite("on-far", far, audit)];
  const [there, away] = sites as [(typeof sites)[0], (typeof sites)[0]];
  there.trainer.hold();
  await cloud.api.startSession({
    ...sessionParams,
    name: "on",
    rounds: 2,
    offlineSiteRounds: 1_000,
    absentGraceMs: sessionParams.deadlineMs,
  });
  await away.gateway.event("partial-delivered", { round: "on.1", outcome: "merged" });
  for (const delivered of [2, 3]) {
    const asked = away.trainer.asked.length;
    away.wire.cut();
    await until("it trains on", () => away.trainer.asked.length >= asked + 3);
    away.wire.restore();
    const count = () => away.gateway.count("partial-delivered");
    await until("its stretch is delivered", () => count() === delivered);
  }
  // The round was open all the time, and waited for the other site only.
  const [open] = await firstOf(cloud.api.rounds("on"));
  assert.deepEqual([open?.id, open?.state], ["on.1", "open"]);
  there.trainer.release();
  await finished(cloud.api, "on");

  const rows = await firstOf(cloud.api.contributions("on"), Number.POSITIVE_INFINITY);
  const ofFar = rows.filter(({ device, round }) => device === far.device && round === 1);
  const [first, ...further] = ofFar;
  assert.deepEqual([first?.stretch, first?.updates, first?.model], [0, 1, "on.1"]);
  assert.equal(further.length, 2);
  for (const { stretch, updates, model } of further)
    assert.ok(stretch > 1 && updates >= 2 && model === "on.1", `${stretch} ${updates} ${model}`);
  await assertAccounted("on", audit);
  for (const site of sites) await site.close();
});

test("SIGKILL at a cut-off site, again and again, loses and doubles nothing", async () => {
  const wire = await floor.wire(cloud.grpcPort);
  const settings = gatewaySettings(floor.dir, "kill", "kill", wire.port, { absentGraceMs: 100 });
  const start = async () => {
    const tier = await floor.process("gateway", settings);
    const { port } = await tier.event("gateway-started");
    return { tier, port: Number(port) };
  };
  let gateway = await start();
  const link = await floor.wire(gateway.port);
  const trainer = createStepTrainer(far);
  const auditDir = join(floor.dir, "audit", "kill");
  const place = { site: "kill", mqttPort: link.port, trainer, auditDir };
  const device = await floor.device(far.device, place);
  await assembled(cloud.api, { kill: 1 });
  trainer.hold();
  await cloud.api.startSession({
    ...sessionParams,
    name: "kill",
    rounds: 1,
    offlineSiteRounds: 1_000,
    absentGraceMs: sessionParams.deadlineMs,
  });
  await until("it trains", () => trainer.asked.length === 1);
  wire.cut();
  trainer.release();
  for (let kills = 0; kills < 5; kills++) {
    const asked = trainer.asked.length;
    await until("further site rounds", () => trainer.asked.length >= asked + 2);
    await gateway.tier.end("SIGKILL");
    link.cut();
    // It boots without an uplink, on the model and the state that it has.
    gateway = await start();
    link.target = gateway.port;
    link.restore();
  }
  wire.restore();
  await finished(cloud.api, "kill");
  const rows = await firstOf(cloud.api.contributions("kill"), Number.POSITIVE_INFINITY);
  assert.equal(rows.length, 1);
  assert.ok((rows[0]?.updates ?? 0) >= 10);
  await assertAccounted("kill", auditDir);
  await device.close();
});
