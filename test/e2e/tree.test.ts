import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { firstOf } from "tributary/cli/api.js";
import { type Contribution, fedAvg, startFrom } from "../floor/expected.js";
import {
  type Floor,
  type FloorCloud,
  finished,
  gatewaySettings,
  importModel,
  mergedBy,
  openFloor,
  weightsOf,
} from "../floor/floor.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer, type WatchedTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

type Member = Contribution & { readonly gateway: string };

const above = { downstream: { listen: { port: 0 } }, absentGraceMs: 60_000 };

/** Devices at running gateways, each with a trainer that the test can watch. */
async function populate(
  floor: Floor,
  fleet: readonly Member[],
  ports: Readonly<Record<string, number>>,
): Promise<Map<string, WatchedTrainer>> {
  const trainers = new Map(fleet.map((member) => [member.device, createStepTrainer(member)]));
  await Promise.all(
    fleet.map(({ device, gateway }) => {
      const trainer = trainers.get(device);
      assert.ok(trainer);
      return floor.device(device, { site: gateway, mqttPort: ports[gateway] ?? 0, trainer });
    }),
  );
  return trainers;
}

/** Waits until the cloud knows every device where it is, and reaches all through one gateway. */
async function gathered({ api }: FloorCloud, through: string, devices: number): Promise<void> {
  await until(`the cloud sees ${devices} devices through ${through}`, async () => {
    const gateways = await firstOf(api.gateways());
    return gateways.some(
      (row) => row.id === through && row.attached && row.connectedDevices === devices,
    );
  });
}

/** Every model is, to the bit, the flat sum over the whole fleet, and everybody is in it. */
async function assertFlat(
  { api }: FloorCloud,
  session: string,
  rounds: number,
  fleet: readonly Member[],
): Promise<void> {
  let model = startFrom(initialValues);
  const everyone = fleet.map(({ device }) => device).sort();
  for (let round = 1; round <= rounds; round++) {
    const expected = fedAvg(model, round, fleet, bitsOf);
    const id = `${session}.${round}`;
    assert.equal((await api.model(id)).sumDigest, expected.sumDigest, `the exact sum of ${id}`);
    assert.deepEqual(await weightsOf(api, id), expected.values, id);
    model = expected;
  }
  const all = Array.from({ length: rounds }, (_, i) => [i + 1, everyone]);
  assert.deepEqual(await mergedBy(api, session), all);
}

test("three tiers: devices below a regional gateway and its own give the flat sum to the bit", async () => {
  const floor = await openFloor();
  try {
    const fleet = [
      { device: "press-1", gateway: "east", samples: 3 },
      { device: "press-2", gateway: "east", samples: 120 },
      { device: "lathe-1", gateway: "west", samples: 999 },
      { device: "mill-1", gateway: "region", samples: 17 },
    ];
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, initialValues);
    const place = { upstreamPort: cloud.grpcPort, settings: above };
    const region = await floor.gateway("region", place);
    const upstreamPort = region.downstreamPort ?? 0;
    const [east, west] = [
      await floor.gateway("east", { upstreamPort }),
      await floor.gateway("west", { upstreamPort }),
    ];
    const ports = { region: region.mqttPort, east: east.mqttPort, west: west.mqttPort };
    await populate(floor, fleet, ports);
    await gathered(cloud, "region", fleet.length);
    await cloud.api.startSession({ ...sessionParams, name: "s", rounds: 3 });
    await finished(cloud.api, "s");
    await assertFlat(cloud, "s", 3, fleet);
    assert.equal(region.count("partial-delivered"), 3, "one Partial a round went to the cloud");
    for (const gateway of [east, west]) assert.equal(gateway.count("partial-delivered"), 3);
  } finally {
    await floor.close();
  }
});

test("four tiers, with every link between them cut in mid-round, give the flat sum to the bit", async () => {
  const floor = await openFloor();
  try {
    const fleet = [
      { device: "press-1", gateway: "east", samples: 5 },
      { device: "press-2", gateway: "east", samples: 250 },
      { device: "lathe-1", gateway: "west", samples: 64 },
      { device: "mill-1", gateway: "north", samples: 9 },
      { device: "saw-1", gateway: "country", samples: 31 },
    ];
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, initialValues);
    const top = await floor.wire(cloud.grpcPort);
    const country = await floor.gateway("country", { upstreamPort: top.port, settings: above });
    const middle = await floor.wire(country.downstreamPort ?? 0);
    const north = await floor.gateway("north", { upstreamPort: middle.port, settings: above });
    const bottom = await floor.wire(north.downstreamPort ?? 0);
    const [east, west] = [
      await floor.gateway("east", { upstreamPort: bottom.port }),
      await floor.gateway("west", { upstreamPort: bottom.port }),
    ];
    const gateways = { country, north, east, west };
    const ports = Object.fromEntries(
      Object.entries(gateways).map(([name, { mqttPort }]) => [name, mqttPort]),
    );
    const trainers = await populate(floor, fleet, ports);
    await gathered(cloud, "country", fleet.length);
    for (const trainer of trainers.values()) trainer.hold(2);
    const params = { ...sessionParams, absentGraceMs: sessionParams.deadlineMs };
    await cloud.api.startSession({ ...params, name: "s", rounds: 3 });
    await until("all train for round 2", () =>
      [...trainers.values()].every(({ asked }) => asked.at(-1) === "s.2"),
    );
    const wires = [top, middle, bottom];
    const below = [country, north, east];
    const lost = below.map((gateway) => gateway.count("uplink-lost"));
    for (const wire of wires) wire.cut();
    for (const [i, gateway] of below.entries())
      await until("the link is missed", () => gateway.count("uplink-lost") > (lost[i] ?? 0));
    for (const trainer of trainers.values()) trainer.release();
    await east.event("round-sealed", { round: "s.2" });
    for (const wire of wires) wire.restore();
    await finished(cloud.api, "s");
    await assertFlat(cloud, "s", 3, fleet);
  } finally {
    await floor.close();
  }
});

