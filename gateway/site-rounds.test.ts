import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { decodeSafetensors, encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { addSiteRound } from "./site-model.js";
import { sitePlan } from "./site-plan.js";
import { openSiteStates } from "./site-state.js";
import type { TestDevice } from "./testing/device.js";
import { type SampleUpdate, samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported, type StartedGateway } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

const layout = [{ name: "w", shape: [4] }];
const values = Float32Array.of(0.5, -1, 1 / 3, 0);
const model = encodeSafetensors(layout, values);
const base = makeManifest("mnist.0", model, sha256, 1024);
/** 10 fraction bits, range 4. */
const sitePlanOf = (changes: Partial<Plan> = {}) =>
  samplePlan({ layout, base, siteRounds: 2, training: { epochs: 1, seed: 7 }, ...changes });

/** What devices give in one site round: device, grid steps of every value, samples. */
type Given = readonly (readonly [device: string, steps: number, samples: number])[];

/** In plain doubles, from the specification; every number is small enough to be exact. */
function oracle(rounds: readonly Given[], before: readonly Given[] = []) {
  const newest = new Map<string, { samples: number; updates: number }>();
  const start = before.reduce((sum, given) => sum + meanOf(given), 0);
  let delta = start;
  for (const given of rounds) {
    delta += meanOf(given);
    for (const [device, , samples] of given)
      newest.set(device, { samples, updates: (newest.get(device)?.updates ?? 0) + 1 });
  }
  const weight = [...newest.values()].reduce((sum, { samples }) => sum + samples, 0);
  const scaled = (delta - start) * 1024;
  const even = 2 * Math.round(scaled / 2);
  const q = Math.abs(scaled - Math.trunc(scaled)) === 0.5 ? even : Math.round(scaled);
  const contributors = [...newest]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([device, counted]) => ({ round: "mnist.1", device, ...counted }));
  return {
    model: values.map((value) => value + delta),
    weight: BigInt(weight),
    // A single site round is handed over as it is.
    sum: BigInt(rounds[0] !== undefined && rounds.length === 1 ? stepsOf(rounds[0]) : weight * q),
    contributors,
  };
}

const stepsOf = (given: Given) =>
  given.reduce((total, [, steps, samples]) => total + steps * samples, 0);

function meanOf(given: Given): number {
  const weight = given.reduce((sum, [, , samples]) => sum + samples, 0);
  return stepsOf(given) / (weight * 1024);
}

/** @param round of its contributors: the first site round of a later stretch */
function assertIs(
  partial: Sum | undefined,
  expected: ReturnType<typeof oracle>,
  round = "mnist.1",
): void {
  assert.ok(partial !== undefined);
  const { base: on, site, weight, contributors, sum } = partial;
  assert.deepEqual(
    { on, site, weight, contributors, sum: [...sum] },
    {
      on: "mnist.0",
      site: "plant",
      weight: expected.weight,
      contributors: expected.contributors.map((one) => ({ ...one, round })),
      sum: Array.from({ length: 4 }, () => expected.sum),
    },
  );
}

async function site(names: string[], settings: object = {}, parts = {}) {
  const reducer = await stage.reducer();
  reducer.models.set("mnist.0", model);
  const dir = await stage.dataDir();
  const gateway = await stage.gateway(dir, reducer.address, settings, parts);
  const devices = [];
  for (const name of names) devices.push(await stage.device(gateway, name));
  await reported(reducer, names.length);
  return { reducer, dir, gateway, devices };
}

const told = (gateway: StartedGateway, name: string) =>
  gateway.events.filter((event) => event.name === name);

const cached = (gateway: StartedGateway) =>
  until("the base is here", () => told(gateway, "model-cached").length > 0);

/** The offer of a round to a device. */
async function offerOf(device: TestDevice, round: string) {
  const find = () => device.got("offer").find((offer) => offer.plan.round === round);
  await until(`${device.device} is offered ${round}`, find);
  return find() as NonNullable<ReturnType<typeof find>>;
}

async function give(device: TestDevice, round: string, steps: number, samples: number) {
  const { plan } = await offerOf(device, round);
  const update = sampleUpdate(plan, device.device, steps, { samples });
  await device.upload(update);
  await until("it is receipted", () => device.got("receipt").some((r) => r.round === round));
  return { plan, update };
}

