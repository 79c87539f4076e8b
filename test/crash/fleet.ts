import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { type Api, createApi } from "tributary/cli/api.js";
import { assembled, type Floor, gatewaySettings, importModel, openFloor } from "../floor/floor.js";
import { createStepTrainer, type WatchedTrainer } from "../floor/trainer.js";
import type { Wire } from "../floor/wire.js";
import type { Fuse } from "./bomb.js";
import { type Life, type LifeSpec, startLife } from "./life.js";
import { type Point, type PointName, points } from "./points.js";

/**
 * Two sites on one cloud, or below one gateway on it. One tier of it is a process that is killed and started again on its data
 * directory; the others stay, in this process, and see it go and come.
 */
export type Fleet = {
  readonly dir: string;
  readonly auditDir: string;
  readonly api: () => Api;
  /** The gateway that is killed, or the first one. */
  readonly killed: string;
  /** Its link up. */
  readonly uplink: Wire;
  /** Trainers of the other site's devices. */
  readonly others: readonly WatchedTrainer[];
  /** Ends the life that is on, from outside. */
  halt(): Promise<void>;
  /** Starts the killed tier again; resolves once it stands, or has ended before that. */
  revive(fuse?: Fuse): Promise<Life>;
  close(): Promise<void>;
};

type Member = { readonly device: string; readonly site: string; readonly samples: number };

export type FleetOptions = {
  readonly point: PointName;
  readonly plant?: "receipt-early" | undefined;
};

const SITES = ["a", "b"];
const REGION = "region";

export function membersOf({ devices }: Point): readonly Member[] {
  return SITES.flatMap((site, s) =>
    Array.from({ length: devices }, (_, i) => ({
      device: `${site}-${i + 1}`,
      site,
      samples: 1 + 7 * s + 3 * i,
    })),
  );
}

export function layoutOf({ parameters }: Point) {
  return [
    { name: "w", shape: [parameters - 3] },
    { name: "b", shape: [3] },
  ];
}

/** What the first round starts from. */
export function startValues({ parameters }: Point): Float32Array {
  return Float32Array.from({ length: parameters }, (_, i) => Math.sin(i + 1));
}

/** Brings up every tier, the killed one without a fuse, and imports the model `start.0`. */
export async function openFleet(options: FleetOptions): Promise<Fleet> {
  const floor = await openFloor();
  try {
    return await assemble(floor, options);
  } catch (error) {
    await floor.close();
    throw error;
  }
}

/** The killed tier, life after life. */
type Mortal = {
  life: Life | undefined;
  start: (fuse?: Fuse) => Promise<Life>;
};

type Ports = { readonly [P in "grpcPort" | "httpPort" | "mqttPort" | "downstreamPort"]: number };

/** Gives the killed tier its first life. */
async function enliven(
  mortal: Mortal,
  spec: LifeSpec,
  onAlive: (ports: Ports) => void,
): Promise<void> {
  mortal.start = async (fuse) => {
    mortal.life = startLife({ ...spec, ...(fuse && { fuse }) });
    const line = await mortal.life.alive;
    if (line !== undefined) onAlive(line as unknown as Ports);
    return mortal.life;
  };
  await mortal.start();
}

type Stage = FleetOptions & {
  readonly floor: Floor;
  readonly mortal: Mortal;
  readonly auditDir: string;
};

async function openCloud({ floor, point, mortal }: Stage) {
  const wire = await floor.wire(0);
  let api: Api | undefined;
  if (points[point].tier === "cloud")
    await enliven(
      mortal,
      { tier: "cloud", dataDir: join(floor.dir, "cloud") },
      ({ grpcPort, httpPort }) => {
        wire.target = grpcPort;
        api = createApi({ url: `http://127.0.0.1:${httpPort}` });
      },
    );
  else {
    const cloud = await floor.cloud();
    wire.target = cloud.grpcPort;
    api = cloud.api;
  }
  return {
    port: wire.port,
    api() {
      if (api === undefined) throw new Error("the cloud has not begun to live");
      return api;
    },
  };
}

const gatewayPatience = {
  ...{ uploadSlots: 16, absentGraceMs: 60_000 },
  // Of which 1 in 50 passes: see `random` of the floor. Faster, they would keep a cloud from starting.
  reconnect: { baseMs: 1_000, capMs: 5_000 },
};

