import assert from "node:assert/strict";
import { test } from "node:test";
import { meanFloat64 } from "@tributary/proto/algebra/partial.js";
import { aggregationSchema } from "./aggregation.js";
import { startOptimizer } from "./optimizer.js";
import { optimizerSchema } from "./params.js";
import { makeCandidate } from "./reduce.js";
import {
  importInitialModel,
  paramsOf,
  startCloud,
  type TestCloud,
  temporaryDir,
} from "./testing/cloud.js";
import { attachGateway } from "./testing/gateway.js";
import { forkCloud } from "./testing/process.js";
import { initialValues, plan, sumOf } from "./testing/rounds.js";

const optimizer = optimizerSchema.parse({ kind: "fedadam" });

/** The weights after some rounds of quarter-steps, computed without a cloud. */
function expectedValues(rounds: number): number[] {
  let state = startOptimizer(optimizer, Float64Array.from(initialValues));
  for (let i = 0; i < rounds; i++)
    ({ state } = makeCandidate(optimizer, state, meanFloat64(sumOf(plan(), { a: 1 }))));
  return [...Float32Array.from(state.weights)];
}

test("a session goes on after SIGKILL in mid-round: nothing receipted is lost or counted twice", async () => {
  const { dir, remove } = await temporaryDir();
  const params = paramsOf({
    rounds: 3,
    sitesQuorum: 2,
    devicesMin: 3,
    absentGraceMs: 60_000,
    deadlineMs: 120_000,
    optimizer,
  });

  const first = await forkCloud(dir);
  let one = await attachGateway(first.grpcPort, { id: "g1" });
  let two = await attachGateway(first.grpcPort, { id: "g2" });
  one.devices("a", "b");
  two.devices("c");
  await first.start(params);
  for (const gateway of [one, two]) await gateway.contribute(await gateway.round(), 1);
  const firstHalf = await one.round();
  await two.round();
  const receipt = await one.contribute(firstHalf, 2);
  assert.equal(receipt.receipt?.outcome, "merged");
  await first.kill();
  one.close();
  two.close();

  const second = await forkCloud(dir);
  const resumed = await second.status("s");
  assert.equal(resumed?.head, "s.1");
  assert.equal(resumed?.round?.id, "s.2");
  assert.deepEqual(
    resumed?.round?.gateways.map(({ gateway, standing }) => [gateway, standing]),
    [
      ["g1", "delivered"],
      ["g2", "waiting"],
    ],
  );
  one = await attachGateway(second.grpcPort, { id: "g1", rounds: ["s.2"] });
  two = await attachGateway(second.grpcPort, { id: "g2", rounds: ["s.2"] });
  one.devices("a", "b");
  two.devices("c");
  assert.deepEqual(await one.contribute(firstHalf, 2), receipt, "the same receipt again");
  const offered = await two.round();
  assert.equal(offered.plan.round, "s.2");
  assert.deepEqual(offered.opened.roster, ["c"]);
  await two.contribute(offered, 2);
  assert.deepEqual(await two.next("roundClosed"), { round: "s.2", outcome: "committed" });
  const third = await one.round();
  await second.kill();
  one.close();
  two.close();

  const cloud = await startCloud(dir);
  one = await attachGateway(cloud.grpcPort, { id: "g1", rounds: [] });
  two = await attachGateway(cloud.grpcPort, { id: "g2", rounds: [] });
  assert.deepEqual((await one.round()).plan, third.plan, "a plan keeps its bytes");
  await one.contribute(third, 3);
  await two.contribute(await two.round(), 3);
  await cloud.event(({ name }) => name === "session-finished");

  const view = cloud.sessions.status("s");
  assert.deepEqual(view?.counts, { models: 3, rounds: 3, failedRounds: 0, merged: 9, expired: 0 });
  assert.deepEqual([...(await cloud.models.values("s.3"))], expectedValues(3));
  const { items } = await cloud.store.listContributions({ session: "s" }, { limit: 100 });
  assert.deepEqual(
    items.map(({ round, device, outcome, model }) => `${round} ${device} ${outcome} ${model}`),
    [1, 2, 3].flatMap((n) => ["a", "b", "c"].map((device) => `${n} ${device} model s.${n}`)),
  );
  one.close();
  two.close();
  await cloud.close();
  await remove();
});

