import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Cloud, type CloudOptions, createCloud } from "@tributary/cloud/cloud.js";
import { configSchema as cloudConfig } from "@tributary/cloud/config.js";
import type { CloudEvent } from "@tributary/cloud/events.js";
import type { SessionView } from "@tributary/cloud/session-view.js";
import { createDevice, type Device } from "@tributary/device-sdk/device.js";
import type { ReportedEvent } from "@tributary/device-sdk/events.js";
import type { PackageRules } from "@tributary/device-sdk/packages.js";
import type { Trainer } from "@tributary/device-sdk/trainer.js";
import { configSchema as gatewayConfig } from "@tributary/gateway/config.js";
import type { GatewayEvent } from "@tributary/gateway/events.js";
import { createGateway, type Gateway, type GatewayParts } from "@tributary/gateway/gateway.js";
import { type Random, systemRandom } from "@tributary/proto/host/random.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { type Api, createApi, firstOf } from "tributary/cli/api.js";
import { createEventLog, type EventLog } from "./event-log.js";
import { valuesIn } from "./expected.js";
import { startTier, type TierProcess } from "./tier-process.js";
import { until } from "./until.js";
import { openWire, type Wire } from "./wire.js";

export type FloorCloud = Cloud & EventLog<CloudEvent> & { readonly api: Api };
export type FloorGateway = Gateway & EventLog<GatewayEvent> & { readonly name: string };
export type FloorDevice = Device & EventLog<ReportedEvent> & { readonly name: string };

type GatewayPlace = {
  readonly upstreamPort: number;
  readonly site?: string;
  readonly settings?: Readonly<Record<string, unknown>>;
  readonly parts?: Partial<GatewayParts>;
};

/** The tiers of one test, on free ports and in a folder of their own; `close` takes all of it away. */
export type Floor = {
  readonly dir: string;
  cloud(parts?: Partial<Pick<CloudOptions, "clock" | "disk" | "store">>): Promise<FloorCloud>;
  gateway(name: string, place: GatewayPlace): Promise<FloorGateway>;
  device(
    name: string,
    place: {
      readonly site: string;
      readonly mqttPort: number;
      readonly trainer: Trainer;
      readonly packages?: PackageRules;
      readonly auditDir?: string;
    },
  ): Promise<FloorDevice>;
  wire(target: number): Promise<Wire>;
  /** A tier as a process, with a config that is written for it. Gone by the end of the test. */
  process(tier: "cloud" | "gateway" | "device", config: object): Promise<TierProcess>;
  close(): Promise<void>;
};

/** Short back-offs, so that a test waits for what it tests and not for jitter. */
const impatient: Random = { ...systemRandom(), next: () => 0.02 };

export async function openFloor(): Promise<Floor> {
  const dir = await mkdtemp(join(tmpdir(), "tributary-floor-"));
  const teardown: (() => Promise<unknown>)[] = [];
  let files = 0;
  return {
    dir,
    async cloud(parts) {
      const log = createEventLog<CloudEvent>("cloud");
      const dataDir = join(dir, "cloud");
      const cloud = await createCloud({
        config: cloudConfig.parse({ dataDir, grpc: { port: 0 }, http: { port: 0 } }),
        softwareVersion: "test",
        events: log.add,
        ...parts,
      });
      teardown.push(() => cloud.close());
      return { ...cloud, ...log, api: createApi({ url: `http://127.0.0.1:${cloud.httpPort}` }) };
    },
    async gateway(name, { upstreamPort, site = name, settings, parts }) {
      const log = createEventLog<GatewayEvent>(name);
      const gateway = await createGateway({
        config: gatewayConfig.parse(gatewaySettings(dir, name, site, upstreamPort, settings)),
        softwareVersion: "test",
        events: log.add,
        parts: { random: impatient, ...parts },
      });
      teardown.push(() => gateway.close());
      return { ...gateway, ...log, name };
    },
    async device(name, { site, mqttPort, trainer, packages, auditDir }) {
      const log = createEventLog<ReportedEvent>(name);
      const device = await createDevice({
        device: name,
        site,
        gateway: `mqtt://127.0.0.1:${mqttPort}`,
        dataDir: join(dir, "devices", name),
        trainer,
        ...(packages !== undefined && { packages }),
        ...(auditDir !== undefined && { auditDir }),
        onEvent: log.add,
        parts: { random: impatient, systemAttributes: async () => ({}) },
      });
      teardown.push(() => device.close());
      await device.start();
      await log.event("link-up");
      return { ...device, ...log, name };
    },
    async wire(target) {
      const wire = await openWire(target);
      teardown.push(() => wire.close());
      return wire;
    },
    async process(tier, config) {
      const file = join(dir, `${tier}-${++files}.json`);
      await writeFile(file, JSON.stringify(config));
      const started = startTier([tier, "start", "--config", file]);
      teardown.push(() => started.end("SIGKILL"));
      return started;
    },
    async close() {
      for (const undo of teardown.reverse()) await undo();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** A gateway's config, for a process or for this one. */
export function gatewaySettings(
  dir: string,
  name: string,
  site: string,
  upstreamPort: number,
  settings: Readonly<Record<string, unknown>> = {},
) {
  return {
    gateway: name,
    site,
    dataDir: join(dir, name),
    listen: { port: 0 },
    status: { port: 0 },
    upstream: `127.0.0.1:${upstreamPort}`,
    reserveDiskBytes: 0,
    ballastBytes: 0,
    // Who comes late on a busy machine is waited for.
    absentGraceMs: 60_000,
    reconnect: { baseMs: 20, capMs: 500 },
    ...settings,
  };
}

export async function importModel(
  api: Api,
  name: string,
  layout: readonly { readonly name: string; readonly shape: readonly number[] }[],
  values: Float32Array,
): Promise<void> {
  await api.importModel(name, Uint8Array.from(encodeSafetensors(layout, values)));
}

/** The weights of a model, as its file holds them. */
export async function weightsOf(api: Api, id: string): Promise<Float32Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of api.modelFile(id)) pieces.push(piece);
  return valuesIn(Buffer.concat(pieces));
}

/** Waits until the cloud knows so many connected devices at each of these gateways. */
export async function assembled(api: Api, counts: Readonly<Record<string, number>>): Promise<void> {
  await until(`the cloud sees ${JSON.stringify(counts)}`, async () => {
    const gateways = await firstOf(api.gateways());
    return Object.entries(counts).every(([id, count]) =>
      gateways.some((row) => row.id === id && row.attached && row.connectedDevices === count),
    );
  });
}

/** Waits until a session runs no more. Fails when it ends otherwise than finished. */
export async function finished(api: Api, session: string): Promise<SessionView> {
  let view = await api.session(session);
  await until(`${session} finishes`, async () => {
    view = await api.session(session);
    return view.state !== "running";
  });
  if (view.state !== "finished") throw new Error(`${session}: ${view.state}: ${view.reason}`);
  return view;
}

/** Who is in the model of each round, from the cloud's books: round and devices, both in order. */
export async function mergedBy(
  api: Api,
  session: string,
): Promise<readonly (readonly [round: number, devices: readonly string[]])[]> {
  const rounds = new Map<number, string[]>();
  for (const row of await firstOf(api.contributions(session), Number.POSITIVE_INFINITY)) {
    if (row.outcome !== "model") continue;
    rounds.set(row.round, [...(rounds.get(row.round) ?? []), row.device].sort());
  }
  return [...rounds].sort(([a], [b]) => a - b);
}
