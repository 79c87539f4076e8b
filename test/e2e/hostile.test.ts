import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { connectDevice, type TestDevice } from "@tributary/gateway/testing/device.js";
import { type SampleUpdate, sampleUpdate } from "@tributary/gateway/testing/sample.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import type { Code } from "@tributary/proto/wire/codes.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { connectAsync } from "mqtt";
import { firstOf } from "tributary/cli/api.js";
import { runHere } from "tributary/cli/testing/command.js";
import {
  assembled,
  type Floor,
  type FloorCloud,
  type FloorGateway,
  finished,
  importModel,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer, type WatchedTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

const ROUNDS = 2;
/** 2^-12: a step of every tensor's grid. */
const STEPS = 256;

let floor: Floor;
let cloud: FloorCloud;
let gateway: FloorGateway;
let trainers: readonly WatchedTrainer[];
/** A device of the fleet that speaks the protocol by hand: well, and as badly as can be. */
let mallory: TestDevice;

before(async () => {
  floor = await openFloor();
  cloud = await floor.cloud();
  gateway = await floor.gateway("gw-1", { site: "plant", upstreamPort: cloud.grpcPort });
  await importModel(cloud.api, "start", layout, initialValues);
  const { mqttPort } = gateway;
  const honest = [
    { device: "press", samples: 7 },
    { device: "lathe", samples: 30 },
  ];
  trainers = honest.map(createStepTrainer);
  for (const [i, trainer] of trainers.entries()) {
    await floor.device(honest[i]?.device ?? "", { site: "plant", mqttPort, trainer });
  }
  mallory = await connectDevice(mqttPort, "mallory");
  await mallory.hello();
  await assembled(cloud.api, { "gw-1": 3 });
});
after(async () => {
  await mallory.close();
  await floor.close();
});

async function planOf(device: TestDevice, round: string): Promise<Plan> {
  const offered = () => device.got("offer").find(({ plan }) => plan.round === round);
  await until(`${device.device} is offered ${round}`, () => offered() !== undefined);
  return offered()?.plan as Plan;
}

/** Mallory's honest contribution to a round; resolves with it once it is receipted. */
async function contribute(round: string): Promise<SampleUpdate> {
  const update = sampleUpdate(await planOf(mallory, round), "mallory", STEPS);
  await mallory.upload(update);
  await until(`${round} is receipted`, () =>
    mallory.got("receipt").some(({ digest }) => digest === update.begin.digest),
  );
  return update;
}

const startSession = (name: string) =>
  cloud.api.startSession({ ...sessionParams, name, rounds: ROUNDS, devicesMin: 3 });

type Attack = {
  readonly what: string;
  /** The kind that the refusal is about, and its code. */
  readonly answer: readonly [about: string, code: Code];
  readonly by?: TestDevice;
  /** Whether a transfer is granted first, as for an honest update. */
  readonly granted?: boolean;
  send(by: TestDevice): Promise<unknown>;
};

/** Every attack is on a round that is open, was offered to mallory, and has not yet its update. */
function attacks(plan: Plan, closedRound: string, stranger: TestDevice): readonly Attack[] {
  const { round } = plan;
  const honest = sampleUpdate(plan, "mallory", STEPS);
  const begin = (what: string, code: Code, changes: Partial<Begin>): Attack => ({
    what,
    answer: ["begin", code],
    send: (by) => by.say("begin", sampleUpdate(plan, by.device, STEPS, changes).begin),
  });
  const raw = (what: string, kind: string, code: Code, bytes: Uint8Array): Attack => ({
    what,
    answer: [kind === "boast" ? "unknown" : kind, code],
    send: (by) => by.raw(kind, bytes),
  });
  const payload = (what: string, code: Code, value: number): Attack => ({
    what,
    answer: ["chunk", code],
    async send(by) {
      const values = new Float32Array(honest.payload.slice().buffer).fill(value, 4, 5);
      const bytes = new Uint8Array(values.buffer);
      await by.upload(sampleUpdate(plan, "mallory", STEPS, { payload: bytes }));
    },
  });
  const chunk = (what: string, code: Code, offset: number, bytes: Uint8Array): Attack => ({
    what,
    answer: ["chunk", code],
    granted: true,
    send: (by) => by.say("chunk", { round, offset }, bytes),
  });
  const envelope = encodeEnvelope(honest.begin);
  const nested = encodeCbor({ a: [[[[[[[1]]]]]]] });
  const headed = (cbor: Uint8Array): Uint8Array => {
    const bytes = new Uint8Array(5 + cbor.length);
    bytes[0] = 1;
    new DataView(bytes.buffer).setUint32(1, cbor.length);
    bytes.set(cbor, 5);
    return bytes;
  };
  return [
    raw("a truncated envelope", "begin", "malformed", envelope.subarray(0, 60)),
    raw("an empty message", "begin", "malformed", new Uint8Array(0)),
    raw("a header past the bound", "begin", "too-large", headed(new Uint8Array(20_000))),
    raw("a header nested too deeply", "begin", "too-deep", headed(nested)),
    raw("JSON", "begin", "protocol-version", Buffer.from(JSON.stringify(honest.begin))),
    raw("another map", "begin", "malformed", encodeEnvelope({ hello: "world" })),
    raw("an unknown field", "begin", "malformed", encodeEnvelope({ ...honest.begin, extra: 1 })),
    raw("a payload where none belongs", "begin", "malformed", Buffer.concat([envelope, envelope])),
    raw("protocol version 2", "begin", "protocol-version", Uint8Array.of(2, ...envelope.slice(1))),
    raw("a kind nobody knows", "boast", "unknown-kind", envelope),
    begin("a wrong shape", "wrong-shape", { bytes: honest.payload.length - 4 }),
    begin("an update of 2^53 - 1 bytes", "too-large", { bytes: Number.MAX_SAFE_INTEGER }),
    begin("another encoding", "wrong-encoding", { encoding: "i16" }),
    begin("another base", "wrong-base", { base: "start.0" }),
    begin("another base's digest", "wrong-base", { baseDigest: "0".repeat(64) }),
    { ...begin("a closed round", "round-closed", { round: closedRound }), by: stranger },
    begin("another update for a closed round", "conflict", { round: closedRound }),
    begin("a round that never was", "unknown-round", { round: "attacked.999" }),
    begin("an offer of another gateway", "wrong-gateway", { gateway: "gw-2" }),
    ...[0, -1, 1.5, 1_001, 2 ** 53, -(2 ** 60), 1e300].map((samples) =>
      begin(`${samples} samples`, "bad-sample-count", { samples }),
    ),
    begin("NaN samples", "malformed", { samples: Number.NaN }),
    begin("infinite samples", "malformed", { samples: Number.POSITIVE_INFINITY }),
    {
      ...begin("a round that was not offered to this device", "not-offered", {}),
      by: stranger,
    },
    payload("NaN", "not-finite", Number.NaN),
    payload("infinity", "not-finite", Number.NEGATIVE_INFINITY),
    payload("a value out of range", "out-of-range", 1.5),
    payload("a value off the grid", "off-grid", 2 ** -21),
    {
      what: "bytes with another digest",
      answer: ["chunk", "digest-mismatch"],
      send: (by) => by.upload(sampleUpdate(plan, "mallory", STEPS, { digest: "1".repeat(64) })),
    },
    chunk("a chunk out of order", "chunk-out-of-order", 8, honest.payload.subarray(8)),
    {
      ...chunk("a chunk twice", "chunk-out-of-order", 0, honest.payload.subarray(0, 16)),
      async send(by) {
        for (let i = 0; i < 2; i++) {
          await by.say("chunk", { round, offset: 0 }, honest.payload.subarray(0, 16));
        }
      },
    },
    chunk("a chunk that splits a value", "malformed", 0, honest.payload.subarray(0, 6)),
    chunk("an empty chunk", "malformed", 0, new Uint8Array(0)),
    chunk("more than was announced", "wrong-shape", 0, new Uint8Array(honest.payload.length + 4)),
    chunk("a chunk past the bound", "too-large", 0, new Uint8Array(wire.chunkBytes + 8)),
    {
      ...chunk("a chunk that nobody granted", "not-granted", 0, honest.payload),
      by: stranger,
      granted: false,
    },
    {
      what: "a model that nobody has",
      answer: ["fetch", "unknown-model"],
      send: (by) =>
        by.say("fetch", { model: "x.1", digest: "2".repeat(64), offset: 0, length: 1_000 }),
    },
    {
      what: "a model from an offset past its end",
      answer: ["fetch", "bad-offset"],
      send(by) {
        const { model, digest, chunkBytes } = plan.base;
        return by.say("fetch", { model, digest, offset: chunkBytes * 1_000, length: 1_000 });
      },
    },
    {
      what: "a decline of a round that never was",
      answer: ["decline", "unknown-round"],
      send: (by) => by.say("decline", { round: "x.1", code: "not-eligible", message: "" }),
    },
  ];
}

/** Sends one attack to a round of the plan, and checks the one answer. */
async function attack(
  plan: Plan,
  { what, answer, by = mallory, granted, send }: Attack,
): Promise<void> {
  if (granted === true) {
    const grants = by.got("grant").length;
    // Each with a digest of its own, so that it is a transfer of its own.
    const metrics = { loss: grants };
    await by.say("begin", sampleUpdate(plan, by.device, STEPS, { metrics }).begin);
    await by.next("grant", grants + 1);
  }
  const before = by.got("refusal").length;
  await send(by);
  await until(`${what} is answered`, () => by.got("refusal").length > before);
  const refusals = by.got("refusal").slice(before);
  const shown = refusals.map(({ about, code }) => [about, code]);
  assert.deepEqual(shown, [answer], what);
  assert.ok(refusals.every(({ message }) => message.length > 0));
}

test("bad input on a live round gets its code, changes nothing, and costs bounded memory", async () => {
  await startSession("calm");
  for (let round = 1; round <= ROUNDS; round++) await contribute(`calm.${round}`);
  await finished(cloud.api, "calm");

  for (const trainer of trainers) trainer.hold(2);
  await startSession("attacked");
  await contribute("attacked.1");
  const plan = await planOf(mallory, "attacked.2");
  // It came too late for the round's roster.
  const stranger = await connectDevice(gateway.mqttPort, "stranger");
  await stranger.hello();
  const receipts = gateway.count("update-receipted");
  for (const each of attacks(plan, "attacked.1", stranger)) await attack(plan, each);
  await floodWithChunks(stranger);
  await breakTheTransport();
  assert.equal(gateway.count("update-receipted"), receipts, "no attack left an update");

  const update = await contribute("attacked.2");
  const other = sampleUpdate(plan, "mallory", 2 * STEPS);
  await attack(plan, {
    what: "another update after the receipt",
    answer: ["begin", "conflict"],
    send: (by) => by.say("begin", other.begin),
  });
  const receiptsBefore = mallory.got("receipt").length;
  await mallory.say("begin", update.begin);
  const again = await mallory.next("receipt", receiptsBefore + 1);
  assert.equal(again.digest, update.begin.digest, "the same update again: its receipt again");
  for (const trainer of trainers) trainer.release();
  await finished(cloud.api, "attacked");

  for (let round = 1; round <= ROUNDS; round++) {
    const [calm, attacked] = await Promise.all(
      ["calm", "attacked"].map(async (session) => ({
        row: await cloud.api.model(`${session}.${round}`),
        weights: await weightsOf(cloud.api, `${session}.${round}`),
      })),
    );
    assert.equal(attacked?.row.sumDigest, calm?.row.sumDigest, `the sum of round ${round}`);
    assert.deepEqual(attacked?.weights, calm?.weights);
    assert.equal(attacked?.row.weight, calm?.row.weight);
  }
  const whoIn = async (session: string) =>
    (await firstOf(cloud.api.contributions(session))).map(({ round, device, samples, outcome }) =>
      [round, device, samples, outcome].join(" "),
    );
  assert.deepEqual(await whoIn("attacked"), await whoIn("calm"));
  await stranger.close();
});

/** 100 MB that nobody asked for, of several devices: one alone is cut off before it has sent so much. */
async function floodWithChunks(first: TestDevice): Promise<void> {
  const chunk = new Uint8Array(wire.chunkBytes);
  const flood = async (by: TestDevice, count: number) => {
    const before = by.got("refusal").length;
    for (let i = 0; i < count; i++)
      await by.say("chunk", { round: "attacked.2", offset: 0 }, chunk);
    await until("the flood is answered", () => by.got("refusal").length === before + count);
  };
  await flood(first, 40);
  const others: TestDevice[] = [];
  for (const name of ["flood-1", "flood-2", "flood-3", "flood-4"]) {
    const other = await connectDevice(gateway.mqttPort, name);
    await other.hello();
    others.push(other);
  }
  const before = process.memoryUsage().rss;
  for (const other of others) await flood(other, 100);
  const grown = process.memoryUsage().rss - before;
  assert.ok(grown < 64 * 1024 * 1024, `${grown} bytes of memory for 100 MB that were refused`);
  for (const other of others) await other.close();
}

/** What MQTT itself has no refusal for closes the connection. */
async function breakTheTransport(): Promise<void> {
  const client = async () => {
    const opened = await connectAsync({
      host: "127.0.0.1",
      port: gateway.mqttPort,
      protocolVersion: 4,
      clientId: "vandal",
      keepalive: 15,
      reconnectPeriod: 0,
    });
    opened.on("error", () => {});
    return opened;
  };
  const messages = [
    { topic: "tributary/v1/plant/up/press/begin", bytes: 10 },
    { topic: "tributary/v1/plant/down/press/receipt", bytes: 10 },
    { topic: "tributary/v1/plant/up/vandal/chunk", bytes: wire.mqttPacketBytes + 1 },
  ];
  for (const { topic, bytes } of messages) {
    const vandal = await client();
    vandal.publish(topic, Buffer.alloc(bytes), { qos: 1 }, () => {});
    await until(`a publish of ${bytes} bytes to ${topic} ends the connection`, () => {
      return !vandal.connected;
    });
    await vandal.endAsync(true);
  }
}

test("a model file, a session and a config that are wrong are refused by name", async () => {
  const { api } = cloud;
  const models = (await firstOf(api.models({}))).length;
  const sessions = (await firstOf(api.sessions())).length;
  const junk = Uint8Array.from({ length: 2_000 }, (_, i) => (i * 37) & 255);
  await assert.rejects(api.importModel("junk", junk), { code: "model-malformed" });
  const wrong = [
    { name: "w1", deadlineMs: 1_000, uploadWindowMs: 2_000 },
    { name: "w2", grid: { fractionBits: 40, range: 1e6 } },
    { name: "w3", roundz: 3 },
    { name: "w4", fraction: 0 },
    { name: "../w5" },
  ];
  for (const params of wrong) {
    await assert.rejects(
      api.startSession({ initialModel: "start.0", ...params }),
      { exitCode: 1 },
      JSON.stringify(params),
    );
  }
  assert.equal((await firstOf(api.models({}))).length, models);
  assert.equal((await firstOf(api.sessions())).length, sessions);

  const file = join(floor.dir, "typo.yaml");
  await writeFile(file, "site: a\ngateway: g\ndataDir: d\nupstraem: 127.0.0.1:1\n");
  const typo = await runHere(["gateway", "start", "--config", file, "--print-config"]);
  assert.equal(typo.code, 78);
  assert.match(typo.stderr, /upstraem.*line 4.*upstream/s);
});
