import assert from "node:assert/strict";
import { test } from "node:test";
import { merge } from "@tributary/proto/algebra/partial.js";
import { aggregationSchema } from "./aggregation.js";
import { limits } from "./limits.js";
import { importInitialModel, paramsOf, startCloud, temporaryDir } from "./testing/cloud.js";
import { attachGateway, type TestGateway } from "./testing/gateway.js";
import { memoryStore } from "./testing/memory-store.js";
import { sumOf } from "./testing/rounds.js";
import { sharedCloud } from "./testing/shared-cloud.js";

const cloud = await sharedCloud({ store: memoryStore() });

/** Two gateways with a device each, for a session of its own. */
async function openSession(over: Parameters<typeof paramsOf>[0] & { name: string }) {
  const attach = (id: string) => attachGateway(cloud.grpcPort, { id: `${over.name}-${id}` });
  const [one, two] = await Promise.all([attach("one"), attach("two")]);
  one.devices(`${over.name}-a`);
  two.devices(`${over.name}-b`);
  const started = await cloud.sessions.start(paramsOf({ devicesMin: 2, ...over }));
  assert.ok(started.ok, JSON.stringify(started));
  const empty = (gateway: TestGateway, round: string) =>
    gateway.send({
      $case: "roundProgress",
      value: { round, offered: 0, folded: 0, declined: 0, sealed: true },
    });
  const finished = () =>
    cloud.event((event) => event.name === "session-finished" && event.session === over.name);
  const fates = async () => {
    const { items } = await cloud.store.listContributions({ session: over.name }, { limit: 100 });
    return items.map((row) => `${row.round} ${row.device.at(-1)} ${row.model ?? row.rule}`);
  };
  const close = async () => {
    one.close();
    two.close();
    for (const { id } of [one, two])
      await cloud.event((event) => event.name === "gateway-detached" && event.gateway === id);
  };
  return { one, two, empty, finished, fates, close };
}

test("a buffered session makes a model of K contributions, those of earlier rounds that ride along included", async () => {
  const aggregation = aggregationSchema.parse({ kind: "buffered", contributors: 3 });
  const session = await openSession({ name: "buf", rounds: 1, aggregation });
  const { one, two } = session;
  const [first, missed] = [await one.round(), await two.round()];
  assert.equal(first.plan.finishFirst, true);
  await one.contribute(first, 1);
  session.empty(two, missed.plan.round);
  assert.deepEqual(await one.next("roundClosed"), { round: "buf.1", outcome: "kept" });
  assert.equal((await cloud.store.round("buf.1"))?.rule, "contributors");
  assert.equal(cloud.sessions.status("buf")?.kept.contributions, 1);

  const second = await two.round();
  assert.equal(second.plan.base.model, first.plan.base.model);
  const site = two.id;
  const late = sumOf(missed.plan, { "buf-b": 2 }, { site });
  const both = merge(late, sumOf(second.plan, { "buf-b": 2 }, { site }), 1_000n);
  assert.ok(both.ok);
  assert.equal((await two.deliver(both.partial, 1)).receipt?.outcome, "merged");
  await session.finished();
  assert.deepEqual(await session.fates(), ["1 a buf.2", "1 b buf.2", "2 b buf.2"]);
  const model = await cloud.store.model("buf.2");
  assert.deepEqual(
    model?.groups?.map(({ base, age, samples }) => [base, age, samples]),
    [["s.0", 0, 6]],
  );
  await session.close();
});

