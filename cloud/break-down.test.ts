import assert from "node:assert/strict";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { CODE_KEY } from "./grpc-status.js";
import {
  importInitialModel,
  paramsOf,
  startCloud,
  type TestCloud,
  temporaryDir,
} from "./testing/cloud.js";
import { failingDisk } from "./testing/disk.js";
import { attachGateway, type TestGateway } from "./testing/gateway.js";

const params = paramsOf({ rounds: 1, sitesQuorum: 1, devicesMin: 3, absentGraceMs: 0 });

type Round = Awaited<ReturnType<TestGateway["round"]>>;

async function isRefusedForNow(gateway: TestGateway, round: Round) {
  await assert.rejects(
    gateway.contribute(round, 1),
    (error: { code?: number; metadata?: { get(key: string): unknown[] } }) =>
      error.code === status.RESOURCE_EXHAUSTED && error.metadata?.get(CODE_KEY)[0] === "busy",
  );
}

async function eachCountsOnce(cloud: TestCloud) {
  await cloud.event(({ name }) => name === "session-finished");
  const { items } = await cloud.store.listContributions({ session: "s" }, { limit: 100 });
  const fates = items.map(({ device, outcome }) => `${device} ${outcome}`).sort();
  assert.deepEqual(fates, ["a model", "b model", "c model"]);
}

/** A session that breaks down with two of three Partials in its round. */
async function brokenSession(dir: string) {
  const disk = failingDisk(dir);
  const cloud = await startCloud(dir, { disk });
  await importInitialModel(cloud);
  const gateways: TestGateway[] = [];
  const rounds: Round[] = [];
  for (const [id, device] of [
    ["g1", "a"],
    ["g2", "b"],
    ["g3", "c"],
  ] as const) {
    const gateway = await attachGateway(cloud.grpcPort, { id });
    gateway.devices(device);
    gateways.push(gateway);
  }
  await cloud.sessions.start(params);
  for (const gateway of gateways) rounds.push(await gateway.round());
  const [one, two, three] = gateways as [TestGateway, TestGateway, TestGateway];
  const [first, second, third] = rounds as [Round, Round, Round];
  disk.failure = new TributaryError("disk-failed", "an I/O error");
  const receipts = [await one.contribute(first, 1), await two.contribute(second, 1)];
  three.detach();
  await cloud.event(({ name }) => name === "session-failed");
  disk.failure = undefined;
  return { cloud, gateways, one, three, first, third, receipts };
}

test("what comes for the round of a session that broke down is kept by its sender, and counts once", async () => {
  const { dir, remove } = await temporaryDir();
  const { cloud, gateways, one, three, first, third, receipts } = await brokenSession(dir);
  assert.deepEqual(await one.contribute(first, 1), receipts[0], "the receipt from before");
  await isRefusedForNow(three, third);

  const back = await attachGateway(cloud.grpcPort, { id: "g3", rounds: ["s.1"] });
  gateways.push(back);
  await cloud.sessions.resume("s");
  // The two that are held make the quorum, but a gateway that is attached is waited for.
  assert.equal((await back.contribute(third, 1)).receipt?.outcome, "merged");
  await eachCountsOnce(cloud);
  for (const gateway of gateways) gateway.close();
  await cloud.close();
  await remove();
});

test("a cloud that starts with a failed session knows what its open round received", async () => {
  const { dir, remove } = await temporaryDir();
  const before = await brokenSession(dir);
  for (const gateway of before.gateways) gateway.close();
  await before.cloud.close();

  const cloud = await startCloud(dir);
  assert.equal(cloud.sessions.status("s")?.state, "failed");
  const one = await attachGateway(cloud.grpcPort, { id: "g1", rounds: ["s.1"] });
  const three = await attachGateway(cloud.grpcPort, { id: "g3", rounds: ["s.1"] });
  assert.deepEqual(await one.contribute(before.first, 1), before.receipts[0]);
  const other = await one.contribute(before.first, 1, { samples: 3 });
  assert.equal(other.refusal?.code, "partial-conflict");
  await isRefusedForNow(three, before.third);
  await cloud.sessions.resume("s");
  assert.equal((await three.contribute(before.third, 1)).receipt?.outcome, "merged");
  await eachCountsOnce(cloud);
  one.close();
  three.close();
  await cloud.close();
  await remove();
});
