import assert from "node:assert/strict";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { CODE_KEY } from "@tributary/proto/tier/grpc-status.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { aggregationSchema } from "./aggregation.js";
import type { CloudOptions } from "./cloud.js";
import { limits } from "./limits.js";
import { persistently } from "./session-record.js";
import {
  importInitialModel,
  paramsOf,
  startCloud,
  type TestCloud,
  temporaryDir,
} from "./testing/cloud.js";
import { failingDisk } from "./testing/disk.js";
import { attachGateway, type TestGateway } from "./testing/gateway.js";
import { memoryStore } from "./testing/memory-store.js";

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

/** A session with three gateways of one device each, and its first round. */
async function openedSession(dir: string, of = params, parts: Partial<CloudOptions> = {}) {
  const disk = failingDisk(dir);
  const cloud = await startCloud(dir, { ...parts, disk });
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
  await cloud.sessions.start(of);
  for (const gateway of gateways) rounds.push(await gateway.round());
  const [one, two, three] = gateways as [TestGateway, TestGateway, TestGateway];
  const [first, second, third] = rounds as [Round, Round, Round];
  return { disk, cloud, gateways, one, two, three, first, second, third };
}

/** A session that breaks down with two of three Partials in its round. */
async function brokenSession(dir: string) {
  const session = await openedSession(dir);
  const { disk, cloud, one, two, three, first, second } = session;
  disk.failure = new TributaryError("disk-failed", "an I/O error");
  const receipts = [await one.contribute(first, 1), await two.contribute(second, 1)];
  three.detach();
  await cloud.event(({ name }) => name === "session-failed");
  disk.failure = undefined;
  return { ...session, receipts };
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

/** A session that made s.1, keeps a late Partial of it, and broke down with two in s.2. */
async function brokenInSecond(dir: string, parts: Partial<CloudOptions> = {}) {
  const session = await openedSession(dir, { ...params, rounds: 2 }, parts);
  const { disk, cloud, gateways, one, two, three, first, second, third } = session;
  three.detach();
  await one.contribute(first, 1);
  await two.contribute(second, 1);
  await cloud.event((event) => event.name === "round-closed" && event.round === "s.1");
  const back = await attachGateway(cloud.grpcPort, { id: "g3", rounds: ["s.1"] });
  gateways.push(back);
  assert.equal((await back.contribute(third, 1)).receipt?.outcome, "kept");
  back.devices("c");
  const [next, other] = [await one.round(), await two.round()];
  await back.round();
  disk.failure = new TributaryError("disk-failed", "an I/O error");
  await one.contribute(next, 2);
  await two.contribute(other, 2);
  back.detach();
  await cloud.event(({ name }) => name === "session-failed");
  disk.failure = undefined;
  return { ...session, next };
}

async function fatesOf(cloud: TestCloud) {
  const { items } = await cloud.store.listContributions({ session: "s" }, { limit: 100 });
  return items.map(({ round, device, rule, model }) => `${round} ${device} ${model ?? rule}`);
}

test("a failed session stops: what it keeps and what its open round received expires by rule", async () => {
  const { dir, remove } = await temporaryDir();
  for (const restarts of [false, true]) {
    const data = join(dir, String(restarts));
    await mkdir(data);
    const broken = await brokenInSecond(data);
    let { cloud, one } = broken;
    if (restarts) {
      for (const gateway of broken.gateways) gateway.close();
      await cloud.close();
      cloud = await startCloud(data);
      one = await attachGateway(cloud.grpcPort, { id: "g1", rounds: ["s.2"] });
    }
    const stopped = await cloud.sessions.stop("s");
    assert.ok(stopped.ok && stopped.session.state === "stopped", JSON.stringify(stopped));
    assert.deepEqual(
      [stopped.session.round, stopped.session.kept.partials, stopped.session.kept.bytes],
      [null, 0, 0],
    );
    assert.deepEqual(await one.next("roundClosed", ({ round }) => round === "s.2"), {
      round: "s.2",
      outcome: "stopped",
    });
    const fates = ["1 a s.1", "1 b s.1", "1 c session-ended", "2 a stopped", "2 b stopped"];
    assert.deepEqual(await fatesOf(cloud), fates);
    assert.deepEqual([stopped.session.counts.merged, stopped.session.counts.expired], [2, 3]);
    assert.deepEqual(await cloud.store.retainedPartials("s"), []);
    assert.equal((await one.contribute(broken.next, 2)).receipt?.rule, "stopped");
    const again = await cloud.sessions.stop("s");
    assert.equal(again.ok ? "ok" : again.code, "wrong-state");
    for (const gateway of [...broken.gateways, one]) gateway.close();
    await cloud.close();
  }
  await remove();
});

test("a session that failed of its rounds stops, and what they left expires", async () => {
  const { dir, remove } = await temporaryDir();
  const aggregation = aggregationSchema.parse({ kind: "site-memory" });
  const of = { ...params, sitesQuorum: 3, failedRoundsMax: 1, aggregation };
  const { cloud, gateways, one, two, three, first } = await openedSession(dir, of);
  await one.contribute(first, 1);
  for (const gateway of [two, three]) {
    const figures = { offered: 1, folded: 0, declined: 1, sealed: true };
    gateway.send({ $case: "roundProgress", value: { round: "s.1", ...figures } });
  }
  await cloud.event(({ name }) => name === "session-failed");
  assert.equal(cloud.sessions.status("s")?.kept.partials, 1, "for when it is resumed");
  const stopped = await cloud.sessions.stop("s");
  assert.ok(stopped.ok && stopped.session.state === "stopped");
  assert.deepEqual(await fatesOf(cloud), ["1 a session-ended"]);
  assert.deepEqual(await cloud.store.retainedPartials("s"), []);
  for (const gateway of gateways) gateway.close();
  await cloud.close();
  await remove();
});

test("a model activated on a failed session stays its head: the round that it left open is stopped", async () => {
  const { dir, remove } = await temporaryDir();
  for (const restarts of [false, true]) {
    const data = join(dir, String(restarts));
    await mkdir(data);
    const broken = await brokenInSecond(data);
    let { cloud, one, two } = broken;
    const activated = await cloud.sessions.activate("s.0", "s");
    assert.ok(activated.ok && activated.session.head === "s.0");
    assert.equal(activated.session.state, "failed");
    if (restarts) {
      for (const gateway of broken.gateways) gateway.close();
      await cloud.close();
      cloud = await startCloud(data);
      assert.equal(cloud.sessions.status("s")?.head, "s.0");
      one = await attachGateway(cloud.grpcPort, { id: "g1", rounds: ["s.2"] });
      two = await attachGateway(cloud.grpcPort, { id: "g2", rounds: ["s.2"] });
    }
    const three = await attachGateway(cloud.grpcPort, { id: "g3" });
    three.devices("c");
    if (restarts) {
      one.devices("a");
      two.devices("b");
    }
    const resumed = await cloud.sessions.resume("s");
    assert.ok(resumed.ok && resumed.session.head === "s.0", JSON.stringify(resumed));
    assert.deepEqual(await one.next("roundClosed", ({ round }) => round === "s.2"), {
      round: "s.2",
      outcome: "stopped",
    });
    const [third] = [await one.round(), await two.round(), await three.round()];
    assert.deepEqual([third.plan.round, third.plan.base.model], ["s.3", "s.0"]);
    await one.contribute(third, 3);
    three.detach();
    const opened = { ...third.opened, roster: ["b"] };
    await two.contribute({ plan: third.plan, opened }, 3);
    await cloud.event(({ name }) => name === "session-finished");
    const model = await cloud.store.model("s.3");
    assert.deepEqual([model?.parent, model?.version], ["s.0", 1]);
    assert.deepEqual((await fatesOf(cloud)).slice(3), [
      "2 a stopped",
      "2 b stopped",
      "3 a s.3",
      "3 b s.3",
    ]);
    for (const gateway of [...broken.gateways, one, two, three]) gateway.close();
    await cloud.close();
  }
  await remove();
});

test("a full disk is waited for: the session goes on once there is room", async () => {
  const { dir, remove } = await temporaryDir();
  const { disk, cloud, gateways, one, two, three, first, second, third } = await openedSession(dir);
  disk.failure = new TributaryError("disk-full", "no space", { retryable: true });
  await one.contribute(first, 1);
  await two.contribute(second, 1);
  await three.contribute(third, 1);
  await cloud.event((event) => event.name === "storage-failed" && event.what === "disk");
  // What it is asked meanwhile is answered, and done once there is room.
  const stopped = await cloud.sessions.stop("s");
  assert.ok(stopped.ok && stopped.session.state === "running");
  assert.equal(stopped.session.reason, "no space");
  disk.failure = undefined;
  await eachCountsOnce(cloud);
  for (const gateway of gateways) gateway.close();
  await cloud.close();
  await remove();
});

test("a cloud closes while a session waits for room, and goes on at the next start", async () => {
  const { dir, remove } = await temporaryDir();
  const { disk, cloud, gateways, one, two, three, first, second, third } = await openedSession(dir);
  disk.failure = new TributaryError("disk-full", "no space", { retryable: true });
  await one.contribute(first, 1);
  await two.contribute(second, 1);
  await three.contribute(third, 1);
  await cloud.event((event) => event.name === "storage-failed" && event.what === "disk");
  for (const gateway of gateways) gateway.close();
  await cloud.close();
  const next = await startCloud(dir);
  await eachCountsOnce(next);
  await next.close();
  await remove();
});

test("a write is tried without end while the disk is full, else a bounded number of times", async () => {
  const clock = createManualClock();
  const closing = new AbortController();
  // Time passes as soon as the pause begins.
  const events = () => void setImmediate(() => clock.advance(limits.retryMaxMs));
  let tries = 0;
  const failing = (failure: TributaryError, times: number) => {
    tries = 0;
    return persistently({ clock, events }, closing.signal, async () => {
      if (++tries <= times) throw failure;
    });
  };
  const full = new TributaryError("disk-full", "no space", { retryable: true });
  const broken = new TributaryError("store-failed", "no answer", { retryable: true });
  await failing(full, limits.retries + 5);
  assert.equal(tries, limits.retries + 6);
  await failing(broken, limits.retries);
  await assert.rejects(failing(broken, limits.retries + 1), { code: "store-failed" });
  assert.equal(tries, limits.retries + 1);
});

/** Breaks a byte in the first record of a journal that holds two, whose header stays as it is. */
async function breakJournal(path: string): Promise<Buffer> {
  const bytes = await readFile(path);
  const first = 24 + 28;
  const at = first + bytes.readUInt32LE(24 + 8) - 1;
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
  await writeFile(path, bytes);
  return bytes;
}

test("a failed session stops although its open round's journal is damaged: what cannot be read is named and kept", async () => {
  const { dir, remove } = await temporaryDir();
  for (const restarts of [false, true]) {
    const data = join(dir, String(restarts));
    await mkdir(data);
    const store = memoryStore();
    const broken = await brokenInSecond(data, { store });
    let { cloud } = broken;
    const path = join(data, "rounds/s.2.journal");
    if (restarts) {
      for (const gateway of broken.gateways) gateway.close();
      await cloud.close();
    }
    const damaged = await breakJournal(path);
    if (restarts) cloud = await startCloud(data, { store });
    const resumed = await cloud.sessions.resume("s");
    assert.ok(resumed.ok && resumed.session.state === "failed");
    assert.match(resumed.session.reason ?? "", /s\.2\.journal is damaged at byte 24/);
    const stopped = await cloud.sessions.stop("s");
    assert.ok(stopped.ok && stopped.session.state === "stopped", JSON.stringify(stopped));

    // A cloud that took them knows them without the journal; another one what can be read of it.
    const fates = ["1 a s.1", "1 b s.1", "1 c session-ended", "2 a stopped", "2 b stopped"];
    const expected = restarts ? fates.filter((fate) => fate !== "2 a stopped") : fates;
    assert.deepEqual(await fatesOf(cloud), expected);
    const told = cloud.events.find(({ name }) => name === "journal-damaged");
    assert.ok(told?.name === "journal-damaged");
    assert.equal(told.path, "rounds/s.2.journal");
    assert.match(told.gaps, /^byte 24 \(\d+ bytes\)$/);
    assert.equal(told.partials, restarts ? 1 : 2);
    assert.match(told.unread, restarts ? /^g1\./ : /^$/);
    const rule = `stopped; rounds/s.2.journal was damaged at ${told.gaps}: see ${told.aside}`;
    const round = await cloud.store.round("s.2");
    assert.deepEqual([round?.state, round?.rule], ["stopped", rule]);
    assert.match(told.aside, /^damaged\/s\.2\.journal\.damaged$/);
    assert.deepEqual(await readFile(join(data, told.aside)), damaged);

    for (const gateway of broken.gateways) gateway.close();
    await cloud.close();
    const next = await startCloud(data, { store });
    assert.deepEqual(await readdir(join(data, "rounds")), []);
    assert.deepEqual(await readFile(join(data, told.aside)), damaged);
    const again = await next.sessions.resume("s");
    assert.ok(again.ok && again.session.state === "running");
    await next.close();
  }
  await remove();
});