test("site memory holds a site's newest delta, carries it on, and expires what is replaced unused", async () => {
  const populations = { "mem-one": 3, "mem-two": 1 };
  const aggregation = aggregationSchema.parse({ kind: "site-memory", populations });
  const session = await openSession({ name: "mem", rounds: 4, aggregation });
  const { one, two } = session;
  const together = [await one.round(), await two.round()] as const;
  assert.equal(together[0].plan.perSite, true);
  await one.contribute(together[0], 1);
  await two.contribute(together[1], 1);
  // The second round misses site two, whose delta goes on; the third too.
  const missed = await two.round();
  await one.contribute(await one.round(), 2);
  session.empty(two, missed.plan.round);
  const third = [await one.round(), await two.round()] as const;
  // What comes late for the second, and then for the third, is not in a model before the fourth.
  await one.contribute(third[0], 3);
  session.empty(two, third[1].plan.round);
  const fourth = [await one.round(), await two.round()] as const;
  assert.equal((await two.contribute(missed, 2)).receipt?.outcome, "kept");
  assert.equal((await two.contribute(third[1], 3)).receipt?.outcome, "kept");
  await one.contribute(fourth[0], 4);
  session.empty(two, fourth[1].plan.round);
  await session.finished();
  assert.deepEqual(await session.fates(), [
    "1 a mem.1",
    "1 b mem.1",
    "2 a mem.2",
    "2 b superseded",
    "3 a mem.3",
    "3 b mem.4",
    "4 a mem.4",
  ]);
  const groupsOf = async (model: string) =>
    (await cloud.store.model(model))?.groups?.map((group) => [
      group.site,
      group.base,
      group.coefficient,
      group.carried,
    ]);
  assert.deepEqual(await groupsOf("mem.1"), [
    ["mem-one", "s.0", 0.75, 0],
    ["mem-two", "s.0", 0.25, 0],
  ]);
  assert.deepEqual(await groupsOf("mem.3"), [
    ["mem-two", "s.0", 0.25 * 2 ** (-2 / 10), 1],
    ["mem-one", "mem.2", 0.75, 0],
  ]);
  assert.deepEqual(await groupsOf("mem.4"), [
    ["mem-two", "mem.2", 0.25 * 2 ** (-1 / 10), 0],
    ["mem-one", "mem.3", 0.75, 0],
  ]);
  const { contributors, weight } = (await cloud.store.model("mem.3")) ?? {};
  assert.deepEqual([contributors, weight], [1, 2], "what is carried was counted before");
  assert.equal((await cloud.store.retainedPartials("mem")).length, 0);
  await session.close();
});

test("a stopped session carries on what its sites delivered when it is resumed, one that finishes lets go", async () => {
  for (const restarts of [false, true]) {
    const { dir, remove } = await temporaryDir();
    const store = memoryStore();
    let own = await startCloud(dir, { store });
    await importInitialModel(own);
    const attach = async () => {
      const two = await attachGateway(own.grpcPort, { id: "two" });
      const one = await attachGateway(own.grpcPort, { id: "one" });
      two.devices("b");
      one.devices("a");
      return [one, two] as const;
    };
    let [one, two] = await attach();
    const populations = { one: 1, two: 1 };
    const aggregation = aggregationSchema.parse({ kind: "site-memory", populations });
    await own.sessions.start(paramsOf({ rounds: 3, devicesMin: 2, aggregation }));
    const empty = (round: string) =>
      two.send({
        $case: "roundProgress",
        value: { round, offered: 0, folded: 0, declined: 0, sealed: true },
      });
    await one.contribute(await one.round(), 1);
    await two.contribute(await two.round(), 1);
    const missed = await two.round();
    await one.contribute(await one.round(), 2);
    empty(missed.plan.round);
    // What came late and is in no model ends with the stop; what models hold does not.
    const third = await one.round();
    assert.equal(third.plan.round, "s.3");
    assert.equal((await two.contribute(missed, 2)).receipt?.outcome, "kept");
    const stopped = await own.sessions.stop("s");
    assert.ok(stopped.ok);
    assert.deepEqual(
      [stopped.session.kept.carried, stopped.session.kept.partials, stopped.session.counts.expired],
      [2, 0, 1],
    );
    const fates = async () => {
      const { items } = await store.listContributions({ session: "s" }, { limit: 100 });
      return items.map((row) => `${row.round} ${row.device} ${row.model ?? row.rule}`);
    };
    assert.deepEqual(await fates(), ["1 a s.1", "1 b s.1", "2 a s.2", "2 b session-ended"]);
    if (restarts) {
      for (const gateway of [one, two]) gateway.close();
      await own.close();
      own = await startCloud(dir, { store });
      assert.equal(own.sessions.status("s")?.kept.carried, 2);
      [one, two] = await attach();
      await own.event((event) => event.name === "devices-changed" && event.gateway === "one");
    }
    const resumed = await own.sessions.resume("s");
    assert.ok(resumed.ok && resumed.session.kept.carried === 2);
    const round = await one.round();
    assert.equal(round.plan.round, "s.4");
    await one.contribute(round, 4);
    empty("s.4");
    await own.event(({ name }) => name === "session-finished");
    assert.deepEqual(
      (await store.model("s.4"))?.groups?.map(({ site, base, age, carried }) => [
        site,
        base,
        age,
        carried,
      ]),
      [
        ["two", "s.0", 2, 1],
        ["one", "s.2", 0, 0],
      ],
    );
    assert.deepEqual(await store.retainedPartials("s"), []);
    for (const gateway of [one, two]) gateway.close();
    await own.close();
    await remove();
  }
});

