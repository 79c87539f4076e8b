import assert from "node:assert/strict";
import { test } from "node:test";
import { limits } from "@tributary/gateway/limits.js";
import {
  openRawMqtt,
  packetTypes,
  pingPacket,
  publishPacket,
  type RawMqtt,
} from "@tributary/gateway/testing/raw-mqtt.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { deviceFilters, upTopic } from "@tributary/proto/wire/topics.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import {
  assembled,
  finished,
  gatewaySettings,
  importModel,
  mergedBy,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

const ROUNDS = 3;
const PARAMETERS = 30_000;
const layout = [{ name: "w", shape: [PARAMETERS] }];
const values = Float32Array.from({ length: PARAMETERS }, (_, i) => Math.sin(i + 1));
const fleet = [
  { device: "press-1", samples: 3 },
  { device: "press-2", samples: 11 },
];
const site = "a";

/** A connection that writes all that its socket takes, until the test is over. */
type Flood = { readonly taken: number; end(): Promise<void> };

function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Sends the same packet at full speed, and connects again whenever it is cut off. */
function flood(port: number, device: string, packet: Uint8Array, answerType: number) {
  const batch = Buffer.concat(Array.from({ length: 200 }, () => packet));
  let over = false;
  let raw: RawMqtt | undefined;
  let before = 0;
  let cuts = 0;
  const run = async (): Promise<void> => {
    while (!over) {
      raw = await openRawMqtt(port);
      const code = await raw.connect(device).catch(() => -1);
      while (code === 0 && !raw.closed && !over) {
        raw.send(batch);
        await raw.drained();
        await breathe();
      }
      before += raw.count(answerType);
      raw.close();
      raw = undefined;
      if (code === 0 && !over) cuts++;
      await breathe();
    }
  };
  const ended = run();
  const made: Flood & { readonly cuts: number } = {
    get taken() {
      return before + (raw?.count(answerType) ?? 0);
    },
    get cuts() {
      return cuts;
    },
    async end() {
      over = true;
      raw?.close();
      await ended;
    },
  };
  return made;
}

/** Fetches the first part of a model again and again, and reads it: all as the protocol has it. */
async function fetchForEver(port: number, device: string, fetch: object): Promise<Flood> {
  const raw = await openRawMqtt(port);
  assert.equal(await raw.connect(device), 0);
  await raw.subscribe(deviceFilters(site, device));
  const request = publishPacket(upTopic(site, device, "fetch"), encodeEnvelope(fetch));
  const parts = (): number => raw.count(packetTypes.publish);
  let over = false;
  const run = async (): Promise<void> => {
    for (let asked = 0; !over && !raw.closed; await breathe()) {
      for (; asked < parts() + 3; asked++) raw.send(request);
    }
    raw.close();
  };
  const ended = run();
  return {
    get taken() {
      return parts();
    },
    async end() {
      assert.ok(!raw.closed, "it did nothing that is not allowed");
      over = true;
      await ended;
    },
  };
}

test("devices that flood the gateway are held to their share, and their neighbours' rounds go on", async () => {
  const floor = await openFloor();
  const floods: Flood[] = [];
  try {
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, values);
    const gateway = await floor.process(
      "gateway",
      gatewaySettings(floor.dir, "gw-1", site, cloud.grpcPort),
    );
    const mqttPort = Number((await gateway.event("gateway-started")).port);
    for (const member of fleet) {
      await floor.device(member.device, { site, mqttPort, trainer: createStepTrainer(member) });
    }
    await assembled(cloud.api, { "gw-1": fleet.length });

    const startedMs = performance.now();
    const seconds = (): number => (performance.now() - startedMs) / 1_000;
    const garbage = publishPacket(upTopic(site, "garbled", "begin"), Buffer.alloc(100), { id: 1 });
    const restless = flood(mqttPort, "restless", pingPacket, packetTypes.pingresp);
    const garbled = flood(mqttPort, "garbled", garbage, packetTypes.puback);
    floods.push(restless, garbled);
    const { packets, refusals } = limits.allowance;
    await until("both are at it", () => restless.taken > packets.burst / 2 && garbled.taken > 0);

    const session = { ...sessionParams, grid: { fractionBits: 20, range: 1 } };
    await cloud.api.startSession({ ...session, name: "s", rounds: ROUNDS, devicesMin: 2 });
    await until("a model is there", async () => (await mergedBy(cloud.api, "s")).length > 0);
    const { digest } = await cloud.api.model("s.1");
    const length = Math.min(wire.chunkBytes, PARAMETERS * 4);
    const fetch = { model: "s.1", digest, offset: 0, length };
    const greedy = await fetchForEver(mqttPort, "greedy", fetch);
    floods.push(greedy);
    await finished(cloud.api, "s");

    const all = fleet.map(({ device }) => device);
    assert.deepEqual(
      await mergedBy(cloud.api, "s"),
      Array.from({ length: ROUNDS }, (_, i) => [i + 1, all]),
    );
    let model = startFrom(values);
    for (let round = 1; round <= ROUNDS; round++) model = fedAvg(model, round, fleet, () => 20);
    assert.deepEqual(await weightsOf(cloud.api, `s.${ROUNDS}`), model.values);

    // However long that took: no more than they may, and what is refused far less.
    const pings = packets.burst + seconds() * packets.perSecond;
    assert.ok(restless.taken <= pings, `${restless.taken} pings answered; at most ${pings}`);
    await until("the garbled one is cut off", () => garbled.cuts > 0);
    const perCut = limits.allowance.packetsPerTurn;
    const bad = refusals.burst + seconds() * refusals.perSecond + (garbled.cuts + 1) * perCut;
    assert.ok(garbled.taken <= bad, `${garbled.taken} refused; at most ${bad}`);
    assert.ok(greedy.taken > 0);
    assert.equal(restless.cuts, 0, "who is only fast is slowed down, not cut off");
    await gateway.event("connection-refused", { reason: "refusals", device: "garbled" });
  } finally {
    for (const each of floods) await each.end();
    await floor.close();
  }
});
