import assert from "node:assert/strict";
import { test } from "node:test";
import { createUpstream } from "@tributary/gateway/upstream.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { firstOf } from "tributary/cli/api.js";
import { openSetClock, type SetClock } from "../floor/clock.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import {
  assembled,
  type Floor,
  type FloorCloud,
  finished,
  importModel,
  mergedBy,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer, type WatchedTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

const YEAR_MS = 365 * 24 * 60 * 60 * 1000;
const fleet = [
  { device: "future-1", samples: 30, site: "future" },
  { device: "past-1", samples: 7, site: "past" },
];
const all = fleet.map(({ device }) => device);

/** gRPC measures its deadlines by the computer's own clock, so the calls upstream keep that one. */
function openGateway(floor: Floor, cloud: FloorCloud, site: string, clock: SetClock) {
  const upstream = createUpstream(`127.0.0.1:${cloud.grpcPort}`, systemClock());
  const place = { site, upstreamPort: cloud.grpcPort, parts: { clock, upstream } };
  return floor.gateway(`gw-${site}`, place);
}

type Site = { readonly clock: SetClock; readonly trainer: WatchedTrainer };

/** A cloud, and two sites of which one starts in 1970 and the other a year ahead. */
async function stage(floor: Floor, cloudClock?: SetClock) {
  const cloud = await floor.cloud(cloudClock && { clock: cloudClock });
  await importModel(cloud.api, "start", layout, initialValues);
  const clocks = { future: openSetClock(Date.now() + YEAR_MS), past: openSetClock(0) };
  const sites: Site[] = [];
  const gateways = [];
  const wires = [];
  for (const member of fleet) {
    const clock = member.site === "past" ? clocks.past : clocks.future;
    const gateway = await openGateway(floor, cloud, member.site, clock);
    const wire = await floor.wire(gateway.mqttPort);
    const trainer = createStepTrainer(member);
    await floor.device(member.device, { site: member.site, mqttPort: wire.port, trainer });
    gateways.push(gateway);
    wires.push(wire);
    sites.push({ clock, trainer });
  }
  await assembled(cloud.api, { "gw-future": 1, "gw-past": 1 });
  return { cloud, clocks, sites, gateways, wires };
}

async function whole(cloud: FloorCloud, session: string, rounds: number): Promise<void> {
  await finished(cloud.api, session);
  const numbers = Array.from({ length: rounds }, (_, i) => i + 1);
  assert.deepEqual(
    await mergedBy(cloud.api, session),
    numbers.map((round) => [round, all]),
  );
  let model = startFrom(initialValues);
  for (const round of numbers) {
    model = fedAvg(model, round, fleet, bitsOf);
    assert.deepEqual(await weightsOf(cloud.api, `${session}.${round}`), model.values);
  }
}

async function lastSeen({ api }: FloorCloud): Promise<readonly number[]> {
  return (await firstOf(api.gateways())).map(({ lastSeenMs }) => lastSeenMs);
}

const params = {
  ...sessionParams,
  devicesMin: fleet.length,
  absentGraceMs: sessionParams.deadlineMs,
};

test("a gateway whose clock says 1970, and one a year ahead, take part as any other, over a restart too", async () => {
  const floor = await openFloor();
  try {
    const { cloud, clocks, sites, gateways, wires } = await stage(floor);
    for (const { trainer } of sites) trainer.hold();
    await cloud.api.startSession({ ...params, name: "s", rounds: 2 });
    await until("both train", () => sites.every(({ trainer }) => trainer.asked.length === 1));
    for (const [i, { site }] of fleet.entries()) {
      await gateways[i]?.close();
      const clock = site === "past" ? clocks.past : clocks.future;
      // A board without a battery for its clock begins at 1970 at each start.
      if (site === "past") clock.set(0);
      const again = await openGateway(floor, cloud, site, clock);
      const wire = wires[i];
      assert.ok(wire);
      wire.target = again.mqttPort;
      const { remainingMs } = await again.event("round-resumed", { round: "s.1" });
      assert.ok(remainingMs > 0 && remainingMs <= sessionParams.deadlineMs, `${remainingMs} ms`);
    }
    for (const { trainer } of sites) trainer.release();
    await whole(cloud, "s", 2);
    for (const { trainer } of sites) assert.deepEqual(trainer.asked, ["s.1", "s.2"]);
  } finally {
    await floor.close();
  }
});

test("clocks that step in mid-round, at the cloud and at gateways, end no round early", async () => {
  const floor = await openFloor();
  try {
    const cloudClock = openSetClock(Date.now());
    const { cloud, sites, gateways } = await stage(floor, cloudClock);
    for (const { trainer } of sites) trainer.hold();
    await cloud.api.startSession({ ...params, name: "s", rounds: 1 });
    await until("both train", () => sites.every(({ trainer }) => trainer.asked.length === 1));
    const clocks = [cloudClock, ...sites.map(({ clock }) => clock)];
    for (const nowMs of [Date.now() + YEAR_MS, 0, Date.now()]) {
      const before = await lastSeen(cloud);
      for (const clock of clocks) clock.set(nowMs);
      await until("each gateway has beaten on the new date", async () =>
        (await lastSeen(cloud)).every((seenMs, i) => seenMs !== before[i]),
      );
      for (const gateway of gateways) assert.equal(gateway.count("round-sealed"), 0);
      assert.equal((await cloud.api.session("s")).round?.number, 1);
    }
    for (const { trainer } of sites) trainer.release();
    await whole(cloud, "s", 1);
  } finally {
    await floor.close();
  }
});

test("a clock that is set back a year in mid-round does not put off its deadline", async () => {
  const floor = await openFloor();
  try {
    const cloudClock = openSetClock(Date.now());
    const { cloud, sites, gateways } = await stage(floor, cloudClock);
    const [future, past] = sites;
    past?.trainer.hold();
    // Soon, and late enough for a busy machine to train and deliver before it.
    const soon = { deadlineMs: 25_000, uploadWindowMs: 5_000, absentGraceMs: 25_000 };
    await cloud.api.startSession({ ...params, ...soon, name: "s", rounds: 1 });
    await until("both are asked", () => sites.every(({ trainer }) => trainer.asked.length > 0));
    for (const clock of [cloudClock, ...sites.map(({ clock }) => clock)])
      clock.set(Date.now() - YEAR_MS);
    await gateways[1]?.event("round-sealed", { reason: "deadline" });
    await finished(cloud.api, "s");
    assert.ok(future);
    const [merged] = await mergedBy(cloud.api, "s");
    assert.deepEqual(merged?.[1], ["future-1"]);
  } finally {
    await floor.close();
  }
});
