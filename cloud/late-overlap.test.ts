import assert from "node:assert/strict";
import { test } from "node:test";
import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { paramsOf } from "./testing/cloud.js";
import { sumOf } from "./testing/rounds.js";
import { gatewayWith, sharedCloud } from "./testing/shared-cloud.js";

const cloud = await sharedCloud();

/** One sample of each contribution, named by its round and device. */
function sumOfRounds(plan: Plan, site: string, keys: readonly (readonly [string, string])[]): Sum {
  const sums = keys.map(([round, device]) => sumOf({ ...plan, round }, { [device]: 1 }, { site }));
  const [first] = sums as [Sum, ...Sum[]];
  return {
    ...first,
    weight: BigInt(sums.length),
    contributors: sums.flatMap(({ contributors }) => contributors),
    sum: first.sum.map((value) => value * BigInt(sums.length)),
  };
}

test("a late Partial of what the open round's journal holds is refused by name, and the round goes on", async () => {
  const [one, two] = [await gatewayWith(cloud, "g1", "a"), await gatewayWith(cloud, "g2", "b")];
  const started = await cloud.sessions.start(
    paramsOf({
      name: "ov",
      rounds: 1,
      devicesMin: 2,
      aggregation: {
        kind: "buffered",
        contributors: 3,
        staleness: { kind: "constant" },
        maxStaleness: 20,
      },
    }),
  );
  assert.ok(started.ok, JSON.stringify(started));
  const first = await one.round();
  for (const gateway of [one, two]) {
    const figures = { offered: 0, folded: 0, declined: 0, sealed: true };
    gateway.send({ $case: "roundProgress", value: { round: "ov.1", ...figures } });
  }
  await cloud.event((e) => e.name === "round-closed" && e.round === "ov.1");
  await two.round();
  const second = await one.round();
  await two.round();
  assert.deepEqual([first.plan.base.model, second.plan.round], [second.plan.base.model, "ov.2"]);

  const both = sumOfRounds(second.plan, "g1", [
    ["ov.1", "a"],
    ["ov.2", "a"],
  ]);
  assert.equal((await one.deliver(both, 1)).receipt?.outcome, "merged");
  const again = await two.deliver(sumOfRounds(first.plan, "g2", [["ov.1", "a"]]), 1);
  assert.equal(again.refusal?.code, "overlap");
  assert.match(again.refusal?.message ?? "", /ov\.1\/a/);
  const last = await two.deliver(sumOfRounds(second.plan, "g2", [["ov.2", "b"]]), 2);
  assert.equal(last.receipt?.outcome, "merged");
  await cloud.event((e) => e.name === "session-finished" && e.session === "ov");
  const { items } = await cloud.store.listContributions({ session: "ov" }, { limit: 10 });
  assert.deepEqual(
    items.map(({ round, device, model }) => `${round}/${device} ${model}`),
    ["1/a ov.2", "2/a ov.2", "2/b ov.2"],
  );
  for (const gateway of [one, two]) gateway.close();
});
