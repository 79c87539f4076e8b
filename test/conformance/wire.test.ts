import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { connectDevice, type TestDevice } from "@tributary/gateway/testing/device.js";
import { type Floor, type FloorGateway, openFloor } from "../floor/floor.js";
import { until } from "../floor/until.js";

type Vector = { readonly way: string; readonly kind: string; readonly hex: string };
type Vectors = {
  readonly valid: readonly Vector[];
  readonly invalid: readonly (Vector & { readonly name: string; readonly code: string })[];
};

const file = new URL("../../../proto/vectors/wire.json", import.meta.url);
const vectors = JSON.parse(await readFile(file, "utf8")) as Vectors;
/** Of a fleet with an authority, which this gateway has not: see `gateway/device-enrol.test.ts`. */
const certified = ["enrol", "renew", "denylist"];
const goesUp = ({ way, kind }: Vector) => way === "up" && !certified.includes(kind);

let floor: Floor;
let gateway: FloorGateway;
let device: TestDevice;

before(async () => {
  floor = await openFloor();
  // A gateway without a cloud: nobody listens on port 1.
  gateway = await floor.gateway("gw-offline", { site: "plant", upstreamPort: 1 });
  device = await connectDevice(gateway.mqttPort, "press-7");
  await device.hello();
});
after(async () => {
  await device.close();
  await floor.close();
});

/** Sends bytes as a device would, and gives the one answer. */
async function answerTo({ kind, hex }: Vector) {
  const before = device.messages.length;
  await device.raw(kind, Buffer.from(hex, "hex"));
  await until(`${kind} ${hex.slice(0, 40)} is answered`, () => device.messages.length > before);
  assert.equal(device.messages.length, before + 1);
  const answer = device.messages.at(-1);
  const refusal = answer?.kind === "refusal" ? device.got("refusal").at(-1) : undefined;
  return { kind: answer?.kind, about: refusal?.about, code: refusal?.code };
}

for (const vector of vectors.invalid.filter(goesUp)) {
  test(`a gateway answers ${vector.kind} with ${vector.name}: ${vector.code}`, async () => {
    const expected = { kind: "refusal", about: vector.kind, code: vector.code };
    assert.deepEqual(await answerTo(vector), expected);
  });
}

test("a gateway reads every valid vector, and judges it by what it says", async () => {
  const answers = {
    hello: ["welcome", undefined],
    fetch: ["refusal", "unknown-model"],
    begin: ["refusal", "wrong-gateway"],
    chunk: ["refusal", "not-granted"],
    decline: ["refusal", "unknown-round"],
  };
  const valid = vectors.valid.filter(goesUp);
  assert.ok(valid.length >= Object.keys(answers).length);
  assert.deepEqual(new Set(valid.map(({ kind }) => kind)), new Set(Object.keys(answers)));
  for (const vector of valid) {
    const { kind, code } = await answerTo(vector);
    assert.deepEqual([kind, code], answers[vector.kind as keyof typeof answers], vector.kind);
  }
});
