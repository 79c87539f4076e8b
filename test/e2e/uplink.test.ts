import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createUpstream, type Upstream } from "@tributary/gateway/upstream.js";
import type {
  OpenPartialRequest,
  PartialState,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { firstOf } from "tributary/cli/api.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import {
  assembled,
  type Floor,
  type FloorCloud,
  finished,
  importModel,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { bitsOf, grid, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";
import type { Wire } from "../floor/wire.js";

let floor: Floor;
let cloud: FloorCloud;

before(async () => {
  floor = await openFloor();
  cloud = await floor.cloud();
  await importModel(cloud.api, "start", layout, initialValues);
});
after(() => floor.close());

/** The real calls over a wire, each noted. `beforeSend` runs as a Partial's bytes are about to leave. */
function watchedUpstream(wire: Wire, beforeSend: (count: number) => void = () => {}) {
  const real = createUpstream(`127.0.0.1:${wire.port}`, systemClock());
  const opened: { readonly request: OpenPartialRequest; readonly state: PartialState }[] = [];
  const sentFrom: number[] = [];
  const upstream: Upstream = {
    ...real,
    async openPartial(request) {
      const state = await real.openPartial(request);
      opened.push({ request, state });
      return state;
    },
    sendPartial(id, offset, chunks) {
      sentFrom.push(offset);
      beforeSend(sentFrom.length);
      return real.sendPartial(id, offset, chunks);
    },
  };
  return { upstream, opened, sentFrom };
}

test("an upload that is cut in the middle goes on where it stopped", async () => {
  const size = 400_000;
  const values = Float32Array.from({ length: size }, (_, i) => i / size);
  await importModel(cloud.api, "large", [{ name: "w", shape: [size] }], values);
  const wire = await floor.wire(cloud.grpcPort);
  const { upstream, opened, sentFrom } = watchedUpstream(wire);
  const gateway = await floor.gateway("gw-cut", { upstreamPort: wire.port, parts: { upstream } });
  const member = { device: "cut-1", samples: 3 };
  const trainer = createStepTrainer(member);
  const place = { site: "gw-cut", mqttPort: gateway.mqttPort, trainer };
  const device = await floor.device(member.device, place);
  await assembled(cloud.api, { "gw-cut": 1 });

  trainer.hold();
  await cloud.api.startSession({
    ...sessionParams,
    grid: { ...grid, fractionBits: 20 },
    initialModel: "large.0",
    name: "cut",
    rounds: 1,
    absentGraceMs: sessionParams.deadlineMs,
  });
  await until("the device trains", () => trainer.asked.length === 1);
  wire.stopAfter(size * 4);
  trainer.release();
  await until("half of the Partial has left", () => wire.stopped);
  const asked = opened[0]?.request;
  assert.ok(asked);
  assert.ok(asked.totalBytes > size * 8);
  const direct = createUpstream(`127.0.0.1:${cloud.grpcPort}`, systemClock());
  let held = 0;
  await until("the cloud holds some of it", async () => {
    held = Number((await direct.openPartial(asked)).receivedBytes);
    return held >= size * 2;
  });
  direct.close();
  wire.cut();
  await gateway.event("uplink-lost");
  const bytesBefore = wire.bytesUp;
  wire.restore();
  await gateway.event("partial-delivered", { outcome: "merged" });

  assert.equal(sentFrom.length, 2);
  assert.equal(sentFrom[0], 0);
  assert.equal(sentFrom[1], Number(opened.at(-1)?.state.receivedBytes));
  assert.ok((sentFrom[1] ?? 0) >= held, `sent again from ${sentFrom[1]}; ${held} were held`);
  const again = wire.bytesUp - bytesBefore;
  assert.ok(again < Number(asked.totalBytes) - held + 100_000, `${again} bytes went up again`);
  await finished(cloud.api, "cut");
  const expected = fedAvg(startFrom(values), 1, [member], () => 20);
  assert.deepEqual(await weightsOf(cloud.api, "cut.1"), expected.values);
  await device.close();
  await gateway.close();
});

test("a Partial that comes after its session has ended is recorded as expired, with its rule", async () => {
  const wire = await floor.wire(cloud.grpcPort);
  const near = await floor.gateway("gw-near", { upstreamPort: cloud.grpcPort });
  const far = await floor.gateway("gw-far", { upstreamPort: wire.port });
  const nearMember = { device: "near-1", samples: 5 };
  const nearTrainer = createStepTrainer(nearMember);
  const farTrainer = createStepTrainer({ device: "far-1", samples: 40 });
  const devices = [
    await floor.device("near-1", {
      site: "gw-near",
      mqttPort: near.mqttPort,
      trainer: nearTrainer,
    }),
    await floor.device("far-1", { site: "gw-far", mqttPort: far.mqttPort, trainer: farTrainer }),
  ];
  await assembled(cloud.api, { "gw-near": 1, "gw-far": 1 });

  nearTrainer.hold();
  farTrainer.hold();
  await cloud.api.startSession({ ...sessionParams, name: "late", rounds: 1, absentGraceMs: 0 });
  const trainers = [nearTrainer, farTrainer];
  await until("both train", () => trainers.every(({ asked }) => asked.length === 1));
  wire.cut();
  await cloud.event("gateway-detached", { gateway: "gw-far" });
  farTrainer.release();
  await far.event("round-sealed", { round: "late.1", contributors: 1 });
  nearTrainer.release();
  await finished(cloud.api, "late");
  wire.restore();
  await far.event("partial-delivered", {
    round: "late.1",
    outcome: "expired",
    rule: "session-ended",
  });

  const books = await firstOf(cloud.api.contributions("late"));
  assert.deepEqual(
    books.map(({ device, samples, outcome, rule, model }) => [
      device,
      samples,
      outcome,
      rule,
      model,
    ]),
    [
      ["far-1", 40, "expired", "session-ended", null],
      ["near-1", 5, "model", null, "late.1"],
    ],
  );
  const expected = fedAvg(startFrom(initialValues), 1, [nearMember], bitsOf);
  assert.deepEqual(await weightsOf(cloud.api, "late.1"), expected.values);
  assert.equal(cloud.count("partial-expired", { session: "late", rule: "session-ended" }), 1);
  for (const device of devices) await device.close();
  await near.close();
  await far.close();
});

test("a Partial whose receipt was lost is not sent or counted a second time", async () => {
  const wire = await floor.wire(cloud.grpcPort);
  const { upstream, opened, sentFrom } = watchedUpstream(wire, (count) => {
    if (count === 1) wire.mute();
  });
  const gateway = await floor.gateway("gw-mute", { upstreamPort: wire.port, parts: { upstream } });
  const member = { device: "mute-1", samples: 9 };
  const place = { site: "gw-mute", mqttPort: gateway.mqttPort };
  const trainer = createStepTrainer(member);
  const device = await floor.device(member.device, { ...place, trainer });
  await assembled(cloud.api, { "gw-mute": 1 });
  await cloud.api.startSession({ ...sessionParams, name: "mute", rounds: 2, devicesMin: 1 });
  await cloud.event("partial-accepted", { round: "mute.1" });
  assert.equal(gateway.count("partial-delivered"), 0);
  wire.cut();
  await gateway.event("uplink-lost");
  wire.restore();
  await gateway.event("partial-delivered", { round: "mute.1", outcome: "merged" });
  await finished(cloud.api, "mute");

  assert.deepEqual(sentFrom, [0, 0], "one transfer for each round");
  const ofFirst = opened.filter(({ request }) => request.round === "mute.1");
  assert.ok(ofFirst.length >= 2);
  assert.equal(cloud.count("partial-repeated", { round: "mute.1", gateway: "gw-mute" }), 1);
  assert.equal(ofFirst.at(-1)?.state.receipt?.digest, ofFirst[0]?.request.digest);
  let model = startFrom(initialValues);
  for (const round of [1, 2]) {
    model = fedAvg(model, round, [member], bitsOf);
    assert.deepEqual(await weightsOf(cloud.api, `mute.${round}`), model.values);
  }
  const books = await firstOf(cloud.api.contributions("mute"));
  assert.deepEqual(
    books.map(({ round, outcome }) => [round, outcome]),
    [
      [1, "model"],
      [2, "model"],
    ],
  );
  await device.close();
  await gateway.close();
});