/** One site round, every device in turn. */
async function giveAll(devices: readonly TestDevice[], round: string, given: Given) {
  for (const [name, steps, samples] of given) {
    const device = devices.find(({ device }) => device === name) as TestDevice;
    await give(device, round, steps, samples);
  }
}

/** The exact sum of one update, as a site round's. */
function sumOfOne(plan: Plan, { begin, payload }: SampleUpdate): Sum {
  const { model: name, digest: baseDigest } = base;
  const subject = { round: "mnist.1", site: "plant", base: name, baseDigest };
  const { grid, totalMax } = plan;
  const accumulator = createAccumulator(loadKernel(), layout, grid, BigInt(totalMax), subject);
  const { encoding, samples, metrics } = begin;
  assert.ok(accumulator.add(payload, encoding, { device: "dev-a", samples }, metrics, 0).ok);
  return accumulator.snapshot();
}

/** The values of a model, fetched part by part. */
async function fetched(device: TestDevice, { base: manifest }: Plan) {
  const { model: name, digest, chunkBytes, bytes } = manifest;
  const parts: Uint8Array[] = [];
  const before = device.got("part").length;
  for (let offset = 0; offset < bytes; offset += chunkBytes) {
    const length = Math.min(chunkBytes, bytes - offset);
    await device.say("fetch", { model: name, digest, offset, length });
    await device.next("part", before + parts.length + 1);
    parts.push(device.messages.filter((m) => m.kind === "part").at(-1)?.payload as Uint8Array);
  }
  const file = Uint8Array.from(Buffer.concat(parts));
  assert.equal(sha256(file), digest);
  const read = decodeSafetensors(file);
  assert.ok(read.ok);
  return read.values;
}

const first: Given = [
  ["dev-a", 3, 10],
  ["dev-b", -1, 7],
];
const second: Given = [
  ["dev-a", 5, 4],
  ["dev-b", 9, 12],
];

