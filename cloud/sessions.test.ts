import assert from "node:assert/strict";
import { test } from "node:test";
import { paramsOf } from "./testing/cloud.js";
import { attachGateway } from "./testing/gateway.js";
import { sumOf } from "./testing/rounds.js";
import { sharedCloud, since, withGateways } from "./testing/shared-cloud.js";

const cloud = await sharedCloud();

async function start(over: Parameters<typeof paramsOf>[0]): Promise<void> {
  const started = await cloud.sessions.start(paramsOf(over));
  assert.ok(started.ok, JSON.stringify(started));
}

async function contributions(session: string) {
  const { items } = await cloud.store.listContributions({ session }, { limit: 1_000 });
  return items.map(({ round, device, outcome, rule, model }) => ({
    round,
    device,
    outcome,
    rule,
    model,
  }));
}

test("a Partial that comes after the session is on record as expired, with a receipt that says so", () =>
  withGateways(cloud, ["l1", "l2"], async (one, two) => {
    await start({ name: "late", sitesQuorum: 1, absentGraceMs: 1, rounds: 1, devicesMin: 4 });
    const [first, second] = [await one.round(), await two.round()];
    two.detach();
    await one.contribute(first, 1);
    await cloud.event((e) => e.name === "session-finished" && e.session === "late");
    const state = await two.contribute(second, 1);
    assert.equal(state.receipt?.outcome, "expired");
    assert.equal(state.receipt?.rule, "session-ended");
    assert.deepEqual((await two.contribute(second, 1)).receipt, state.receipt);
    const model = { round: 1, outcome: "model", rule: null, model: "late.1" };
    const late = { round: 1, outcome: "expired", rule: "session-ended", model: null };
    assert.deepEqual(await contributions("late"), [
      { ...model, device: "l1-a" },
      { ...model, device: "l1-b" },
      { ...late, device: "l2-a" },
      { ...late, device: "l2-b" },
    ]);
    const { merged, expired } = cloud.sessions.status("late")?.counts ?? {};
    assert.deepEqual([merged, expired], [2, 2]);
  }));

test("a Partial that comes after its round is kept, and goes into the next model by its base", () =>
  withGateways(cloud, ["k1", "k2"], async (one, two) => {
    await start({ name: "kept", sitesQuorum: 1, absentGraceMs: 1, rounds: 2, devicesMin: 2 });
    const [first, second] = [await one.round(), await two.round()];
    two.detach();
    await one.contribute(first, 1);
    const next = await one.round();
    const { receipt } = await two.contribute(second, 1);
    assert.deepEqual([receipt?.outcome, receipt?.rule], ["kept", ""]);
    assert.deepEqual((await two.contribute(second, 1)).receipt, receipt);
    const { kept } = cloud.sessions.status("kept") ?? {};
    assert.deepEqual([kept?.partials, kept?.contributions], [1, 2]);
    const overlapping = await two.contribute(second, 2);
    assert.equal(overlapping.refusal?.code, "overlap");
    assert.match(overlapping.refusal?.message ?? "", /kept\.1\/k2-a/);
    await one.contribute(next, 2);
    await cloud.event((e) => e.name === "session-finished" && e.session === "kept");
    const { items } = await cloud.store.listContributions({ session: "kept" }, { limit: 10 });
    assert.deepEqual(
      items.map(({ round, device, model }) => [round, device, model]),
      [
        [1, "k1-a", "kept.1"],
        [1, "k1-b", "kept.1"],
        [1, "k2-a", "kept.2"],
        [1, "k2-b", "kept.2"],
        [2, "k1-a", "kept.2"],
        [2, "k1-b", "kept.2"],
      ],
    );
    const model = await cloud.store.model("kept.2");
    assert.deepEqual(
      model?.groups?.map(({ base, age, samples, coefficient }) => [
        base,
        age,
        samples,
        coefficient,
      ]),
      [
        ["s.0", 1, 4, (4 * (1 / Math.sqrt(2))) / 8],
        ["kept.1", 0, 4, 0.5],
      ],
    );
    // A quarter each: the first model, then (4 / sqrt(2) + 4) / 8 of a quarter more.
    const values = await cloud.models.values("kept.2");
    const step = ((4 * (1 / Math.sqrt(2))) / 8) * 0.25 + 0.5 * 0.25;
    assert.deepEqual(values, Float32Array.of(0.75 + step, -0.75 + step, 2.25 + step));
    assert.equal((await two.contribute(second, 1)).receipt?.outcome, "merged");
    assert.deepEqual(cloud.sessions.status("kept")?.kept, {
      partials: 0,
      contributions: 0,
      bytes: 0,
      carried: 0,
    });
  }));