test("a regional gateway killed in mid-round keeps what it receipted, and completes the round", async () => {
  const floor = await openFloor();
  try {
    const fleet = [
      { device: "press-1", gateway: "east", samples: 40 },
      { device: "lathe-1", gateway: "west", samples: 7 },
      { device: "mill-1", gateway: "region", samples: 300 },
    ];
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, initialValues);
    const start = async () => {
      const config = gatewaySettings(floor.dir, "region", "region", cloud.grpcPort, above);
      const tier = await floor.process("gateway", config);
      const { port } = await tier.event("gateway-started");
      const downstream = await tier.event("downstream-started");
      return { ...tier, mqttPort: Number(port), downstreamPort: Number(downstream.port) };
    };
    const first = await start();
    const [devices, gateways] = [
      await floor.wire(first.mqttPort),
      await floor.wire(first.downstreamPort),
    ];
    const [east, west] = [
      await floor.gateway("east", { upstreamPort: gateways.port }),
      await floor.gateway("west", { upstreamPort: gateways.port }),
    ];
    const ports = { region: devices.port, east: east.mqttPort, west: west.mqttPort };
    const trainers = await populate(floor, fleet, ports);
    await gathered(cloud, "region", fleet.length);
    const slow = trainers.get("lathe-1");
    slow?.hold();
    const params = { ...sessionParams, absentGraceMs: sessionParams.deadlineMs };
    await cloud.api.startSession({ ...params, name: "s", rounds: 2, devicesMin: fleet.length });
    await east.event("partial-delivered", { round: "s.1" });
    await first.event("round-sealed", { round: "s.1" });
    await until("the last one trains", () => slow?.asked.length === 1);
    await first.end("SIGKILL");

    const second = await start();
    devices.target = second.mqttPort;
    gateways.target = second.downstreamPort;
    slow?.release();
    await second.event("branch-complete", { round: "s.1" });
    await finished(cloud.api, "s");
    await assertFlat(cloud, "s", 2, fleet);
    for (const [device, { asked }] of trainers) assert.deepEqual(asked, ["s.1", "s.2"], device);
    assert.equal(second.count("partial-delivered", { round: "s.1" }), 1, "in one Partial");
    assert.equal(await second.end("SIGTERM"), 0);
  } finally {
    await floor.close();
  }
});

test("two sites under one regional gateway give one Partial each to a session with site memory", async () => {
  const floor = await openFloor();
  try {
    const fleet = [
      { device: "press-1", gateway: "east", samples: 3 },
      { device: "press-2", gateway: "east", samples: 12 },
      { device: "lathe-1", gateway: "west", samples: 99 },
    ];
    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, initialValues);
    const region = await floor.gateway("region", {
      upstreamPort: cloud.grpcPort,
      settings: above,
    });
    const upstreamPort = region.downstreamPort ?? 0;
    const [east, west] = [
      await floor.gateway("east", { upstreamPort }),
      await floor.gateway("west", { upstreamPort }),
    ];
    await populate(floor, fleet, { east: east.mqttPort, west: west.mqttPort });
    await gathered(cloud, "region", fleet.length);
    const aggregation = { kind: "site-memory", halfLife: 4 } as const;
    await cloud.api.startSession({ ...sessionParams, aggregation, name: "s", rounds: 2 });
    await finished(cloud.api, "s");
    const everyone = fleet.map(({ device }) => device).sort();
    assert.deepEqual(await mergedBy(cloud.api, "s"), [
      [1, everyone],
      [2, everyone],
    ]);
    for (const model of ["s.1", "s.2"]) {
      assert.equal(region.count("partial-delivered", { round: model }), 2, "one a site");
      assert.equal((await cloud.api.model(model)).contributors, fleet.length);
    }
  } finally {
    await floor.close();
  }
});

test("a gateway that is its own upstream, or part of a loop, is refused at its start", async () => {
  const floor = await openFloor();
  try {
    const [one, two, three] = await Promise.all([freePort(), freePort(), freePort()]);
    const start = (name: string, upstreamPort: number, port: number, site = name) =>
      floor.process(
        "gateway",
        gatewaySettings(join(floor.dir, site), name, site, upstreamPort, {
          downstream: { listen: { port } },
        }),
      );
    const itself = await start("self", one, one);
    assert.equal(await itself.ended(), 78);
    assert.match(itself.complaints.join("\n"), /is this gateway's own downstream\.listen/);

    const loops = [
      // Seen through a wire, it does not know its own port.
      [["mirror", (await floor.wire(one)).port, one]],
      [
        ["a", two, one],
        ["b", one, two],
      ],
      [
        ["a", two, one],
        ["b", three, two],
        ["c", one, three],
      ],
    ] as const;
    for (const [i, loop] of loops.entries()) {
      const gateways = await Promise.all(
        loop.map(([name, upstream, port]) => start(name, upstream, port, `loop-${i}-${name}`)),
      );
      const refused = await Promise.race(
        gateways.map(async (gateway) => ({ gateway, code: await gateway.ended() })),
      );
      assert.equal(refused.code, 78);
      const said = refused.gateway.complaints.filter((line) => line.startsWith("tributary: "));
      assert.equal(said.length, 1, said.join("\n"));
      assert.match(said.join(""), /\[gateway-loop\]$/);
      for (const gateway of gateways) await gateway.end("SIGKILL");
    }
  } finally {
    await floor.close();
  }
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