describe("site rounds", () => {
  it("follow one another on the site's own model and go up as one Partial", async () => {
    const { reducer, gateway, devices } = await site(["dev-a", "dev-b"]);
    const [a] = devices as [TestDevice];
    reducer.openRound(sitePlanOf(), ["dev-a", "dev-b"]);
    await cached(gateway);
    const { plan: one } = await offerOf(a, "mnist.1.1");
    assert.equal(one.base.digest, base.digest);
    assert.equal(one.training.seed, 7);
    await giveAll(devices, "mnist.1.1", first);
    const { plan: two } = await offerOf(a, "mnist.1.2");
    assert.equal(two.base.model, "mnist.1.1");
    assert.notEqual(two.training.seed, 7);
    assert.deepEqual(await fetched(a, two), oracle([first]).model);
    await giveAll(devices, "mnist.1.2", second);
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assertIs(reducer.partials[0], oracle([first, second]));
    await until("the seal is reported", () => reducer.lastProgress("mnist.1")?.sealed);
    assert.equal(reducer.lastProgress("mnist.1")?.folded, 2);
    assert.equal(
      reducer.heard("roundProgress").some((p) => p.round !== "mnist.1"),
      false,
    );
  });

  it("run once each, also when the disk does not let an old site model go", async () => {
    const memory = memoryDisk();
    let failed = 0;
    const disk: Disk = {
      ...memory,
      async remove(path) {
        if (path.startsWith("models/") && failed++ === 0) throw new Error(`cannot remove ${path}`);
        await memory.remove(path);
      },
    };
    const { reducer, gateway, devices } = await site(["dev-a", "dev-b"], {}, { disk });
    reducer.openRound(sitePlanOf({ siteRounds: 3 }), ["dev-a", "dev-b"]);
    await cached(gateway);
    await giveAll(devices, "mnist.1.1", first);
    await giveAll(devices, "mnist.1.2", second);
    await until("the disk has failed", () => failed > 0);
    await giveAll(devices, "mnist.1.3", first);
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assertIs(reducer.partials[0], oracle([first, second, first]));
    assert.equal(told(gateway, "seal-failed").length, 0);
    assert.equal(told(gateway, "round-resumed").length, 0);
  });

  it("leave nothing behind when they are over", async () => {
    const { reducer, dir, gateway, devices } = await site(["dev-a", "dev-b"]);
    reducer.openRound(sitePlanOf(), ["dev-a", "dev-b"]);
    await cached(gateway);
    await giveAll(devices, "mnist.1.1", first);
    await giveAll(devices, "mnist.1.2", second);
    await until("the Partial arrives", () => reducer.partials.length === 1);
    const left = async () => {
      const dirs = ["rounds", "sites", "models"].map((name) => readdir(join(dir, name)));
      return (await Promise.all(dirs)).flat();
    };
    let names = await left();
    for (const endMs = performance.now() + 20_000; performance.now() < endMs; ) {
      if (names.length === 1) break;
      await new Promise((resolve) => setTimeout(resolve, 5));
      names = await left();
    }
    assert.deepEqual(names, [base.digest]);
  });

  it("with a single one are the flat round, to the bit", async () => {
    const flat = await site(["dev-a", "dev-b"]);
    flat.reducer.openRound(sitePlanOf({ siteRounds: 1 }), ["dev-a", "dev-b"]);
    await giveAll(flat.devices, "mnist.1", first);
    await until("the Partial arrives", () => flat.reducer.partials.length === 1);
    const one = await site(["dev-a", "dev-b"]);
    one.reducer.openRound(sitePlanOf({ siteRounds: 1, offlineSiteRounds: 3 }), ["dev-a", "dev-b"]);
    await giveAll(one.devices, "mnist.1.1", first.toReversed());
    await until("the Partial arrives", () => one.reducer.partials.length === 1);
    assert.deepEqual(one.reducer.partials[0], flat.reducer.partials[0]);
  });

  it("answer a repeated update with its receipt after their end, and another with a conflict", async () => {
    const { reducer, gateway, devices } = await site(["dev-a"]);
    const [a] = devices as [TestDevice];
    reducer.openRound(sitePlanOf({ siteRounds: 3 }), ["dev-a"]);
    await cached(gateway);
    const { plan, update } = await give(a, "mnist.1.1", 3, 10);
    await offerOf(a, "mnist.1.2");
    const receipts = a.got("receipt").length;
    await a.say("begin", update.begin);
    assert.equal((await a.next("receipt", receipts + 1)).round, "mnist.1.1");
    await a.say("begin", sampleUpdate(plan, "dev-a", 4).begin);
    assert.equal((await a.next("refusal")).code, "conflict");
  });

  it("keep the composed weight within the plan's bound", async () => {
    const { reducer, gateway, devices } = await site(["dev-a", "dev-b"]);
    const [a, b] = devices as [TestDevice, TestDevice];
    reducer.openRound(sitePlanOf({ totalMax: 20, nMax: 20, siteRounds: 3 }), ["dev-a", "dev-b"]);
    await cached(gateway);
    await give(a, "mnist.1.1", 3, 15);
    await offerOf(b, "mnist.1.1");
    await b.say("decline", { round: "mnist.1.1", code: "not-eligible", message: "" });
    const { plan } = await offerOf(b, "mnist.1.2");
    await b.say("begin", sampleUpdate(plan, "dev-b", 1, { samples: 6 }).begin);
    assert.equal((await b.next("refusal")).code, "total-overflow");
    // Its own newest contribution takes the place of its last one.
    await give(a, "mnist.1.2", 3, 20);
    await give(a, "mnist.1.3", 3, 20);
    await b.say("decline", { round: "mnist.1.3", code: "not-eligible", message: "" });
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.equal(reducer.partials[0]?.weight, 20n);
    assert.equal(reducer.partials[0]?.contributors[0]?.updates, 3);
  });

  it("end with one that nobody contributes to", async () => {
    const { reducer, gateway, devices } = await site(["dev-a"]);
    const [a] = devices as [TestDevice];
    reducer.openRound(sitePlanOf({ siteRounds: 5 }), ["dev-a"]);
    await cached(gateway);
    await give(a, "mnist.1.1", 3, 10);
    await offerOf(a, "mnist.1.2");
    await a.say("decline", { round: "mnist.1.2", code: "not-eligible", message: "" });
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assertIs(reducer.partials[0], oracle([[["dev-a", 3, 10]]]));
  });

  it("are cut when the upstream closes the round: what is held goes up", async () => {
    const { reducer, gateway, devices } = await site(["dev-a", "dev-b"]);
    const [a, b] = devices as [TestDevice, TestDevice];
    reducer.openRound(sitePlanOf({ siteRounds: 5 }), ["dev-a", "dev-b"]);
    await cached(gateway);
    await giveAll(devices, "mnist.1.1", first);
    await give(a, "mnist.1.2", 5, 4);
    await offerOf(b, "mnist.1.2");
    reducer.tell({ $case: "roundClosed", value: { round: "mnist.1", outcome: "failed" } });
    await until("b is told", () => b.got("closed").some((c) => c.round === "mnist.1.2"));
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assertIs(reducer.partials[0], oracle([first, [["dev-a", 5, 4]]]));
  });
});