test("a gateway that attaches again is told of the round that waits for it, with its roster", () =>
  withGateways(cloud, ["r1", "r2"], async (one, two) => {
    await start({ name: "again", sitesQuorum: 2, absentGraceMs: 60_000, rounds: 1, devicesMin: 4 });
    await one.contribute(await one.round(), 1);
    const before = await two.round();
    two.detach();
    const back = await attachGateway(cloud.grpcPort, { id: "r2", rounds: ["again.1"] });
    const offered = await back.round();
    assert.deepEqual(offered.plan, before.plan);
    assert.deepEqual(offered.opened.roster, ["r2-a", "r2-b"]);
    assert.ok(offered.opened.remainingMs <= before.opened.remainingMs);
    await back.contribute(offered, 1);
    await cloud.event((e) => e.name === "session-finished" && e.session === "again");
    back.close();
    const told = await attachGateway(cloud.grpcPort, { id: "r2", rounds: ["again.1"] });
    assert.deepEqual(await told.next("roundClosed"), { round: "again.1", outcome: "committed" });
    await told.next("modelPublished", ({ session }) => session === "again");
    told.close();
  }));

test("gateways with nothing or that refuse the plan are not waited for", () =>
  withGateways(cloud, ["n1", "n2", "n3"], async (one, two, three) => {
    await start({ name: "nothing", sitesQuorum: 1, rounds: 1, devicesMin: 6 });
    const round = await one.round();
    const { plan } = await two.round();
    await three.round();
    two.send({
      $case: "roundProgress",
      value: { round: plan.round, offered: 2, folded: 0, declined: 2, sealed: true },
    });
    three.send({
      $case: "planRefused",
      value: { round: plan.round, code: "plan-invalid", message: "it is too large" },
    });
    await one.contribute(round, 1);
    const closed = await cloud.event((e) => e.name === "round-closed" && e.session === "nothing");
    assert.ok(closed.name === "round-closed" && closed.outcome === "committed");
  }));

test("a round without its quorum of sites fails, expires what it has, and is tried again", () =>
  withGateways(cloud, ["q1", "q2"], async (one, two) => {
    await start({ name: "quorum", sitesQuorum: 2, rounds: 1, devicesMin: 4 });
    const failing = await one.round();
    const { plan } = await two.round();
    await one.contribute(failing, 1);
    two.send({
      $case: "roundProgress",
      value: { round: plan.round, offered: 2, folded: 0, declined: 2, sealed: true },
    });
    assert.deepEqual(await one.next("roundClosed"), { round: "quorum.1", outcome: "failed" });
    const again = await one.round();
    assert.equal(again.plan.round, "quorum.2");
    assert.equal(again.plan.base.model, "s.0");
    await one.contribute(again, 2);
    await two.contribute(await two.round(), 2);
    await cloud.event((e) => e.name === "session-finished" && e.session === "quorum");
    const rules = (await contributions("quorum")).map(({ round, rule }) => [round, rule]);
    assert.deepEqual(rules.slice(0, 2), [
      [1, "sites-quorum"],
      [1, "sites-quorum"],
    ]);
    assert.equal((await cloud.store.round("quorum.1"))?.state, "failed");
  }));

test("a site below its quorum expires under site-quorum while the round commits", () =>
  withGateways(cloud, ["u1", "u2"], async (one, two) => {
    await start({ name: "site", siteQuorum: 2, sitesQuorum: 1, rounds: 1, devicesMin: 4 });
    await one.contribute(await one.round(), 1);
    const { plan } = await two.round();
    assert.equal((await two.deliver(sumOf(plan, { "u2-a": 1 }), 1)).receipt?.outcome, "merged");
    await cloud.event((e) => e.name === "session-finished" && e.session === "site");
    assert.deepEqual(
      (await contributions("site")).map(({ device, rule }) => [device, rule]),
      [
        ["u1-a", null],
        ["u1-b", null],
        ["u2-a", "site-quorum"],
      ],
    );
    assert.equal((await cloud.store.model("site.1"))?.weight, 4);
  }));

test("at its deadline a round commits with the sites it has", () =>
  withGateways(cloud, ["d1", "d2"], async (one, two) => {
    await start({
      name: "deadline",
      sitesQuorum: 1,
      deadlineMs: 400,
      uploadWindowMs: 100,
      rounds: 1,
      devicesMin: 4,
    });
    await one.contribute(await one.round(), 1);
    await two.round();
    const closed = await cloud.event((e) => e.name === "round-closed" && e.session === "deadline");
    assert.ok(closed.name === "round-closed" && closed.outcome === "committed");
    assert.ok(closed.tookMs >= 400, "an attached gateway is waited for");
  }));