/** The gateway between the sites and the cloud; resolves with the port for those below. */
async function openRegion({ floor, mortal }: Stage, upstreamPort: number): Promise<number> {
  const wire = await floor.wire(0);
  const config = gatewaySettings(floor.dir, REGION, "hub", upstreamPort, {
    ...gatewayPatience,
    downstream: { listen: { port: 0 } },
  });
  const { dataDir } = config;
  const spec = { tier: "gateway", dataDir, config, writeDelayMs: 0 } as const;
  await enliven(mortal, spec, ({ downstreamPort }) => {
    wire.target = downstreamPort;
  });
  return wire.port;
}

/** A site's gateway; resolves with the port for its devices. */
async function openGateway(stage: Stage, site: string, upstreamPort: number): Promise<number> {
  const { floor, mortal, plant } = stage;
  const { tier, regional, writeDelayMs } = points[stage.point];
  const wire = await floor.wire(0);
  const gateway = `gw-${site}`;
  if (tier !== "gateway" || regional || site !== SITES[0]) {
    const settings = gatewayPatience;
    const { mqttPort } = await floor.gateway(gateway, { site, upstreamPort, settings });
    wire.target = mqttPort;
    return wire.port;
  }
  const settings = points[stage.point].away
    ? { ...gatewayPatience, absentGraceMs: 1_000 }
    : gatewayPatience;
  const config = gatewaySettings(floor.dir, gateway, site, upstreamPort, settings);
  const { dataDir } = config;
  const spec = { tier: "gateway", dataDir, config, writeDelayMs, ...(plant && { plant }) } as const;
  await enliven(mortal, spec, ({ mqttPort }) => {
    wire.target = mqttPort;
  });
  return wire.port;
}

/** Resolves with its trainer, where that is in this process. */
async function openDevice(
  stage: Stage,
  member: Member,
  mqttPort: number,
): Promise<WatchedTrainer | undefined> {
  const { floor, mortal, auditDir } = stage;
  const { device, site, samples } = member;
  if (points[stage.point].tier !== "device" || mortal.life !== undefined) {
    const trainer = createStepTrainer({ device, samples });
    await floor.device(device, { site, mqttPort, trainer, auditDir });
    return trainer;
  }
  const dataDir = join(floor.dir, "devices", device);
  await mkdir(dataDir, { recursive: true });
  const spec = {
    tier: "device",
    name: device,
    site,
    mqttPort,
    dataDir,
    auditDir,
    samples,
  } as const;
  await enliven(mortal, spec, () => {});
  return undefined;
}

async function assemble(floor: Floor, options: FleetOptions): Promise<Fleet> {
  const point = points[options.point];
  const auditDir = join(floor.dir, "audit");
  await mkdir(auditDir);
  const mortal: Mortal = {
    life: undefined,
    start: () => Promise.reject(new Error(`no ${point.tier} is killed`)),
  };
  const stage: Stage = { ...options, floor, mortal, auditDir };
  const cloud = await openCloud(stage);
  const upstreamPort = point.regional ? await openRegion(stage, cloud.port) : cloud.port;
  const members = membersOf(point);
  const uplink = await floor.wire(upstreamPort);
  const others: WatchedTrainer[] = [];
  for (const site of SITES) {
    const isFirst = site === SITES[0];
    const mqttPort = await openGateway(stage, site, isFirst ? uplink.port : upstreamPort);
    for (const member of members.filter((some) => some.site === site)) {
      const trainer = await openDevice(stage, member, mqttPort);
      if (trainer !== undefined && !isFirst) others.push(trainer);
    }
  }
  const counts = point.regional
    ? { [REGION]: members.length }
    : Object.fromEntries(SITES.map((site) => [`gw-${site}`, point.devices]));
  await assembled(cloud.api(), counts);
  await importModel(cloud.api(), "start", layoutOf(point), startValues(point));
  return {
    dir: floor.dir,
    auditDir,
    api: cloud.api,
    killed: point.regional ? REGION : `gw-${SITES[0]}`,
    uplink,
    others,
    async halt() {
      await mortal.life?.end();
    },
    revive: (fuse) => mortal.start(fuse),
    async close() {
      await mortal.life?.end();
      await floor.close();
    },
  };
}