describe("site rounds without an uplink", () => {
  it("go on, and one Partial for all of them goes up once it is back", async () => {
    const { reducer, gateway, devices } = await site(["dev-a", "dev-b"], { absentGraceMs: 20 });
    reducer.openRound(sitePlanOf({ offlineSiteRounds: 50 }), ["dev-a", "dev-b"]);
    await cached(gateway);
    const rounds: Given[] = [];
    await giveAll(devices, "mnist.1.1", first);
    rounds.push(first);
    await reducer.close();
    await until("it is lost", () => told(gateway, "uplink-lost").length > 0);
    for (let k = 2; k <= 6; k++) {
      await giveAll(devices, `mnist.1.${k}`, second);
      rounds.push(second);
    }
    assert.equal(told(gateway, "site-rounds-composed").length, 0);
    const back = await stage.reducer(reducer.port);
    await until("the Partial arrives", () => back.partials.length === 1);
    assertIs(back.partials[0], oracle(rounds));
    assert.equal(back.partials[0]?.contributors[0]?.updates, 6);
    const reported = back.heard("roundProgress").map(({ round }) => round);
    assert.deepEqual([...new Set(reported)], ["mnist.1"]);
  });

  it("stop at the plan's allowance, and the Partial waits", async () => {
    const { reducer, dir, gateway, devices } = await site(["dev-a"], { absentGraceMs: 20 });
    const [a] = devices as [TestDevice];
    reducer.openRound(sitePlanOf({ siteRounds: 1, offlineSiteRounds: 2 }), ["dev-a"]);
    await cached(gateway);
    await offerOf(a, "mnist.1.1");
    await reducer.close();
    await until("it is lost", () => told(gateway, "uplink-lost").length > 0);
    const given: Given = [["dev-a", 3, 10]];
    for (const k of [1, 2, 3]) await giveAll(devices, `mnist.1.${k}`, given);
    await until("it is composed", () => told(gateway, "site-rounds-composed").length === 1);
    assert.equal(a.got("offer").length, 3);
    assert.deepEqual(gateway.status().idle, { why: "allowance", round: "mnist.1" });
    await gateway.close();
    const again = await stage.gateway(dir, reducer.address);
    assert.deepEqual(again.status().idle, { why: "allowance", round: "mnist.1" });
    const back = await stage.reducer(reducer.port);
    await until("the Partial arrives", () => back.partials.length === 1);
    assertIs(back.partials[0], oracle([given, given, given]));
  });

  it("pause when nobody contributes", async () => {
    const { reducer, gateway, devices } = await site(["dev-a"], { absentGraceMs: 20 });
    const [a] = devices as [TestDevice];
    reducer.openRound(sitePlanOf({ offlineSiteRounds: 50 }), ["dev-a"]);
    await cached(gateway);
    await give(a, "mnist.1.1", 3, 10);
    await reducer.close();
    await until("it is lost", () => told(gateway, "uplink-lost").length > 0);
    await offerOf(a, "mnist.1.2");
    await a.say("decline", { round: "mnist.1.2", code: "not-eligible", message: "" });
    await until("it pauses", () => told(gateway, "site-rounds-paused").length === 1);
    assert.equal(a.got("offer").length, 2);
    const back = await stage.reducer(reducer.port);
    await until("the Partial arrives", () => back.partials.length === 1);
    assertIs(back.partials[0], oracle([[["dev-a", 3, 10]]]));
  });
});