test("rosters are disjoint: a device belongs to the gateway that reported it last", () =>
  withGateways(cloud, ["o1", "o2"], async (one, two) => {
    const seen = cloud.events.length;
    two.devices("o1-b", "o2-a");
    await since(cloud, seen, (e) => e.name === "devices-changed" && e.gateway === "o2");
    await start({ name: "roam", rounds: 1, sitesQuorum: 2 });
    assert.deepEqual((await one.round()).opened.roster, ["o1-a"]);
    assert.deepEqual((await two.round()).opened.roster, ["o1-b", "o2-a"]);
  }));

test("a candidate worse than the last evaluated model is held, and training goes on from there", () =>
  withGateways(cloud, ["e1"], async (one) => {
    await start({ name: "gated", rounds: 3, evaluateEvery: 1 });
    let sequence = 0;
    const play = async (accuracy: number) => {
      await one.contribute(await one.round(), ++sequence);
      const evaluation = await one.round();
      assert.equal(evaluation.plan.task, "evaluate");
      await one.contribute(evaluation, ++sequence, { metrics: { accuracy } });
    };
    await play(0.75);
    await play(0.25);
    const third = await one.round();
    assert.equal(third.plan.base.model, "gated.1", "the head is still the parent");
    await one.contribute(third, ++sequence);
    const last = await one.round();
    await one.contribute(last, ++sequence, { metrics: { accuracy: 0.875 } });
    await cloud.event((e) => e.name === "session-finished" && e.session === "gated");
    const { items } = await cloud.store.listModels({ session: "gated" }, { limit: 10 });
    assert.deepEqual(
      items.map(({ id, parent, state, metrics }) => [
        id,
        parent,
        state,
        metrics["evaluation.accuracy"],
      ]),
      [
        ["gated.5", "gated.1", "published", 0.875],
        ["gated.3", "gated.1", "held", 0.25],
        ["gated.1", "s.0", "published", 0.75],
      ],
    );
    assert.equal(cloud.sessions.status("gated")?.head, "gated.5");
    assert.deepEqual((await cloud.store.round("gated.4"))?.state, "held");
  }));

test("stop ends the open round with its contributions on record; resume goes on", () =>
  withGateways(cloud, ["s1", "s2"], async (one, two) => {
    await start({ name: "halt", sitesQuorum: 2, rounds: 1, devicesMin: 4 });
    await one.contribute(await one.round(), 1);
    const stopped = await cloud.sessions.stop("halt");
    assert.ok(stopped.ok && stopped.session.state === "stopped" && stopped.session.round === null);
    assert.deepEqual(await one.next("roundClosed"), { round: "halt.1", outcome: "stopped" });
    assert.equal((await two.contribute(await two.round(), 1)).receipt?.rule, "session-ended");
    const again = await cloud.sessions.stop("halt");
    assert.equal(again.ok ? "ok" : again.code, "wrong-state");
    const resumed = await cloud.sessions.resume("halt");
    assert.ok(resumed.ok && resumed.session.activity === "training");
    for (const gateway of [one, two]) {
      const round = await gateway.round();
      assert.equal(round.plan.round, "halt.2");
      await gateway.contribute(round, 2);
    }
    await cloud.event((e) => e.name === "session-finished" && e.session === "halt");
    const rules = (await contributions("halt")).map(({ round, rule }) => `${round} ${rule}`);
    assert.deepEqual([...new Set(rules)], ["1 stopped", "1 session-ended", "2 null"]);
  }));

