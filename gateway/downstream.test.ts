import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { encodePartial } from "@tributary/proto/algebra/frame.js";
import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type {
  AttachRequest,
  AttachResponse,
  PartialState,
  RoundOpened,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { cloudRound } from "@tributary/proto/wire/ids.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { timeBelow } from "./branch-shares.js";
import type { TestDevice } from "./testing/device.js";
import type { TestReducer } from "./testing/reducer.js";
import { sampleModel, samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, type StartedGateway } from "./testing/stage.js";
import { until } from "./testing/wait.js";
import { createUpstream } from "./upstream.js";

const stage = createStage();
const clients: (() => void)[] = [];
afterEach(async () => {
  for (const close of clients.splice(0)) close();
  await stage.close();
});

const region = { gateway: "region", downstream: { listen: { port: 0 } }, absentGraceMs: 60_000 };
const below = (regional: StartedGateway) => `127.0.0.1:${regional.downstreamPort}`;

async function gateway(upstream: string, name: string, site: string, settings: object = {}) {
  return stage.gateway(await stage.dataDir(), upstream, { gateway: name, site, ...settings });
}

/** Waits until exactly these devices are known to be at these gateways. */
async function placed(reducer: TestReducer, places: Readonly<Record<string, string>>) {
  await until("the devices are reported", () => {
    const at = new Map<string, string>();
    for (const { all, joined, left } of reducer.heard("devicesChanged")) {
      if (all) at.clear();
      for (const device of left) at.delete(device);
      for (const { device, gateway: where } of joined) at.set(device, where);
    }
    const known = [...at].map((pair) => pair.join(" at ")).sort();
    const wanted = Object.entries(places).map((pair) => pair.join(" at "));
    return JSON.stringify(known) === JSON.stringify(wanted.sort());
  });
}

async function contribute(device: TestDevice, plan: Plan, at: string, steps: number, samples = 10) {
  await device.next("offer");
  await device.upload(sampleUpdate(plan, device.device, steps, { gateway: at, samples }));
  await device.next("receipt");
}

const layout = [{ name: "w", shape: [4] }];
const realModel = encodeSafetensors(layout, Float32Array.of(0.5, -1, 1 / 3, 0));

/** A plan for site rounds: its base is a model that a gateway can train on. */
function sitePlan(changes: Partial<Plan>): Plan {
  const base = makeManifest("mnist.0", realModel, sha256, 1024);
  return samplePlan({ layout, base, ...changes });
}

/** A regional gateway with a device of its own, and one below. */
async function twoSites() {
  const reducer = await stage.reducer();
  reducer.models.set("mnist.0", realModel);
  const regional = await gateway(reducer.address, "region", "hub", region);
  const g1 = await gateway(below(regional), "g1", "east");
  const own = await stage.device(regional, "own", "hub");
  const a = await stage.device(g1, "a", "east");
  await placed(reducer, { own: "", a: "g1" });
  const devices: [TestDevice, string][] = [
    [own, "region"],
    [a, "g1"],
  ];
  return { reducer, g1, devices };
}

async function offered(device: TestDevice, round: string) {
  const find = () => device.got("offer").find((offer) => offer.plan.round === round);
  await until(`${device.device} is offered ${round}`, find);
  return find() as NonNullable<ReturnType<typeof find>>;
}

async function giveSite(device: TestDevice, round: string, at: string) {
  const { plan } = await offered(device, round);
  await device.upload(sampleUpdate(plan, device.device, 1, { gateway: at }));
  await until("it is receipted", () => device.got("receipt").some((r) => r.round === round));
}

const names = (partial: Sum | undefined) => partial?.contributors.map(({ device }) => device);

describe("a regional gateway", () => {
  it("sums its own devices and those of gateways below into one Partial", async () => {
    const reducer = await stage.reducer();
    const regional = await gateway(reducer.address, "region", "hub", region);
    const [g1, g2] = [
      await gateway(below(regional), "g1", "east"),
      await gateway(below(regional), "g2", "west"),
    ];
    const own = await stage.device(regional, "own", "hub");
    const a = await stage.device(g1, "a", "east");
    const b = await stage.device(g2, "b", "west");
    await placed(reducer, { own: "", a: "g1", b: "g2" });
    const sites = reducer.heard("devicesChanged").flatMap(({ joined }) => joined);
    assert.equal(sites.find(({ device }) => device === "a")?.site, "east");

    const plan = samplePlan();
    reducer.openRound(plan, ["own", "a", "b"]);
    await Promise.all([
      contribute(own, plan, "region", 1, 10),
      contribute(a, plan, "g1", 3, 20),
      contribute(b, plan, "g2", -2, 5),
    ]);
    await until("the Partial arrives", () => reducer.partials.length === 1);
    const [partial] = reducer.partials;
    assert.deepEqual(names(partial), ["a", "b", "own"]);
    assert.equal(partial?.weight, 35n);
    assert.equal(partial?.site, null);
    assert.ok(partial?.sum.every((value) => value === 10n + 60n - 10n));
    await until("the seal is reported", () => reducer.lastProgress(plan.round)?.sealed);
    const { offered, folded, declined } = reducer.lastProgress(plan.round) ?? {};
    assert.deepEqual({ offered, folded, declined }, { offered: 3, folded: 3, declined: 0 });
    assert.equal(reducer.sends.length, 1);
    // Below, each is delivered with the regional gateway's receipt.
    for (const { events } of [g1, g2]) {
      await until("it is receipted", () => events.some((e) => e.name === "partial-delivered"));
      const delivered = events.find((e) => e.name === "partial-delivered");
      assert.equal(delivered?.name === "partial-delivered" && delivered.outcome, "kept");
    }
    // The model went down once to the region, and from its cache to those below.
    assert.equal(reducer.fetches.length, 1);
    for (const { events } of [g1, g2])
      assert.ok(events.some((e) => e.name === "model-cached" && e.model === "mnist.0"));
  });

  it("forwards one Partial a site where the plan says so", async () => {
    const reducer = await stage.reducer();
    const regional = await gateway(reducer.address, "region", "hub", region);
    const at = { g1: "east", g2: "east", g3: "west" };
    const devices: TestDevice[] = [];
    for (const [name, site] of Object.entries(at)) {
      const started = await gateway(below(regional), name, site);
      devices.push(await stage.device(started, `d-${name}`, site));
    }
    await placed(reducer, { "d-g1": "g1", "d-g2": "g2", "d-g3": "g3" });
    const plan = samplePlan({ perSite: true });
    reducer.openRound(plan, ["d-g1", "d-g2", "d-g3"]);
    await Promise.all(devices.map((device) => contribute(device, plan, device.device.slice(2), 1)));
    await until("both Partials arrive", () => reducer.partials.length === 2);
    const bySite = reducer.partials.map((partial) => `${partial.site}: ${names(partial)}`);
    assert.deepEqual(bySite.sort(), ["east: d-g1,d-g2", "west: d-g3"]);
    await until("the seal is reported", () => reducer.lastProgress(plan.round)?.sealed);
    assert.equal(reducer.lastProgress(plan.round)?.folded, 3);
  });

  it("takes what sites compose of several site rounds, its own among them", async () => {
    const { reducer, devices } = await twoSites();
    const plan = sitePlan({ siteRounds: 2 });
    reducer.openRound(plan, ["own", "a"]);
    for (const round of ["mnist.1.1", "mnist.1.2"])
      for (const [device, at] of devices) await giveSite(device, round, at);
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.deepEqual(
      reducer.partials[0]?.contributors.map(({ device, updates }) => [device, updates]),
      [
        ["a", 2],
        ["own", 2],
      ],
    );
    // Each site's deltas were 1 step twice, 10 samples each.
    assert.ok(reducer.partials[0]?.sum.every((value) => value === 40n));
    await until("the seal is reported", () => reducer.lastProgress(plan.round)?.sealed);
  });

  it("lets sites below go on by themselves while the way up is cut above it", async () => {
    const { reducer, devices, g1 } = await twoSites();
    const plan = sitePlan({ offlineSiteRounds: 1 });
    reducer.openRound(plan, ["a"]);
    const [, [a, at]] = devices as [(typeof devices)[0], (typeof devices)[0]];
    await until("the base is below", () => g1.events.some((e) => e.name === "model-cached"));
    await offered(a, "mnist.1.1");
    await reducer.close();
    await until("it is told", () =>
      g1.events.some((e) => e.name === "uplink-path" && e.path === "region"),
    );
    const cut = () => g1.events.filter((e) => e.name === "uplink-lost").length;
    await giveSite(a, "mnist.1.1", at);
    await giveSite(a, "mnist.1.2", at);
    assert.equal(cut(), 0, "its own link was there all the time");
    const again = await stage.reducer(reducer.port);
    await until("the Partial arrives", () => again.partials.length === 1);
    assert.equal(again.partials[0]?.contributors[0]?.updates, 2);
  });

  it("goes on with a round after it was stopped in the middle of it", async () => {
    const reducer = await stage.reducer();
    const dir = await stage.dataDir();
    const first = await stage.gateway(dir, reducer.address, { ...region, site: "hub" });
    const port = first.downstreamPort;
    const settings = { ...region, site: "hub", downstream: { listen: { port } } };
    const g1 = await gateway(below(first), "g1", "east");
    const g2 = await gateway(below(first), "g2", "west");
    const a = await stage.device(g1, "a", "east");
    const b = await stage.device(g2, "b", "west");
    await placed(reducer, { a: "g1", b: "g2" });
    const plan = samplePlan();
    reducer.openRound(plan, ["a", "b"]);
    await contribute(a, plan, "g1", 2);
    await b.next("offer");
    await until("it is receipted", () => g1.events.some((e) => e.name === "partial-delivered"));
    await first.close();
    const second = await stage.gateway(dir, reducer.address, settings);
    assert.equal(reducer.partials.length, 0, "what is held stays held");
    await until(
      "g2 is back",
      () => g2.events.filter((e) => e.name === "uplink-attached").length > 1,
    );
    await b.upload(sampleUpdate(plan, "b", 5, { gateway: "g2" }));
    await b.next("receipt");
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.deepEqual(names(reducer.partials[0]), ["a", "b"]);
    assert.equal(second.downstreamPort, port);
  });

  it("takes Partials while its own upstream is away, and delivers them when it is back", async () => {
    const reducer = await stage.reducer();
    const regional = await gateway(reducer.address, "region", "hub", region);
    const g1 = await gateway(below(regional), "g1", "east");
    const a = await stage.device(g1, "a", "east");
    await placed(reducer, { a: "g1" });
    const plan = samplePlan();
    reducer.openRound(plan, ["a"]);
    await a.next("offer");
    await reducer.close();
    await until("it is offline", () => regional.events.some((e) => e.name === "uplink-lost"));
    await contribute(a, plan, "g1", 2);
    await until("it is receipted", () => g1.events.some((e) => e.name === "partial-delivered"));
    const again = await stage.reducer(reducer.port);
    await until("the Partial arrives", () => again.partials.length === 1);
    assert.deepEqual(names(again.partials[0]), ["a"]);
  });

  it("moves a device to where it was reported last", async () => {
    const reducer = await stage.reducer();
    const regional = await gateway(reducer.address, "region", "hub", region);
    const g1 = await gateway(below(regional), "g1", "east");
    const g2 = await gateway(below(regional), "g2", "west");
    await stage.device(g1, "roamer", "east");
    await placed(reducer, { roamer: "g1" });
    const west = await stage.device(g2, "roamer", "west");
    await placed(reducer, { roamer: "g2" });
    const here = await stage.device(regional, "roamer", "hub");
    await placed(reducer, { roamer: "" });
    await west.close();
    const plan = samplePlan();
    reducer.openRound(plan, ["roamer"]);
    await contribute(here, plan, "region", 1);
    await until("the Partial arrives", () => reducer.partials.length === 1);
  });
});

describe("towards a gateway below", () => {
  it("greets with the path, answers heartbeats, and hands on what comes from above", async () => {
    const { reducer, lower } = await stand({ a: "g1" });
    const welcome = await lower.next("welcome", ({ path }) => path.length === 2);
    assert.deepEqual(welcome.path, ["region", "cloud"]);
    lower.say({ $case: "heartbeat", value: { ...beat, sequence: 7n } });
    assert.equal((await lower.next("heartbeatEcho")).sequence, 7n);
    const plan = samplePlan();
    reducer.openRound(plan, ["a"], 40_000);
    const opened = await lower.next("roundOpened");
    assert.deepEqual(opened.roster, ["a"]);
    assert.ok(opened.remainingMs <= timeBelow(40_000, plan), "less time than there is here");
    reducer.tell({ $case: "roundClosed", value: { round: plan.round, outcome: "committed" } });
    assert.equal((await lower.next("roundClosed")).outcome, "committed");
  });

  it("counts a refused plan as nothing to come", async () => {
    const { reducer, lower } = await stand({ a: "g1" });
    const { round } = await opened(reducer, lower);
    lower.say({ $case: "planRefused", value: { round, code: "busy", message: "too many" } });
    await until("the round is sealed", () => reducer.lastProgress(round)?.sealed);
    assert.equal(reducer.lastProgress(round)?.folded, 0);
  });

  it("sends what comes late by itself", async () => {
    const { reducer, lower } = await stand({ a: "g1", b: "g1" });
    const plan = await opened(reducer, lower, ["a", "b"]);
    lower.say(sealed(plan.round, 2));
    assert.equal((await lower.deliver(sumOf(plan, ["a"]), 1)).receipt?.outcome, "kept");
    reducer.tell({ $case: "roundClosed", value: { round: plan.round, outcome: "committed" } });
    await until("the first arrives", () => reducer.partials.length === 1);
    await lower.deliver(sumOf(plan, ["b"]), 2);
    await until("the late one arrives", () => reducer.partials.length === 2);
    assert.deepEqual(reducer.partials.map(names), [["a"], ["b"]]);
  });

  it("goes on with a round that was closed above, where the plan says to finish it first", async () => {
    const { reducer, lower } = await stand({ a: "g1", b: "g1" });
    const plan = samplePlan({ finishFirst: true });
    reducer.openRound(plan, ["a", "b"]);
    await lower.next("roundOpened");
    await lower.deliver(sumOf(plan, ["a"]), 1);
    reducer.tell({ $case: "roundClosed", value: { round: plan.round, outcome: "committed" } });
    await lower.next("roundClosed");
    lower.say(sealed(plan.round, 2));
    await lower.deliver(sumOf(plan, ["b"]), 2);
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.deepEqual(names(reducer.partials[0]), ["a", "b"]);
  });

  it("waits for all that a member said it sealed, be it in several Partials", async () => {
    const { reducer, lower } = await stand({ a: "g1", b: "g1" });
    const plan = await opened(reducer, lower, ["a", "b"]);
    await lower.deliver(sumOf(plan, ["a"]), 1);
    lower.say(sealed(plan.round, 2));
    await lower.deliver(sumOf(plan, ["b"]), 2);
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.deepEqual(names(reducer.partials[0]), ["a", "b"]);
  });

  it("knows a Partial again, and refuses its identity with other bytes", async () => {
    const { reducer, lower } = await stand({ a: "g1" });
    const plan = await opened(reducer, lower);
    const first = await lower.deliver(sumOf(plan, ["a"]), 1);
    assert.deepEqual((await lower.deliver(sumOf(plan, ["a"]), 1)).receipt, first.receipt);
    const other = await lower.deliver(sumOf(plan, ["a"], 3), 1);
    assert.equal(other.refusal?.code, "partial-conflict");
    lower.say(sealed(plan.round, 1));
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.equal(reducer.partials[0]?.weight, 10n);
  });

  it("takes no contribution twice, and none that the round did not give to it", async () => {
    const { reducer, lower } = await stand({ a: "g1", b: "g1" });
    const plan = await opened(reducer, lower, ["a", "b"]);
    const refusal = async (sum: Sum, sequence: number) =>
      (await lower.deliver(sum, sequence)).refusal?.code;
    await lower.deliver(sumOf(plan, ["a"]), 1);
    assert.equal(await refusal(sumOf(plan, ["a", "b"]), 2), "overlap");
    assert.equal(await refusal(sumOf(plan, ["b", "stranger"]), 3), "not-in-roster");
    assert.equal(
      await refusal(sumOf(samplePlan({ totalMax: 1 }), ["b"], 2_000), 4),
      "bad-sample-count",
    );
    const coarse = samplePlan({ grid: { fractionBits: [9], range: 4 } });
    assert.equal(await refusal(sumOf(coarse, ["b"]), 5), "grid-mismatch");
    const other = await attach(lower.address, "g2");
    assert.equal((await other.deliver(sumOf(plan, ["b"]), 1)).refusal?.code, "not-in-roster");
    lower.say(sealed(plan.round, 1));
    await until("what there is arrives", () => reducer.partials.length === 1);
    assert.deepEqual(names(reducer.partials[0]), ["a"]);
  });

  it("takes from a gateway in the place of another what that one had not brought, and no more", async () => {
    const { reducer, lower } = await stand({ a: "g1", b: "g1" });
    const plan = await opened(reducer, lower, ["a", "b"]);
    await lower.deliver(sumOf(plan, ["a"]), 1);
    const replaced = await attach(lower.address, "g1", "another-life");
    assert.equal((await replaced.deliver(sumOf(plan, ["a"]), 1)).refusal?.code, "overlap");
    // Whoever is below it still had it.
    const { receipt } = await replaced.deliver(sumOf(plan, ["b"]), 2);
    assert.equal(receipt?.outcome, "kept");
    await until("all arrives", () => reducer.partials.flatMap(names).length === 2);
    assert.deepEqual(new Set(reducer.partials.flatMap(names)), new Set(["a", "b"]));
  });

  it("passes on a further stretch of a member's site rounds by itself, and counts it apart", async () => {
    const { reducer, lower } = await stand({ a: "g1", b: "g1" });
    const plan = await opened(reducer, lower, ["a", "b"]);
    const further = (k: number, devices: string[]) =>
      sumOf({ ...plan, round: `${plan.round}.${k}` }, devices);
    await lower.deliver(sumOf(plan, ["a"]), 1);
    assert.equal((await lower.deliver(further(2, ["a"]), 2)).receipt?.outcome, "kept");
    await until("it arrives", () => reducer.partials.length === 1);
    assert.equal(reducer.partials[0]?.contributors[0]?.round, `${plan.round}.2`);
    // What the round waits for is its first stretch.
    lower.say(sealed(plan.round, 2));
    await lower.deliver(sumOf(plan, ["b"]), 5);
    await until("the round arrives", () => reducer.partials.length === 2);
    assert.deepEqual(names(reducer.partials[1]), ["a", "b"]);
    await until("the seal is reported", () => reducer.lastProgress(plan.round)?.sealed);
    assert.equal(reducer.lastProgress(plan.round)?.folded, 2);
    for (const [sequence, sum, code] of [
      [3, further(2, ["a"]), "overlap"],
      [4, further(3, ["stranger"]), "not-in-roster"],
    ] as const)
      assert.equal((await lower.deliver(sum, sequence)).refusal?.code, code);
    reducer.tell({ $case: "sessionOver", value: { session: "mnist" } });
    assert.deepEqual(await lower.next("sessionOver"), { session: "mnist" });
  });

  it("passes on a Partial of a round that it does not know, by itself", async () => {
    const { reducer, lower } = await stand({ a: "g1" });
    const old = samplePlan({ round: "mnist.77" });
    const state = await lower.deliver(sumOf(old, ["a"]), 1);
    assert.equal(state.receipt?.outcome, "kept");
    await until("it arrives", () => reducer.partials.length === 1);
  });

  it("serves the model that it fetches itself, from any byte on", async () => {
    const { reducer, lower } = await stand({ a: "g1" });
    const { base } = await opened(reducer, lower);
    const read = async (offset: number) => {
      const parts: Uint8Array[] = [];
      const request = { model: base.model, digest: base.digest, offset: BigInt(offset) };
      for await (const { data } of lower.upstream.fetchModel(request)) parts.push(data);
      return Buffer.concat(parts);
    };
    assert.deepEqual(await read(0), Buffer.from(sampleModel));
    assert.deepEqual(await read(4_000), Buffer.from(sampleModel.subarray(4_000)));
    assert.equal(reducer.fetches.length, 1);
    const unknown = { model: "mnist.9", digest: "0".repeat(64), offset: 0n };
    await assert.rejects(async () => {
      for await (const _ of lower.upstream.fetchModel(unknown));
    }, /unknown-model/);
  });
});

it("the time below leaves time to travel, but never less than three quarters", () => {
  const plan = samplePlan({ siteDeadlineMs: 60_000, deadlineMs: 70_000 });
  assert.equal(timeBelow(60_000, plan), 50_000);
  assert.equal(timeBelow(20_000, plan), 15_000);
  assert.equal(timeBelow(0, plan), 0);
});

// --- a gateway below as bare as the protocol --------------------------------------------------

type Down = NonNullable<AttachResponse["message"]>;
type DownOf<K extends Down["$case"]> = Extract<Down, { $case: K }>["value"];

const beat = {
  connectedDevices: 0,
  outboxPartials: 0,
  outboxBytes: 0n,
  oldestAgeMs: 0n,
  freeDiskBytes: 0n,
  refusals: {},
  duplicatesDropped: 0n,
  budgetBytes: 0n,
  classes: [],
  roundTripMs: 0,
  clockOffsetMs: 0n,
};

const sealed = (round: string, folded: number): NonNullable<AttachRequest["message"]> => ({
  $case: "roundProgress",
  value: { round, offered: folded, folded, declined: 0, sealed: true },
});

async function attach(address: string, name: string, incarnation = "one") {
  const upstream = createUpstream(address, systemClock());
  const call = upstream.attach();
  clients.push(() => {
    call.cancel();
    upstream.close();
  });
  const heard: Down[] = [];
  call.on("data", ({ message }) => {
    if (message !== undefined) heard.push(message);
  });
  call.on("error", () => {});
  const say = (message: NonNullable<AttachRequest["message"]>) => void call.write({ message });
  const value = { protocolVersion: 1, gateway: name, site: "east", incarnation };
  say({
    $case: "hello",
    value: { ...value, softwareVersion: "test", rounds: [], below: [], nowMs: 0n },
  });
  const lower = {
    address,
    upstream,
    say,
    async next<K extends Down["$case"]>(kind: K, matches = (_value: DownOf<K>) => true) {
      const found = () => {
        const first = heard.find((m) => m.$case === kind && matches(m.value as DownOf<K>));
        return first?.value as DownOf<K>;
      };
      await until(`${name} hears ${kind}`, () => found() !== undefined);
      return found();
    },
    /** Sends a Partial as the sequence's; resolves with what becomes of it. */
    async deliver(sum: Sum, sequence: number): Promise<PartialState> {
      const bytes = new Uint8Array(Buffer.concat(encodePartial(sum)));
      const id = { gateway: name, incarnation, sequence: BigInt(sequence) };
      const round = cloudRound(sum.contributors.at(-1)?.round ?? "");
      const announced = { id, round, digest: sha256(bytes), totalBytes: BigInt(bytes.length) };
      const state = await upstream.openPartial(announced);
      if (state.receipt !== undefined || state.refusal !== undefined) return state;
      return upstream.sendPartial(id, Number(state.receivedBytes), pieces(bytes));
    },
  };
  await lower.next("welcome");
  return lower;
}

async function* pieces(bytes: Uint8Array) {
  yield bytes;
}

/** A regional gateway with a bare one below, which has reported devices. */
async function stand(devices: Readonly<Record<string, string>>) {
  const reducer = await stage.reducer();
  const regional = await gateway(reducer.address, "region", "hub", region);
  const lower = await attach(below(regional), "g1");
  const joined = Object.keys(devices).map((device) => ({
    device,
    sdk: "test",
    attributes: Buffer.alloc(0),
    site: "",
    gateway: "",
  }));
  lower.say({ $case: "devicesChanged", value: { all: true, joined, left: [] } });
  await placed(reducer, devices);
  return { reducer, regional, lower };
}

async function opened(
  reducer: TestReducer,
  lower: { next(kind: "roundOpened"): Promise<RoundOpened> },
  roster: string[] = ["a"],
): Promise<Plan> {
  const plan = samplePlan();
  reducer.openRound(plan, roster);
  await lower.next("roundOpened");
  return plan;
}

/** Every device contributes a step in every coordinate. */
function sumOf(plan: Plan, devices: readonly string[], samples = 10): Sum {
  const weight = BigInt(samples * devices.length);
  return {
    base: plan.base.model,
    baseDigest: plan.base.digest,
    grid: plan.grid,
    layout: plan.layout,
    weight,
    site: "east",
    contributors: devices.map((device) => ({ round: plan.round, device, samples, updates: 1 })),
    metrics: {},
    saturated: 0,
    sum: new BigInt64Array(100).fill(weight),
  };
}