test("a buffered session whose K does not fit totalMax goes on: a model holds what fits", async () => {
  const aggregation = aggregationSchema.parse({ kind: "buffered", contributors: 5 });
  const sizes = { nMax: 5, totalMax: 5 };
  const session = await openSession({ name: "fit", rounds: 2, aggregation, ...sizes });
  const { one, two } = session;
  const bases: string[] = [];
  for (let round = 1; round <= 6; round++) {
    const opened = await one.round();
    bases.push(opened.plan.base.model);
    assert.equal((await one.contribute(opened, round)).receipt?.outcome, "merged");
    session.empty(two, (await two.round()).plan.round);
  }
  await session.finished();
  assert.deepEqual(bases, ["s.0", "s.0", "s.0", "fit.3", "fit.3", "fit.3"]);
  // The third round fills the buffer; what has no room waits for the model after.
  assert.deepEqual(await session.fates(), [
    "1 a fit.3",
    "2 a fit.6",
    "3 a fit.3",
    "4 a fit.6",
    "5 a session-ended",
    "6 a fit.6",
  ]);
  assert.deepEqual(await cloud.store.retainedPartials("fit"), []);
  await session.close();
});

/** Runs with a smaller bound on what one session keeps. */
async function keepingAtMost(latePartials: number, run: () => Promise<void>): Promise<void> {
  const before = limits.latePartials;
  Object.assign(limits, { latePartials });
  try {
    await run();
  } finally {
    Object.assign(limits, { latePartials: before });
  }
}

test("a buffered session that may keep no more makes its model of what it has", () =>
  keepingAtMost(2, async () => {
    const aggregation = aggregationSchema.parse({ kind: "buffered", contributors: 100 });
    const session = await openSession({ name: "full", rounds: 2, aggregation });
    const { one, two } = session;
    const [first, missed] = [await one.round(), await two.round()];
    await one.contribute(first, 1);
    session.empty(two, missed.plan.round);
    const second = await one.round();
    assert.equal(second.plan.base.model, "s.0");
    // One is kept, and a second is all that may be: it is the model's at once.
    await one.contribute(second, 2);
    const third = await one.round();
    assert.equal(third.plan.base.model, "full.2");
    assert.equal((await two.contribute(missed, 1)).receipt?.outcome, "kept");
    await one.contribute(third, 3);
    await session.finished();
    assert.deepEqual(await session.fates(), [
      "1 a full.2",
      "1 b full.3",
      "2 a full.2",
      "3 a full.3",
    ]);
    await session.close();
  }));

test("site memory keeps no more than it may: the rest of a failed round expires, of a made one is not carried", () =>
  keepingAtMost(1, async () => {
    const aggregation = aggregationSchema.parse({ kind: "site-memory" });
    const session = await openSession({ name: "most", rounds: 1, sitesQuorum: 2, aggregation });
    const { one, two } = session;
    for (const sequence of [1, 2]) {
      const [opened, missed] = [await one.round(), await two.round()];
      await one.contribute(opened, sequence);
      session.empty(two, missed.plan.round);
      await one.next("roundClosed");
      assert.equal(cloud.sessions.status("most")?.kept.partials, 1);
    }
    const last = [await one.round(), await two.round()] as const;
    await one.contribute(last[0], 3);
    await two.contribute(last[1], 3);
    await session.finished();
    assert.deepEqual(await session.fates(), [
      "1 a most.3",
      "2 a storage-full",
      "3 a most.3",
      "3 b most.3",
    ]);
    const told = cloud.events.flatMap((event) => {
      if (event.name === "partial-expired") return [`${event.gateway} ${event.rule}`];
      return event.name === "site-forgotten" ? [`${event.site} forgotten`] : [];
    });
    assert.deepEqual(
      told.filter((words) => words.startsWith("most-")),
      ["most-one storage-full", "most-one forgotten", "most-two forgotten"],
    );
    await session.close();
  }));
