import assert from "node:assert/strict";
import { test } from "node:test";
import { paramsOf } from "./testing/cloud.js";
import { attachGateway } from "./testing/gateway.js";
import { sharedCloud } from "./testing/shared-cloud.js";

const cloud = await sharedCloud();

test("two gateways take a session through its rounds", async () => {
  const [one, two] = await Promise.all([
    attachGateway(cloud.grpcPort, { id: "g1" }),
    attachGateway(cloud.grpcPort, { id: "g2" }),
  ]);
  one.devices("a", "b");
  two.devices("c");
  const started = await cloud.sessions.start(paramsOf({ sitesQuorum: 2, devicesMin: 3 }));
  assert.ok(started.ok, JSON.stringify(started));
  for (const number of [1, 2]) {
    const [first, second] = await Promise.all([one.round(), two.round()]);
    assert.equal(first.plan.round, `s.${number}`);
    assert.deepEqual(first.opened.roster, ["a", "b"]);
    assert.deepEqual(second.opened.roster, ["c"]);
    const answers = await Promise.all([
      one.contribute(first, number, { metrics: { loss: 0.5 } }),
      two.contribute(second, number),
    ]);
    for (const { receipt } of answers) assert.equal(receipt?.outcome, "merged");
    assert.deepEqual(await one.next("roundClosed"), { round: `s.${number}`, outcome: "committed" });
    await two.next("modelPublished");
  }
  await cloud.event(({ name }) => name === "session-finished");
  const view = cloud.sessions.status("s");
  assert.equal(view?.state, "finished");
  assert.equal(view?.head, "s.2");
  assert.deepEqual(view?.counts, { models: 2, rounds: 2, failedRounds: 0, merged: 6, expired: 0 });
  const values = await cloud.models.values("s.2");
  assert.deepEqual([...values], [1, -0.5, 2.5], "two steps of a quarter");
  one.close();
  two.close();
});
