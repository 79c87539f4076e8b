import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { sha256 } from "@tributary/proto/host/digest.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { makeManifest, verifyChunk } from "@tributary/proto/wire/manifest.js";
import { connectDevice } from "./testing/device.js";
import { sampleModel, samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

/** A gateway with an upstream and welcomed devices. */
async function site(names: string[], settings: object = {}, parts = {}) {
  const reducer = await stage.reducer();
  const dir = await stage.dataDir();
  const gateway = await stage.gateway(dir, reducer.address, settings, parts);
  const devices = [];
  for (const name of names) devices.push(await stage.device(gateway, name));
  await reported(reducer, names.length);
  return { reducer, dir, gateway, devices };
}

describe("a round", () => {
  it("is offered, receipted, summed exactly and shipped", async () => {
    const { reducer, devices } = await site(["dev-a", "dev-b"]);
    const [a, b] = devices as [(typeof devices)[0], (typeof devices)[0]];
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a", "dev-b"]);

    const offer = await a.next("offer");
    assert.equal(offer.gateway, "gw-1");
    assert.deepEqual(encodeCbor(offer.plan), encodeCbor(plan));
    const first = sampleUpdate(plan, "dev-a", 3, { samples: 10 });
    await a.upload(first, 64);
    assert.equal((await a.next("receipt")).digest, first.begin.digest);
    await b.upload(sampleUpdate(plan, "dev-b", -1, { samples: 7 }));
    await b.next("receipt");

    await until("the Partial arrives", () => reducer.partials.length === 1);
    const partial = reducer.partials[0];
    assert.equal(partial?.weight, 17n);
    assert.deepEqual(partial?.contributors, [
      { round: plan.round, device: "dev-a", samples: 10, updates: 1 },
      { round: plan.round, device: "dev-b", samples: 7, updates: 1 },
    ]);
    assert.ok(partial?.sum.every((value) => value === 3n * 10n - 7n));
    await until("the seal is reported", () => reducer.lastProgress(plan.round)?.sealed);
    assert.equal(reducer.lastProgress(plan.round)?.folded, 2);
  });

  it("of an evaluation takes metrics without values", async () => {
    const { reducer, devices } = await site(["dev-a"]);
    const [a] = devices as [(typeof devices)[0]];
    const plan = samplePlan({ task: "evaluate" });
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    const { begin } = sampleUpdate(plan, "dev-a", 0, { metrics: { accuracy: 524_288 } });
    await a.say("begin", begin);
    await a.next("receipt");
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.deepEqual(reducer.partials[0]?.metrics, {
      accuracy: { sum: 5_242_880n, weight: 10n },
    });
    assert.equal(reducer.partials[0]?.sum.length, 0);
  });

  it("answers a repeated update with its receipt, after the seal too, and another with a conflict", async () => {
    const { reducer, devices } = await site(["dev-a", "dev-b"]);
    const [a, b] = devices as [(typeof devices)[0], (typeof devices)[0]];
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a", "dev-b"]);
    await a.next("offer");
    const update = sampleUpdate(plan, "dev-a", 3);
    await a.upload(update);
    await a.next("receipt");
    await a.say("begin", update.begin);
    await a.next("receipt", 2);
    await a.say("begin", sampleUpdate(plan, "dev-a", 4).begin);
    assert.equal((await a.next("refusal")).code, "conflict");

    await b.upload(sampleUpdate(plan, "dev-b", 1));
    await until("the Partial arrives", () => reducer.partials.length === 1);
    await a.say("begin", update.begin);
    await a.next("receipt", 3);
    await a.say("begin", sampleUpdate(plan, "dev-a", 4).begin);
    assert.equal((await a.next("refusal", 2)).code, "conflict");
    assert.equal(reducer.partials[0]?.weight, 20n);
    await until("the duplicates are reported", () => {
      const beat = reducer.heard("heartbeat").at(-1);
      return beat?.duplicatesDropped === 2n && beat.refusals.conflict === 2n;
    });
  });

  it("seals at the site deadline and tells devices that are late", async () => {
    const { reducer, devices } = await site(["dev-a", "dev-b"]);
    const [a, b] = devices as [(typeof devices)[0], (typeof devices)[0]];
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a", "dev-b"], 1_500);
    await b.next("offer");
    await a.next("offer");
    await a.upload(sampleUpdate(plan, "dev-a", 3));
    await a.next("receipt");
    assert.equal((await b.next("closed")).round, plan.round);
    await until("the Partial arrives", () => reducer.partials.length === 1);
    await b.say("begin", sampleUpdate(plan, "dev-b", 1).begin);
    assert.equal((await b.next("refusal")).code, "round-closed");
    assert.equal(a.got("closed").length, 0);
  });

  it("with nothing folded is reported sealed and ships nothing", async () => {
    const { reducer, devices } = await site(["dev-a"]);
    const [a] = devices as [(typeof devices)[0]];
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    await a.say("decline", { round: plan.round, code: "not-eligible", message: "on battery" });
    await until("the seal is reported", () => reducer.lastProgress(plan.round)?.sealed);
    const { offered, folded, declined } = reducer.lastProgress(plan.round) ?? {};
    assert.deepEqual({ offered, folded, declined }, { offered: 1, folded: 0, declined: 1 });
    // Asked again, as after a reconnect of an upstream that missed it.
    const before = reducer.heard("roundProgress").length;
    reducer.openRound(plan, ["dev-a"]);
    await until("it answers", () => reducer.heard("roundProgress").length > before);
    assert.equal(reducer.lastProgress(plan.round)?.sealed, true);
    assert.equal(reducer.partials.length, 0);
  });

  it("is refused when the plan could overflow the sum", async () => {
    const { reducer } = await site(["dev-a"]);
    const plan = samplePlan({ nMax: 2 ** 39 });
    reducer.openRound(plan, ["dev-a"]);
    await until("it is refused", () => reducer.heard("planRefused").length === 1);
    assert.equal(reducer.heard("planRefused")[0]?.code, "plan-headroom");
  });

  it("is closed from above before its time: what is held is shipped", async () => {
    const { reducer, devices } = await site(["dev-a", "dev-b"]);
    const [a, b] = devices as [(typeof devices)[0], (typeof devices)[0]];
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a", "dev-b"]);
    await b.next("offer");
    await a.next("offer");
    await a.upload(sampleUpdate(plan, "dev-a", 3));
    await a.next("receipt");
    const value = { round: plan.round, outcome: "failed" };
    reducer.answer = () => ({
      receipt: { digest: "", outcome: "expired", rule: "late" },
      refusal: undefined,
    });
    reducer.tell({ $case: "roundClosed", value });
    await b.next("closed");
    await until("the Partial arrives", () => reducer.partials.length === 1);
  });
});

describe("a crash", () => {
  it("in mid-round loses nothing that was receipted", async () => {
    const reducer = await stage.reducer();
    const dir = await stage.dataDir();
    const names = ["dev-a", "dev-b", "dev-c"];
    const plan = samplePlan();
    const first = await stage.process(dir, reducer.address);
    const [a, b] = [await stage.device(first, "dev-a"), await stage.device(first, "dev-b")];
    await stage.device(first, "dev-c");
    await reported(reducer, 3);
    reducer.openRound(plan, names);
    await a.next("offer");
    await b.next("offer");
    const kept = sampleUpdate(plan, "dev-a", 3);
    await a.upload(kept);
    await a.next("receipt");
    // In mid-upload.
    const cut = sampleUpdate(plan, "dev-b", 5);
    await b.say("begin", cut.begin);
    await b.next("grant");
    await b.say("chunk", { round: plan.round, offset: 0 }, cut.payload.subarray(0, 64));
    await first.kill();

    const second = await stage.process(dir, reducer.address);
    await until("it attaches again", () => reducer.heard("hello").length >= 2);
    const hello = reducer.heard("hello");
    assert.equal(hello.at(-1)?.incarnation, hello[0]?.incarnation);
    assert.deepEqual(hello.at(-1)?.rounds, [plan.round]);
    const a2 = await stage.device(second, "dev-a");
    const b2 = await stage.device(second, "dev-b");
    const c2 = await stage.device(second, "dev-c");
    await b2.next("offer");
    await c2.next("offer");
    await a2.say("begin", kept.begin);
    assert.equal((await a2.next("receipt")).digest, kept.begin.digest);
    assert.equal(a2.got("offer").length, 0);
    await b2.upload(cut);
    await b2.next("receipt");
    await c2.say("decline", { round: plan.round, code: "train-failed", message: "" });
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.deepEqual(
      reducer.partials[0]?.contributors.map((c) => c.device),
      ["dev-a", "dev-b"],
    );
    assert.ok(reducer.partials[0]?.sum.every((value) => value === 80n));
    await second.kill();

    // The receipt outlives the round, too.
    const third = await stage.process(dir, reducer.address);
    const a3 = await stage.device(third, "dev-a");
    await a3.say("begin", kept.begin);
    assert.equal((await a3.next("receipt")).digest, kept.begin.digest);
  });
});

describe("a cut uplink", () => {
  it("stops nothing at the site; the Partial ships when the link is back, and may be expired", async () => {
    const { reducer, gateway, devices } = await site(["dev-a"]);
    const [a] = devices as [(typeof devices)[0]];
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    await reducer.close();
    await until("it is lost", () => gateway.events.some((e) => e.name === "uplink-lost"));
    const update = sampleUpdate(plan, "dev-a", 3);
    await a.upload(update);
    assert.equal((await a.next("receipt")).digest, update.begin.digest);
    await until("it seals", () => gateway.events.some((e) => e.name === "round-sealed"));

    const back = await stage.reducer(reducer.port);
    back.answer = () => ({
      receipt: { digest: "", outcome: "expired", rule: "late" },
      refusal: undefined,
    });
    await until("the Partial arrives", () => back.partials.length === 1);
    await until("it is recorded", () =>
      gateway.events.some((e) => e.name === "partial-delivered" && e.outcome === "expired"),
    );
    await until("the outbox is empty", () => back.heard("heartbeat").at(-1)?.outboxPartials === 0);
  });

  it("in the middle of a Partial goes on where it stopped", async () => {
    const reducer = await stage.reducer();
    reducer.breakSendAfter = 512 * 1024;
    const gateway = await stage.gateway(await stage.dataDir(), reducer.address);
    const a = await stage.device(gateway, "dev-a");
    await reported(reducer, 1);
    const plan = samplePlan({ layout: [{ name: "w", shape: [200_000] }] });
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    await a.upload(sampleUpdate(plan, "dev-a", 3));
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.equal(reducer.sends[0], 0);
    assert.ok((reducer.sends.at(-1) ?? 0) >= 512 * 1024);
  });

  it("on which the upstream is silent is noticed", async () => {
    const { reducer, gateway } = await site(["dev-a"]);
    reducer.echo = false;
    await until("it is lost", () => gateway.events.some((e) => e.name === "uplink-lost"), 12_000);
    reducer.echo = true;
    await until("it is back", () => reducer.heard("hello").length >= 2);
  });
});

describe("a disk", () => {
  it("that is full refuses updates with storage-full and recovers", async () => {
    const disk = memoryDisk();
    const { reducer, gateway, devices } = await site(["dev-a"], {}, { disk });
    const states = () => gateway.events.filter(({ name }) => name === "storage-state").length;
    const [a] = devices as [(typeof devices)[0]];
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    const update = sampleUpdate(plan, "dev-a", 3);
    await a.say("begin", update.begin);
    await a.next("grant");
    disk.fail("full");
    await a.say("chunk", { round: plan.round, offset: 0 }, update.payload);
    const refusal = await a.next("refusal");
    assert.equal(refusal.code, "storage-full");
    assert.equal(refusal.retryAfterMs, 10);
    assert.equal(a.got("receipt").length, 0);
    assert.equal(a.connected, true);
    await a.say("begin", update.begin);
    assert.equal((await a.next("refusal", 2)).code, "storage-full");
    assert.equal(states(), 1);
    disk.fail("none");
    await until("it takes updates again", () => states() === 2);
    await a.upload(update);
    await a.next("receipt");
    await until("the Partial arrives", () => reducer.partials.length === 1);
    assert.equal(reducer.partials[0]?.weight, 10n);
  });

  it("that is full when a round opens leaves nothing of it for the next start", async () => {
    const disk = memoryDisk();
    const reducer = await stage.reducer();
    const dir = await stage.dataDir();
    const first = await stage.gateway(dir, reducer.address, {}, { disk });
    await stage.device(first, "dev-a");
    await reported(reducer, 1);
    disk.fail("full");
    reducer.openRound(samplePlan(), ["dev-a"]);
    await until("it is refused", () => reducer.heard("planRefused").length === 1);
    assert.equal(reducer.heard("planRefused")[0]?.code, "storage-failed");
    await first.close();
    disk.fail("none");
    const second = await stage.gateway(dir, reducer.address, {}, { disk });
    assert.deepEqual(
      second.events.filter(({ name }) => name === "round-opened" || name === "round-resumed"),
      [],
    );
  });

  it("that left a torn tail has it cut, and told", async () => {
    const disk = memoryDisk();
    const reducer = await stage.reducer();
    const dir = await stage.dataDir();
    const first = await stage.gateway(dir, reducer.address, {}, { disk });
    const a = await stage.device(first, "dev-a");
    await stage.device(first, "dev-b");
    await reported(reducer, 2);
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a", "dev-b"]);
    await a.next("offer");
    await a.upload(sampleUpdate(plan, "dev-a", 3));
    await a.next("receipt");
    await first.close();
    const file = `rounds/${plan.round}.journal`;
    const journal = await disk.openAppend(file);
    const offset = journal.size;
    await journal.append([Uint8Array.of(1, 2, 3, 4, 5)]);
    await journal.close();
    const second = await stage.gateway(dir, reducer.address, {}, { disk });
    assert.deepEqual(
      second.events.filter(({ name }) => name === "journal-cut"),
      [{ level: "warn", name: "journal-cut", file, offset, bytes: 5 }],
    );
  });

  it("whose budget is used up refuses at the header", async () => {
    const { reducer, devices } = await site(["dev-a"], { budgetBytes: 1024 * 1024 });
    const [a] = devices as [(typeof devices)[0]];
    const plan = samplePlan({ layout: [{ name: "w", shape: [200_000] }] });
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    await a.say("begin", sampleUpdate(plan, "dev-a", 3).begin);
    assert.equal((await a.next("refusal")).code, "storage-full");
  });
});

describe("models", () => {
  it("are served in verified parts, and downloads resume", async () => {
    const reducer = await stage.reducer();
    reducer.breakFetchAfter = 2_100;
    const gateway = await stage.gateway(await stage.dataDir(), reducer.address);
    const a = await stage.device(gateway, "dev-a");
    await reported(reducer, 1);
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a"]);
    const { base } = (await a.next("offer")).plan;
    const { model, digest } = base;
    const parts: Uint8Array[] = [];
    for (let offset = 0; offset < base.bytes; offset += base.chunkBytes) {
      await a.say("fetch", { model, digest, offset, length: base.chunkBytes });
      await a.next("part", parts.length + 1);
      const part = a.messages.filter((m) => m.kind === "part").at(-1);
      assert.ok(part !== undefined && verifyChunk(base, offset, part.payload, sha256).ok);
      parts.push(part.payload);
    }
    assert.deepEqual(Uint8Array.from(Buffer.concat(parts)), sampleModel);
    assert.deepEqual(reducer.fetches, [0, 2048]);

    await a.say("fetch", { model, digest, offset: 1, length: 100 });
    assert.equal((await a.next("refusal")).code, "bad-offset");
    await a.say("fetch", { model, digest: "0".repeat(64), offset: 0, length: 100 });
    assert.equal((await a.next("refusal", 2)).code, "unknown-model");
  });

  it("that are published reach devices that are here and those that come", async () => {
    const { reducer, gateway, devices } = await site(["dev-a"]);
    const [a] = devices as [(typeof devices)[0]];
    const layout = [{ name: "w", shape: [100] }];
    const manifest = makeManifest("mnist.0", sampleModel, sha256, 1024);
    const value = {
      session: "mnist",
      manifest: Buffer.from(encodeCbor(manifest)),
      layout: Buffer.from(encodeCbor(layout)),
    };
    reducer.tell({ $case: "modelPublished", value });
    await until("dev-a is told", () => a.published().length === 1);
    assert.equal(a.published()[0]?.manifest.digest, manifest.digest);
    const b = await stage.device(gateway, "dev-b");
    await until("dev-b is told", () => b.published().length === 1);
  });
});

describe("bad input", () => {
  it("is answered with a code and changes nothing", async () => {
    const { reducer, devices } = await site(["dev-a"]);
    const [a] = devices as [(typeof devices)[0]];
    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a"]);
    await a.next("offer");
    const { begin } = sampleUpdate(plan, "dev-a", 3);
    const deep = { round: [[[[[[[[1]]]]]]]] };
    const cases: [string, Uint8Array, string][] = [
      ["begin", new Uint8Array([1, 2]), "malformed"],
      ["begin", Uint8Array.from([9, ...encodeEnvelope(begin).subarray(1)]), "protocol-version"],
      ["begin", encodeEnvelope(deep), "too-deep"],
      ["begin", encodeEnvelope({ ...begin, extra: 1 }), "malformed"],
      ["begin", encodeEnvelope(begin, new Uint8Array(3)), "malformed"],
      ["begin", encodeEnvelope({ pad: new Uint8Array(20_000) }), "too-large"],
      ["gossip", encodeEnvelope({}), "unknown-kind"],
      ["begin", encodeEnvelope({ ...begin, samples: Number.NaN }), "malformed"],
    ];
    for (const [index, [kind, bytes, code]] of cases.entries()) {
      await a.raw(kind, bytes);
      assert.equal((await a.next("refusal", index + 1)).code, code, `case ${index}`);
    }
    await a.upload(sampleUpdate(plan, "dev-a", 3));
    await a.next("receipt");
  });

  it("from a second connection of a device: the newest wins", async () => {
    const { gateway, devices } = await site(["dev-a"]);
    const [older] = devices as [(typeof devices)[0]];
    const newer = await connectDevice(gateway.mqttPort, "dev-a");
    await until("the older is cut", () => !older.connected);
    await newer.hello();
    assert.equal(newer.connected, true);
    await newer.close();
  });
});
