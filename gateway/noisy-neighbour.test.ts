import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits } from "./limits.js";
import { openRawMqtt, publishPacket } from "./testing/raw-mqtt.js";
import { createStage } from "./testing/stage.js";

const stage = createStage();
afterEach(() => stage.close());

/** Loud devices, and what each would have the gateway answer. */
const LOUD = 8;
const FLOOD = 20_000;
/** As many as the quiet device may say at once. */
const ASKED = 15;

const median = (values: readonly number[]) =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

test("a noisy device does not slow its neighbours: its flood waits in its own connection", async (t) => {
  const gateway = await stage.gateway(await stage.dataDir(), "127.0.0.1:1");
  const hello = encodeEnvelope({ sdk: "test", attributes: {} });
  const ask = async (name: string) => {
    const device = await stage.device(gateway, name);
    const took: number[] = [];
    for (let i = 0; i < ASKED; i++) {
      const before = performance.now();
      await device.hello();
      took.push(performance.now() - before);
    }
    return took;
  };
  const alone = median(await ask("quiet-1"));

  const startedMs = performance.now();
  const loud = await Promise.all(
    Array.from({ length: LOUD }, async (_, i) => {
      const name = `loud-${i}`;
      const raw = await openRawMqtt(gateway.mqttPort);
      assert.equal(await raw.connect(name), 0);
      assert.deepEqual(await raw.subscribe([`tributary/v1/plant/down/${name}/+`]), [0]);
      const flood = publishPacket(`tributary/v1/plant/up/${name}/hello`, hello);
      raw.send(Buffer.concat(Array.from({ length: FLOOD }, () => flood)));
      return raw;
    }),
  );
  const beside = median(await ask("quiet-2"));
  const seconds = (performance.now() - startedMs) / 1_000;
  const answered = loud.map((raw) => raw.count(3));
  for (const raw of loud) raw.close();

  t.diagnostic(
    `a quiet device's hello took ${alone.toFixed(1)} ms alone, ${beside.toFixed(1)} ms beside ${LOUD} that sent ${FLOOD} each; of those ${answered.join(", ")} were answered in ${seconds.toFixed(1)} s`,
  );
  const { packets, packetsPerTurn, greetingPrice } = limits.allowance;
  const most = (packets.burst + packets.perSecond * seconds) / greetingPrice + packetsPerTurn;
  for (const count of answered) assert.ok(count <= most, `${count} answered, at most ${most}`);
});