test("a round whose deadline passed while the cloud was away still takes what comes at once", async () => {
  const { dir, remove } = await temporaryDir();
  const first = await forkCloud(dir);
  const gateway = await attachGateway(first.grpcPort, { id: "g1" });
  gateway.devices("a");
  await first.start(
    paramsOf({ rounds: 1, deadlineMs: 3_000, uploadWindowMs: 10, absentGraceMs: 2_500 }),
  );
  const round = await gateway.round();
  await first.kill();
  gateway.close();
  const openedAtMs = Date.now();
  const second = await startCloud(dir);
  const view = second.sessions.status("s");
  assert.ok((view?.round?.deadlineAtMs ?? 0) >= openedAtMs + 2_500);
  const back = await attachGateway(second.grpcPort, { id: "g1", rounds: ["s.1"] });
  const state = await back.contribute(round, 1);
  assert.equal(state.receipt?.outcome, "merged");
  await second.event(({ name }) => name === "session-finished");
  back.close();
  await second.close();
  await remove();
});

test("a graceful stop leaves an open round open, and the fleet is remembered as away", async () => {
  const { dir, remove } = await temporaryDir();
  const first = await forkCloud(dir);
  const gateway = await attachGateway(first.grpcPort, { id: "g1", site: "plant" });
  gateway.devices("a");
  await first.start(paramsOf({ rounds: 1 }));
  const round = await gateway.round();
  await first.stop();
  gateway.close();
  const second = await startCloud(dir);
  assert.equal(second.sessions.status("s")?.round?.id, "s.1");
  const { items: gateways } = await second.store.listGateways({ limit: 10 });
  assert.deepEqual(
    gateways.map(({ id, site, attached }) => [id, site, attached]),
    [["g1", "plant", false]],
  );
  const { items: devices } = await second.store.listDevices({}, { limit: 10 });
  assert.deepEqual(
    devices.map(({ id, site, connected }) => [id, site, connected]),
    [["a", "plant", false]],
  );
  const back = await attachGateway(second.grpcPort, { id: "g1", site: "plant" });
  assert.equal((await back.contribute(round, 1)).receipt?.outcome, "merged");
  await second.event(({ name }) => name === "session-finished");
  back.close();
  await second.close();
  await remove();
});

test("a gateway of several sites is waited for after a restart until it has brought what it said it has", async () => {
  const { dir, remove } = await temporaryDir();
  const first = await startCloud(dir);
  await importInitialModel(first);
  const attach = (cloud: TestCloud) =>
    attachGateway(cloud.grpcPort, { id: "region", rounds: ["s.1"] });
  const before = await attach(first);
  const sites = ["north", "south", "west"] as const;
  const sdk = { sdk: "test", attributes: Buffer.alloc(0) };
  const joined = sites.map((site) => ({ device: `at-${site}`, ...sdk, site, gateway: site }));
  before.send({ $case: "devicesChanged", value: { all: true, joined, left: [] } });
  const aggregation = aggregationSchema.parse({ kind: "site-memory" });
  await first.sessions.start(
    paramsOf({ rounds: 1, devicesMin: 3, absentGraceMs: 60_000, aggregation }),
  );
  const { plan } = await before.round();
  const partOf = (site: string) => sumOf(plan, { [`at-${site}`]: 1 }, { site });
  const figures = { offered: 3, folded: 3, declined: 0, sealed: true };
  before.send({ $case: "roundProgress", value: { round: "s.1", ...figures } });
  await first.event((e) => e.name === "round-progress" && e.gateway === "region");
  assert.equal((await before.deliver(partOf("north"), 1)).receipt?.outcome, "merged");
  before.close();
  await first.close();

  const second = await startCloud(dir);
  const standings = second.sessions.status("s")?.round?.gateways.map(({ standing }) => standing);
  assert.deepEqual(standings, ["waiting"]);
  const back = await attach(second);
  assert.equal((await back.deliver(partOf("south"), 2)).receipt?.outcome, "merged");
  assert.equal((await back.deliver(partOf("west"), 3)).receipt?.outcome, "merged");
  await second.event(({ name }) => name === "session-finished");
  const model = await second.store.model("s.1");
  assert.deepEqual(
    model?.groups?.map(({ site }) => site),
    [...sites],
  );
  back.close();
  await second.close();
  await remove();
});
