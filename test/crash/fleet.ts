import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { type Api, createApi } from "tributary/cli/api.js";
import { assembled, type Floor, gatewaySettings, importModel, openFloor } from "../floor/floor.js";
import { createStepTrainer } from "../floor/trainer.js";
import { type Life, type LifeSpec, startLife } from "./life.js";
import { type Point, type PointName, points } from "./points.js";

/**
 * Two sites on one cloud. One tier of it is a process that is killed and started again on its data
 * directory; the others stay, in this process, and see it go and come.
 */
export type Fleet = {
  readonly auditDir: string;
  readonly api: () => Api;
  /** Ends the life that is on, from outside. */
  halt(): Promise<void>;
  /** Starts the killed tier again; resolves once it stands, or has ended before that. */
  revive(fuse?: LifeSpec["fuse"]): Promise<Life>;
  close(): Promise<void>;
};

export type Member = { readonly device: string; readonly site: string; readonly samples: number };

export type FleetOptions = {
  readonly point: PointName;
  readonly plant?: "receipt-early" | undefined;
};

const SITES = ["a", "b"];

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

async function assemble(floor: Floor, { point: name, plant }: FleetOptions): Promise<Fleet> {
  const point = points[name];
  const auditDir = join(floor.dir, "audit");
  await mkdir(auditDir);
  let life: Life | undefined;
  let start: (fuse: LifeSpec["fuse"]) => Promise<Life> = () =>
    Promise.reject(new Error(`no ${point.tier} is killed`));
  const killed = (spec: (fuse: LifeSpec["fuse"]) => LifeSpec, onAlive: (ports: Ports) => void) => {
    start = async (fuse) => {
      life = startLife(spec(fuse));
      const line = await life.alive;
      if (line !== undefined) onAlive(line as unknown as Ports);
      return life;
    };
    return start(undefined);
  };

  const upWire = await floor.wire(0);
  let api: Api;
  if (point.tier === "cloud") {
    const dataDir = join(floor.dir, "cloud");
    await killed(
      (fuse) => ({ tier: "cloud", dataDir, ...(fuse && { fuse }) }),
      ({ grpcPort, httpPort }) => {
        upWire.target = grpcPort;
        api = createApi({ url: `http://127.0.0.1:${httpPort}` });
      },
    );
  } else {
    const cloud = await floor.cloud();
    upWire.target = cloud.grpcPort;
    api = cloud.api;
  }
  const mqttPorts = new Map<string, number>();
  for (const site of SITES) {
    const wire = await floor.wire(0);
    mqttPorts.set(site, wire.port);
    const gateway = `gw-${site}`;
    const upstreamPort = upWire.port;
    const settings = { uploadSlots: 16, absentGraceMs: 60_000 };
    if (point.tier !== "gateway" || site !== SITES[0]) {
      const { mqttPort } = await floor.gateway(gateway, { site, upstreamPort, settings });
      wire.target = mqttPort;
      continue;
    }
    const config = gatewaySettings(floor.dir, gateway, site, upstreamPort, settings);
    const { dataDir } = config;
    const { writeDelayMs } = point;
    await killed(
      (fuse) => ({
        ...{ tier: "gateway", dataDir, config, writeDelayMs },
        ...(plant && { plant }),
        ...(fuse && { fuse }),
      }),
      ({ mqttPort }) => {
        wire.target = mqttPort;
      },
    );
  }
  const members = membersOf(point);
  for (const [i, { device, site, samples }] of members.entries()) {
    const mqttPort = mqttPorts.get(site) ?? 0;
    if (point.tier !== "device" || i > 0) {
      const trainer = createStepTrainer({ device, samples });
      await floor.device(device, { site, mqttPort, trainer, auditDir });
      continue;
    }
    const dataDir = join(floor.dir, "devices", device);
    await mkdir(dataDir, { recursive: true });
    await killed(
      (fuse) => ({
        ...{ tier: "device", name: device, site, mqttPort, dataDir, auditDir, samples },
        ...(fuse && { fuse }),
      }),
      () => {},
    );
  }
  const fleet: Fleet = {
    auditDir,
    api: () => api,
    async halt() {
      await life?.end();
    },
    revive: (fuse) => start(fuse),
    async close() {
      await life?.end();
      await floor.close();
    },
  };
  const counts = Object.fromEntries(SITES.map((site) => [`gw-${site}`, point.devices]));
  await assembled(fleet.api(), counts);
  const values = Float32Array.from({ length: point.parameters }, (_, i) => Math.sin(i + 1));
  await importModel(fleet.api(), "start", layoutOf(point), values);
  return fleet;
}

type Ports = { readonly grpcPort: number; readonly httpPort: number; readonly mqttPort: number };