describe("a site that has handed over", () => {
  const plan = sitePlanOf({ siteRounds: 1, offlineSiteRounds: 50 });

  /** With one site round handed over, and receipted. */
  async function handedOver(names: string[], parts = {}) {
    const all = await site(names, { absentGraceMs: 20 }, parts);
    all.reducer.openRound(plan, names);
    await cached(all.gateway);
    await giveAll(
      all.devices,
      "mnist.1.1",
      first.filter(([name]) => names.includes(name)),
    );
    await until("it is delivered", () => told(all.gateway, "partial-delivered").length === 1);
    return all;
  }

  async function cutOff({ reducer, gateway }: Awaited<ReturnType<typeof handedOver>>) {
    const before = told(gateway, "uplink-lost").length;
    await reducer.close();
    await until("the link is lost", () => told(gateway, "uplink-lost").length > before);
  }

  it("goes on from its site model when its uplink goes away: a stretch of its own", async () => {
    const all = await handedOver(["dev-a", "dev-b"]);
    const { reducer, gateway, devices } = all;
    const [a] = devices as [TestDevice];
    reducer.tell({ $case: "roundClosed", value: { round: "mnist.1", outcome: "committed" } });
    assertIs(reducer.partials[0], oracle([first]));
    assert.deepEqual(gateway.status().idle, { why: "next-round", round: "mnist.1" });
    await cutOff(all);
    const { plan: second2 } = await offerOf(a, "mnist.1.2");
    assert.equal(second2.base.model, "mnist.1.1");
    assert.deepEqual(await fetched(a, second2), oracle([first]).model);
    await giveAll(devices, "mnist.1.2", second);
    await giveAll(devices, "mnist.1.3", first);
    await offerOf(a, "mnist.1.4");
    const back = await stage.reducer(reducer.port);
    await until("the stretch arrives", () => back.partials.length === 1);
    assertIs(back.partials[0], oracle([second, first], [first]), "mnist.1.2");
    const [, composed] = told(gateway, "site-rounds-composed");
    assert.ok(composed?.name === "site-rounds-composed");
    const { stretch, first: from, newest, siteRounds } = composed;
    assert.deepEqual([stretch, from, newest, siteRounds], ["mnist.1.2", 2, 4, 2]);
    // And once more, with one site round: its sum as it is.
    await cutOff({ ...all, reducer: back });
    await giveAll([a], "mnist.1.5", [["dev-a", 5, 4]]);
    const again = await stage.reducer(reducer.port);
    await until("the stretch arrives", () => again.partials.length === 1);
    assertIs(again.partials[0], oracle([[["dev-a", 5, 4]]], [first, second, first]), "mnist.1.5");
    assert.equal(
      again.heard("roundProgress").some(({ sealed }) => !sealed),
      false,
    );
  });

  it("goes on until the base of the session's next round has come, and takes that up then", async () => {
    const all = await handedOver(["dev-a"]);
    const { reducer, gateway, devices } = all;
    const [a] = devices as [TestDevice];
    const file = encodeSafetensors(layout, values.with(0, 2));
    const next = { ...plan, round: "mnist.2", base: makeManifest("mnist.1", file, sha256, 1024) };
    reducer.openRound(next, ["dev-a"]);
    await until("it waits", () => told(gateway, "round-waits").length === 1);
    await cutOff(all);
    await giveAll(devices, "mnist.1.2", [["dev-a", 5, 4]]);
    const back = await stage.reducer(reducer.port);
    back.models.set("mnist.1", file);
    await until("it is back", () => told(gateway, "uplink-attached").length === 2);
    back.openRound(next, ["dev-a"]);
    await until("the stretch arrives", () => back.partials.length === 1);
    assertIs(back.partials[0], oracle([[["dev-a", 5, 4]]], [first.slice(0, 1)]), "mnist.1.2");
    assert.equal((await offerOf(a, "mnist.2.1")).plan.base.model, "mnist.1");
  });

  it("stops when the session's next round opens, or when the session is over", async () => {
    for (const next of [true, false]) {
      const all = await handedOver(["dev-a"]);
      const { reducer, dir, gateway, devices } = all;
      const [a] = devices as [TestDevice];
      if (next) {
        const { round: _, ...rest } = sitePlanOf({ siteRounds: 1 });
        reducer.openRound({ ...rest, round: "mnist.2" }, ["dev-a"]);
        await give(a, "mnist.2", 3, 10);
      } else reducer.tell({ $case: "sessionOver", value: { session: "mnist" } });
      const states = () => readdir(join(dir, "sites"));
      for (const endMs = performance.now() + 20_000; performance.now() < endMs; ) {
        if ((await states()).length === 0) break;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      assert.deepEqual(await states(), []);
      const offers = a.got("offer").length;
      await cutOff(all);
      await stage.reducer(reducer.port);
      await until("it is back", () => told(gateway, "uplink-attached").length === 2);
      assert.equal(a.got("offer").length, offers);
    }
  });

  it("is asked to evaluate all the same, and goes on after it", async () => {
    for (const finishFirst of [false, true]) {
      const all = await site(["dev-a"], { absentGraceMs: 20 });
      const { reducer, gateway, devices } = all;
      const [a] = devices as [TestDevice];
      const rules = { siteRounds: 1, offlineSiteRounds: 50, finishFirst };
      reducer.openRound(sitePlanOf(rules), ["dev-a"]);
      await cached(gateway);
      await give(a, "mnist.1.1", 3, 10);
      await until("it is delivered", () => told(gateway, "partial-delivered").length === 1);
      reducer.openRound(sitePlanOf({ round: "mnist.2", task: "evaluate", finishFirst }), ["dev-a"]);
      const { plan: evaluation } = await offerOf(a, "mnist.2");
      await a.say("begin", sampleUpdate(evaluation, "dev-a", 0).begin);
      await until("it is receipted", () => a.got("receipt").some((r) => r.round === "mnist.2"));
      await until("both are in", () => told(gateway, "partial-delivered").length === 2);
      await cutOff(all);
      await give(a, "mnist.1.2", 5, 4);
      // The session's next training round waits for the site round that runs only where it is to.
      await offerOf(a, "mnist.1.3");
      const back = await stage.reducer(reducer.port);
      back.models.set("mnist.0", model);
      await until("it is back", () => told(gateway, "uplink-attached").length === 2);
      back.openRound(sitePlanOf({ ...rules, round: "mnist.3" }), ["dev-a"]);
      if (finishFirst) await give(a, "mnist.1.3", 1, 4);
      await give(a, "mnist.3.1", 1, 4);
      await until("both arrive", () => back.partials.length === 2);
      assert.equal(back.partials[0]?.contributors[0]?.updates, finishFirst ? 2 : 1);
    }
  });

  it("goes on, too, when a gateway above it has no link", async () => {
    const { reducer, gateway, devices } = await handedOver(["dev-a"]);
    const welcome = { protocolVersion: 1, upstream: "region", heartbeatIntervalMs: 500 };
    const path = (...above: string[]) =>
      reducer.tell({ $case: "welcome", value: { ...welcome, path: above, nowMs: 0n } });
    path("region", "country");
    await giveAll(devices, "mnist.1.2", [["dev-a", 5, 4]]);
    assert.equal(gateway.status().link.brokenAbove?.gateway, "country");
    assert.equal(reducer.partials.length, 1);
    path("region", "country", "cloud");
    await until("the stretch arrives", () => reducer.partials.length === 2);
    const expected = oracle([[["dev-a", 5, 4]]], [[["dev-a", 3, 10]]]);
    assertIs(reducer.partials[1], expected, "mnist.1.2");
    assert.equal(gateway.status().link.brokenAbove, null);
  });

  it("goes on after a restart without an uplink, and hands nothing over twice", async () => {
    const disk = memoryDisk();
    const all = await handedOver(["dev-a"], { disk });
    const { reducer, dir, gateway } = all;
    await reducer.close();
    await gateway.close();
    let given = 2;
    let running = gateway;
    for (; given <= 4; given++) {
      running = await stage.gateway(dir, reducer.address, { absentGraceMs: 20 }, { disk });
      const a = await stage.device(running, "dev-a");
      await give(a, `mnist.1.${given}`, 5, 4);
      await offerOf(a, `mnist.1.${given + 1}`);
      await running.close();
    }
    running = await stage.gateway(dir, reducer.address, { absentGraceMs: 20 }, { disk });
    const back = await stage.reducer(reducer.port);
    await until("the stretch arrives", () => back.partials.length === 1);
    const five: Given = [["dev-a", 5, 4]];
    const alone: Given = [["dev-a", 3, 10]];
    assertIs(back.partials[0], oracle([five, five, five], [alone]), "mnist.1.2");
    await until("it is gone", () => running.status().waiting.partials === 0);
    assert.equal(back.partials.length, 1);
  });
});

describe("a crash in site rounds", () => {
  it("loses nothing that was receipted and counts nothing twice, at boot without an uplink", async () => {
    const reducer = await stage.reducer();
    reducer.models.set("mnist.0", model);
    const dir = await stage.dataDir();
    let gateway = await stage.process(dir, reducer.address);
    let devices = [await stage.device(gateway, "dev-a"), await stage.device(gateway, "dev-b")];
    await reported(reducer, 2);
    reducer.openRound(sitePlanOf({ offlineSiteRounds: 50, siteRounds: 4 }), ["dev-a", "dev-b"]);
    await offerOf(devices[0] as TestDevice, "mnist.1.1");
    await until("the base is fetched", () => reducer.fetches.length > 0);
    await giveAll(devices, "mnist.1.1", first);
    await offerOf(devices[1] as TestDevice, "mnist.1.2");
    // With one update of the second site round durable, and the link away.
    const kept = await give(devices[0] as TestDevice, "mnist.1.2", 5, 4);
    await reducer.close();
    for (const round of ["mnist.1.2", "mnist.1.3"]) {
      await gateway.kill();
      gateway = await stage.process(dir, reducer.address);
      devices = [await stage.device(gateway, "dev-a"), await stage.device(gateway, "dev-b")];
      const [a, b] = devices as [TestDevice, TestDevice];
      await a.say("begin", kept.update.begin);
      assert.equal((await a.next("receipt")).digest, kept.update.begin.digest);
      if (round === "mnist.1.2") {
        await give(b, round, 9, 12);
        await offerOf(b, "mnist.1.3");
      }
    }
    const [a, b] = devices as [TestDevice, TestDevice];
    const { plan } = await offerOf(a, "mnist.1.3");
    assert.deepEqual(await fetched(a, plan), oracle([first, second]).model);
    await giveAll([a, b], "mnist.1.3", first);
    await offerOf(a, "mnist.1.4");
    const back = await stage.reducer(reducer.port);
    await giveAll([a, b], "mnist.1.4", second);
    await until("the Partial arrives", () => back.partials.length === 1);
    assertIs(back.partials[0], oracle([first, second, first, second]));
    await gateway.kill();
  });
});

describe("a plan that says to finish first", () => {
  it("is not cut by its closing, and the session's newest round waits for its turn", async () => {
    const { reducer, gateway, devices } = await site(["dev-a"]);
    const [a] = devices as [TestDevice];
    const plans = [1, 2, 3].map((n) => samplePlan({ round: `mnist.${n}`, finishFirst: true })) as [
      Plan,
      Plan,
      Plan,
    ];
    reducer.openRound(plans[0], ["dev-a"]);
    await offerOf(a, "mnist.1");
    reducer.tell({ $case: "roundClosed", value: { round: "mnist.1", outcome: "stepped" } });
    reducer.openRound(plans[1], ["dev-a"]);
    reducer.openRound(plans[2], ["dev-a"]);
    await until("both wait", () => told(gateway, "round-waits").length === 2);
    await until("one is displaced", () => reducer.heard("planRefused").length === 1);
    assert.equal(reducer.heard("planRefused")[0]?.round, "mnist.2");
    assert.deepEqual(a.got("closed"), []);
    await give(a, "mnist.1", 3, 10);
    await give(a, "mnist.3", 3, 10);
    await until("both arrive", () => reducer.partials.length === 2);
  });
});

describe("a start", () => {
  /** A data directory with site round 2 of 3 open and one update in its journal. */
  async function leftOpen() {
    const disk = memoryDisk();
    const { reducer, dir, gateway, devices } = await site(["dev-a", "dev-b"], {}, { disk });
    reducer.openRound(sitePlanOf({ siteRounds: 3 }), ["dev-a", "dev-b"]);
    await cached(gateway);
    await giveAll(devices, "mnist.1.1", first);
    await give(devices[0] as TestDevice, "mnist.1.2", 5, 4);
    await gateway.close();
    return { disk, reducer, dir };
  }

  it("counts a site round once whose journal outlived it, and answers for it", async () => {
    const { disk, reducer, dir } = await leftOpen();
    // As a kill leaves it between the state's write and the ledger's: the state has site round 2,
    // the index does not, and its journal is still there.
    const states = openSiteStates(disk);
    const plan = sitePlanOf({ siteRounds: 3 });
    const before = await states.read(plan, undefined);
    assert.ok(before !== undefined);
    const update = sampleUpdate(sitePlan(plan, 2, base), "dev-a", 5, { samples: 4 });
    const newest = { digest: update.begin.digest, number: 2 };
    const state = {
      work: addSiteRound(before.work, sumOfOne(plan, update)),
      number: 2,
      newest: new Map([...before.newest, ["dev-a", newest]]),
    };
    await states.write("mnist.1", state, undefined);
    const again = await stage.gateway(dir, reducer.address, {}, { disk });
    const a = await stage.device(again, "dev-a");
    await a.say("begin", update.begin);
    assert.equal((await a.next("receipt")).digest, update.begin.digest);
    const { plan: third } = await offerOf(a, "mnist.1.3");
    assert.deepEqual(await fetched(a, third), oracle([first, [["dev-a", 5, 4]]]).model);
    await give(a, "mnist.1.3", 1, 10);
    const b = await stage.device(again, "dev-b");
    await offerOf(b, "mnist.1.3");
    await b.say("decline", { round: "mnist.1.3", code: "not-eligible", message: "" });
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assertIs(reducer.partials[0], oracle([first, [["dev-a", 5, 4]], [["dev-a", 1, 10]]]));
  });

  it("writes the site model anew, whatever became of its file", async () => {
    const { disk, reducer, dir } = await leftOpen();
    const [site] = (await disk.list("models")).filter((name) => name !== base.digest);
    const path = `models/${site}`;
    const bytes = await disk.readFile(path);
    await disk.writeFileAtomic(path, [bytes.with(75, (bytes[75] as number) ^ 1)]);
    const again = await stage.gateway(dir, reducer.address, {}, { disk });
    const b = await stage.device(again, "dev-b");
    const { plan } = await offerOf(b, "mnist.1.2");
    assert.equal(plan.base.digest, site);
    assert.deepEqual(await fetched(b, plan), oracle([first]).model);
  });

  it("is refused on a damaged state of site rounds, which is named", async () => {
    const { disk, reducer, dir } = await leftOpen();
    const path = "sites/mnist.1.state";
    const bytes = await disk.readFile(path);
    // The low byte of a sum: another one that could be.
    const low = bytes.length - 8;
    await disk.writeFileAtomic(path, [bytes.with(low, (bytes[low] as number) ^ 1)]);
    await assert.rejects(stage.gateway(dir, reducer.address, {}, { disk }), (error: Error) => {
      assert.match(error.message, /sites\/mnist\.1\.state/);
      return true;
    });
  });

  it("without the cloud's base hands over what the site rounds came to", async () => {
    const { disk, reducer, dir } = await leftOpen();
    await disk.remove(`models/${base.digest}`);
    for (const name of await disk.list("models")) await disk.remove(`models/${name}`);
    reducer.models.delete("mnist.0");
    const again = await stage.gateway(dir, reducer.address, {}, { disk });
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assertIs(reducer.partials[0], oracle([first, [["dev-a", 5, 4]]]));
    assert.equal(told(again, "site-model-failed").length > 0, true);
  });

  it("takes a base that is damaged for one that is not there", async () => {
    const { disk, reducer, dir } = await leftOpen();
    const path = `models/${base.digest}`;
    const bytes = await disk.readFile(path);
    await disk.writeFileAtomic(path, [bytes.with(75, (bytes[75] as number) ^ 1)]);
    const again = await stage.gateway(dir, reducer.address, {}, { disk });
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assertIs(reducer.partials[0], oracle([first, [["dev-a", 5, 4]]]));
    assert.deepEqual(told(again, "round-unread"), []);
  });

  it("goes on with the rounds that can be read, and does not begin the others anew", async () => {
    const disk = memoryDisk();
    const { reducer, dir, gateway, devices } = await site(["dev-a"], {}, { disk });
    const [a] = devices as [TestDevice];
    reducer.openRound(samplePlan({ round: "other.1" }), ["dev-a"]);
    reducer.openRound(samplePlan(), ["dev-a"]);
    await offerOf(a, "other.1");
    await offerOf(a, "mnist.1");
    await gateway.close();
    let broken = true;
    const unreadable = {
      ...disk,
      openAppend: (path: string) =>
        broken && path === "rounds/other.1.journal"
          ? Promise.reject(new Error("the sector cannot be read"))
          : disk.openAppend(path),
    };
    const again = await stage.gateway(dir, reducer.address, {}, { disk: unreadable });
    assert.equal(told(again, "round-unread").length, 1);
    broken = false;
    const device = await stage.device(again, "dev-a");
    reducer.openRound(samplePlan({ round: "other.1" }), ["dev-a"]);
    await until("it is refused", () => reducer.heard("planRefused").length > 0);
    assert.equal(reducer.heard("planRefused")[0]?.round, "other.1");
    await give(device, "mnist.1", 3, 10);
    await until("the Partial arrives", () => reducer.partials.length === 1);
  });
});