test("activation rolls back by hand: the open round stops and the next starts from the model", () =>
  withGateways(cloud, ["v1"], async (one) => {
    await start({
      name: "back",
      rounds: 3,
      optimizer: { kind: "fedavgm", learningRate: 1, momentum: 0.5 },
    });
    await one.contribute(await one.round(), 1);
    await one.contribute(await one.round(), 2);
    const third = await one.round();
    assert.equal(third.plan.base.model, "back.2");
    const activated = await cloud.sessions.activate("back.1");
    assert.ok(activated.ok && activated.session.head === "back.1");
    const fourth = await one.round();
    assert.equal(fourth.plan.round, "back.4");
    assert.equal(fourth.plan.base.model, "back.1");
    await one.contribute(fourth, 4);
    await cloud.event((e) => e.name === "session-finished" && e.session === "back");
    // From back.1's own momentum: v = 0.5 * 0.25 + 0.25, as the second round did.
    assert.deepEqual(await cloud.models.values("back.4"), await cloud.models.values("back.2"));
    const unknown = await cloud.sessions.activate("back.99");
    assert.equal(unknown.ok ? "ok" : unknown.code, "unknown-model");
    // Every session of this file began with it.
    const foreign = await cloud.sessions.activate("s.0");
    assert.equal(foreign.ok ? "ok" : foreign.code, "foreign-model");
    const { endedAtMs } = cloud.sessions.status("back") ?? {};
    assert.ok(typeof endedAtMs === "number");
    const initial = await cloud.sessions.activate("s.0", "back");
    assert.ok(initial.ok && initial.session.head === "s.0", JSON.stringify(initial));
    assert.equal(initial.session.state, "finished");
    assert.equal(initial.session.endedAtMs, endedAtMs, "it ended when it ended");
    const stranger = await cloud.sessions.activate("back.1", "kept");
    assert.equal(stranger.ok ? "ok" : stranger.code, "foreign-model");
  }));

test("a gateway that is replaced is not offered the open round, which goes on without it", () =>
  withGateways(cloud, ["old1", "old2"], async (one, two) => {
    await start({ name: "anew", rounds: 2, devicesMin: 4, absentGraceMs: 1 });
    const [first, second] = [await one.round(), await two.round()];
    two.detach();
    await cloud.event((e) => e.name === "gateway-detached" && e.gateway === "old2");
    const anew = await attachGateway(cloud.grpcPort, { id: "old2", incarnation: "two" });
    await anew.next("welcome");
    const replaced = await cloud.event((e) => e.name === "gateway-replaced" && "round" in e);
    assert.ok(replaced.name === "gateway-replaced" && replaced.gateway === "old2");
    const members = cloud.sessions.status("anew")?.round?.gateways ?? [];
    assert.deepEqual(
      members.map(({ gateway, standing }) => [gateway, standing]),
      [
        ["old1", "waiting"],
        ["old2", "gone"],
      ],
    );
    const counted = await one.contribute(first, 1);
    assert.equal(counted.receipt?.outcome, "merged");
    anew.devices("old2-a", "old2-b");
    const next = await anew.round();
    assert.equal(next.plan.round, "anew.2", "the round that opened with the other is not for it");
    // The old hardware turns up after all: its contributions are late, and not lost.
    const { receipt } = await two.contribute(second, 1);
    assert.equal(receipt?.outcome, "kept");
    await one.contribute(await one.round(), 2);
    await anew.contribute(next, 1);
    await cloud.event((e) => e.name === "session-finished" && e.session === "anew");
    const all = await contributions("anew");
    assert.deepEqual(
      all.map(({ round, device, model }) => `${round} ${device} ${model}`),
      [
        "1 old1-a anew.1",
        "1 old1-b anew.1",
        "1 old2-a anew.2",
        "1 old2-b anew.2",
        "2 old1-a anew.2",
        "2 old1-b anew.2",
        "2 old2-a anew.2",
        "2 old2-b anew.2",
      ],
    );
    anew.close();
  }));

test("a session that cannot run is refused before it exists", async () => {
  const cases: [Parameters<typeof paramsOf>[0], string][] = [
    [{ name: "gated" }, "session-exists"],
    [{ name: "new", initialModel: "nobody.0" }, "unknown-model"],
    [
      { name: "new", grid: { fractionBits: { default: 8, tensors: { alien: 9 } }, range: 1 } },
      "plan-invalid",
    ],
  ];
  for (const [over, code] of cases) {
    const refused = await cloud.sessions.start(paramsOf(over));
    assert.equal(refused.ok ? "ok" : refused.code, code);
  }
  for (const act of [cloud.sessions.stop, cloud.sessions.resume]) {
    const unknown = await act("nobody");
    assert.equal(unknown.ok ? "ok" : unknown.code, "unknown-session");
  }
  assert.equal(cloud.sessions.status("new"), undefined);
});

test("too many sessions at a time are refused as busy", async () => {
  const names = Array.from({ length: 40 }, (_, i) => `many-${i}`);
  const started = await Promise.all(names.map((name) => cloud.sessions.start(paramsOf({ name }))));
  const refused = started.filter((answer) => !answer.ok && answer.code === "busy");
  assert.ok(refused.length >= 40 - 16);
  for (const name of names) await cloud.sessions.stop(name);
});
