import assert from "node:assert/strict";
import { test } from "node:test";
import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { paramsOf } from "./testing/cloud.js";
import { sumOf } from "./testing/rounds.js";
import { gatewayWith, sharedCloud } from "./testing/shared-cloud.js";

const cloud = await sharedCloud();

/** One sample of each contribution, by its round. */
function sumOfRounds(plan: Plan, site: string, device: string, rounds: readonly string[]): Sum {
  const sums = rounds.map((round) => sumOf({ ...plan, round }, { [device]: 1 }, { site }));
  const [first] = sums as [Sum, ...Sum[]];
  return {
    ...first,
    weight: BigInt(sums.length),
    contributors: sums.flatMap(({ contributors }) => contributors),
    sum: first.sum.map((value) => value * BigInt(sums.length)),
  };
}

const aggregations = {
  sync: { kind: "sync", staleness: { kind: "constant" }, maxStaleness: 20 },
  buffered: {
    kind: "buffered",
    contributors: 4,
    staleness: { kind: "constant" },
    maxStaleness: 20,
  },
} as const;

for (const [kind, aggregation] of Object.entries(aggregations)) {
  test(`a further stretch of the open round is late for it, and counted once: ${kind}`, async () => {
    const name = `st-${kind}`;
    const [one, two] = [
      await gatewayWith(cloud, `${kind}-1`, `${kind}-a`),
      await gatewayWith(cloud, `${kind}-2`, `${kind}-b`),
    ];
    const params = { name, rounds: 1, devicesMin: 2, aggregation, offlineSiteRounds: 9 };
    const started = await cloud.sessions.start(paramsOf({ ...params, saturate: true }));
    assert.ok(started.ok, JSON.stringify(started));
    const { plan } = await one.round();
    const second = await two.round();
    const ofOne = (...rounds: string[]) => sumOfRounds(plan, `${kind}-1`, `${kind}-a`, rounds);

    const kept = await one.deliver(ofOne(`${name}.1.4`), 1);
    assert.equal(kept.receipt?.outcome, "kept");
    const strange = await two.deliver(sumOfRounds(plan, `${kind}-2`, "no-one", [`${name}.1.2`]), 1);
    assert.equal(strange.refusal?.code, "not-in-roster");
    const again = await one.deliver(ofOne(`${name}.1.4`, `${name}.1.6`), 2);
    assert.match(again.refusal?.message ?? "", /\.1\.4\//);
    // With the round's own contributions it counts in the round.
    const both = await one.deliver(ofOne(`${name}.1`, `${name}.1.7`), 3);
    assert.equal(both.receipt?.outcome, "merged");
    const twice = await one.deliver(ofOne(`${name}.1.7`), 4);
    assert.equal(twice.refusal?.code, "overlap");
    await two.contribute(second, 2);
    await cloud.event((e) => e.name === "session-finished" && e.session === name);
    for (const gateway of [one, two])
      await gateway.next("sessionOver", ({ session }) => session === name);

    const { items } = await cloud.store.listContributions({ session: name }, { limit: 10 });
    assert.deepEqual(
      items.map(({ stretch, device, model }) => `${stretch} ${device} ${model}`),
      [
        `0 ${kind}-a ${name}.1`,
        `0 ${kind}-b ${name}.1`,
        `4 ${kind}-a ${name}.1`,
        `7 ${kind}-a ${name}.1`,
      ],
    );
    assert.equal((await cloud.store.round(`${name}.1`))?.merged, 4);
    // After the session's end nothing waits for a model.
    const late = await one.deliver(ofOne(`${name}.1.9`), 5);
    assert.equal(late.receipt?.rule, "session-ended");
    for (const gateway of [one, two]) gateway.close();
  });
}

test("a gateway that attaches is told which sessions are finished, also of those that it names no round of", {
  timeout: 60_000,
}, async () => {
  const gateway = await gatewayWith(cloud, "told", "told-a");
  const started = await cloud.sessions.start(paramsOf({ name: "st-told", rounds: 1 }));
  assert.ok(started.ok, JSON.stringify(started));
  await gateway.contribute(await gateway.round(), 1);
  await cloud.event((e) => e.name === "session-finished" && e.session === "st-told");
  gateway.close();
  const other = await gatewayWith(cloud, "told-later", "told-b");
  await other.next("sessionOver", ({ session }) => session === "st-told");
  other.close();
});

/** A session of one's own with two gateways, `<name>-1` with device `<name>-a`, and `-2` with `-b`. */
async function opened(name: string, over: Parameters<typeof paramsOf>[0]) {
  const gateways = [
    await gatewayWith(cloud, `${name}-1`, `${name}-a`),
    await gatewayWith(cloud, `${name}-2`, `${name}-b`),
  ] as const;
  const started = await cloud.sessions.start(
    paramsOf({ name, devicesMin: 2, saturate: true, aggregation: aggregations.sync, ...over }),
  );
  assert.ok(started.ok, JSON.stringify(started));
  const rounds = [await gateways[0].round(), await gateways[1].round()] as const;
  const [{ plan }] = rounds;
  const sum = (...of: string[]) =>
    sumOfRounds(
      plan,
      `${name}-1`,
      `${name}-a`,
      of.map((stretch) => name + stretch),
    );
  const close = async () => {
    const stopped = await cloud.sessions.stop(name);
    assert.ok(stopped.ok || stopped.code === "wrong-state");
    for (const gateway of gateways) gateway.close();
  };
  return { gateways, rounds, sum, close };
}

test("a session without site rounds on one's own takes no further stretch", async () => {
  const { gateways, sum, close } = await opened("plain", {});
  const { refusal } = await gateways[0].deliver(sum(".1.2"), 1);
  assert.equal(refusal?.code, "partial-malformed");
  assert.match(refusal?.message ?? "", /plain\.1\.2\/plain-a: the plan has no further stretches/);
  await close();
});

test("while a round is open, a further stretch comes by the gateway whose roster has the device", async () => {
  const { gateways, rounds, sum, close } = await opened("own", { rounds: 2, offlineSiteRounds: 3 });
  const [one, two] = gateways;
  assert.equal((await two.deliver(sum(".1.2"), 1)).refusal?.code, "not-in-roster");
  await one.contribute(rounds[0], 1);
  await two.contribute(rounds[1], 2);
  await cloud.event((e) => e.name === "round-closed" && e.round === "own.1");
  // Once it is over, a site may have changed its gateway.
  assert.equal((await two.deliver(sum(".1.2"), 3)).receipt?.outcome, "kept");
  await close();
});

test("the site rounds of a device are held to what the plan allows, over all that is on record", async () => {
  const { gateways, rounds, sum, close } = await opened("most", { offlineSiteRounds: 2 });
  const [one, two] = gateways;
  assert.equal((await one.deliver(sum(".1.2", ".1.3"), 1)).receipt?.outcome, "kept");
  // With what is on record: of the stretches alone, and beside the round's own contribution.
  const both = await one.deliver(sum(".1", ".1.4"), 2);
  assert.match(both.refusal?.message ?? "", /most\.1\.4\/most-a: more updates/);
  assert.equal((await one.deliver(sum(".1"), 3)).receipt?.outcome, "merged");
  // With what the open round's journal holds, and with what is in a model.
  assert.match((await one.deliver(sum(".1.4"), 4)).refusal?.message ?? "", /more updates/);
  await two.contribute(rounds[1], 1);
  await cloud.event((e) => e.name === "round-closed" && e.round === "most.1");
  assert.match((await one.deliver(sum(".1.4"), 5)).refusal?.message ?? "", /more updates/);
  await close();
});
