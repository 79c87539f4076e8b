import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Api, createApi } from "../cli/api.js";
import { type LinkProxy, openLinkProxy } from "./faults/proxy.js";
import { makeKeys, type Scope } from "./keys.js";
import type { Processes, TierLine, TierProcess } from "./processes.js";

/** What runs on one site: a gateway, the link above it, and a process with its devices. */
export type SiteSpec = {
  readonly site: string;
  readonly gateway: string;
  readonly devices: readonly { readonly device: string; readonly options: object }[];
};

export type FloorSpec = {
  readonly directory: string;
  readonly sites: readonly SiteSpec[];
  /** ES module with `createTrainer`. */
  readonly trainerModule: string;
  /** Whether everybody has keys and shows who he is; else all is in the clear, and anybody's. */
  readonly secure: boolean;
};

export type Site = SiteSpec & {
  readonly link: LinkProxy;
  gatewayProcess: TierProcess;
  readonly deviceProcess: TierProcess;
  /** Where its gateway tells its status; undefined while it is down. */
  statusUrl(): string | undefined;
  /** Starts the gateway again on the same data directory and port. */
  restartGateway(): Promise<void>;
};

/** The whole factory floor, as operating-system processes. */
export type Floor = {
  /** The cloud's. */
  readonly api: Api;
  readonly auditDir: string;
  readonly sites: readonly Site[];
  close(): Promise<void>;
};

/** Heartbeats often enough that the report's counters are fresh when the run ends. */
const HEARTBEAT_MS = 500;

export async function startFloor(spec: FloorSpec, processes: Processes): Promise<Floor> {
  const { directory } = spec;
  const auditDir = join(directory, "audit");
  await mkdir(join(directory, "config"), { recursive: true });
  await mkdir(auditDir, { recursive: true });

  const cloudDir = join(directory, "cloud");
  const keys = spec.secure ? await makeKeys(cloudDir, processes) : undefined;
  const cloud = await startTier(processes, directory, "cloud", "cloud", "cloud-started", {
    dataDir: cloudDir,
    grpc: { port: 0 },
    http: { port: 0 },
    heartbeatIntervalMs: HEARTBEAT_MS,
    log: "json",
  });
  const address = `127.0.0.1:${portIn(cloud.line, "httpPort")}`;
  const api = keys?.api(`https://${address}`) ?? createApi({ url: `http://${address}` });
  const stage = {
    ...{ spec, auditDir, processes },
    grpcPort: portIn(cloud.line, "grpcPort"),
    door: keys && { authority: `https://${address}`, claim: keys.claim.bind(keys, api) },
  };
  const sites = await Promise.all(spec.sites.map((site) => startSite(stage, site)));
  return {
    api,
    auditDir,
    sites,
    async close() {
      await processes.endAll();
      await Promise.all(sites.map(({ link }) => link.close()));
    },
  };
}

type Stage = {
  readonly spec: FloorSpec;
  readonly grpcPort: number;
  readonly auditDir: string;
  readonly processes: Processes;
  /** How newcomers get in; absent where everybody may. */
  readonly door:
    | {
        readonly authority: string;
        claim(scope: Scope, file: string): Promise<void>;
      }
    | undefined;
};

async function startSite(stage: Stage, site: SiteSpec): Promise<Site> {
  const { spec, grpcPort, auditDir, processes, door } = stage;
  const { directory } = spec;
  const dataDir = join(directory, site.gateway);
  const scope = { site: site.site } as const;
  await door?.claim(
    { ...scope, kind: "gateway", name: site.gateway, uses: 1 },
    join(dataDir, "identity", "claim"),
  );
  const link = await openLinkProxy(grpcPort);
  const gatewayConfig = (port: number) => ({
    site: site.site,
    gateway: site.gateway,
    dataDir,
    listen: { port },
    upstream: `127.0.0.1:${link.port}`,
    authority: door?.authority,
    reconnect: { baseMs: 100, capMs: 1_000 },
    status: { port: 0 },
    log: "json",
  });
  const startGateway = async (port: number) => {
    const config = gatewayConfig(port);
    const gateway = await startTier(
      processes,
      directory,
      "gateway",
      site.gateway,
      "gateway-started",
      config,
    );
    return { ...gateway, statusUrl: await statusUrlOf(gateway.process) };
  };
  const first = await startGateway(0);
  let { statusUrl } = first;
  const mqttPort = portIn(first.line, "port");
  const claimFile = door && join(directory, "config", `devices-${site.site}.claim`);
  if (claimFile !== undefined)
    await door?.claim(
      { ...scope, kind: "device", name: "*", uses: site.devices.length },
      claimFile,
    );
  const devices = await startTier(
    processes,
    directory,
    "device",
    `devices-${site.site}`,
    "started",
    {
      site: site.site,
      gateway: `${door ? "mqtts" : "mqtt"}://127.0.0.1:${mqttPort}`,
      claimFile,
      devices: site.devices,
      dataDir: join(directory, `devices-${site.site}`),
      trainer: { module: spec.trainerModule },
      auditDir,
      log: "json",
    },
  );
  const started: Site = {
    ...site,
    link,
    gatewayProcess: first.process,
    deviceProcess: devices.process,
    statusUrl: () => (started.gatewayProcess.isRunning ? statusUrl : undefined),
    async restartGateway() {
      const again = await startGateway(mqttPort);
      started.gatewayProcess = again.process;
      statusUrl = again.statusUrl;
    },
  };
  return started;
}

async function startTier(
  processes: Processes,
  directory: string,
  tier: "cloud" | "gateway" | "device",
  name: string,
  startedEvent: string,
  config: object,
): Promise<{ process: TierProcess; line: TierLine }> {
  const file = join(directory, "config", `${name}.json`);
  await writeFile(file, `${JSON.stringify(config, undefined, 2)}\n`);
  const tierProcess = processes.start(name, [tier, "start", "--config", file]);
  return { process: tierProcess, line: await tierProcess.event(startedEvent) };
}

/** Where a gateway tells its status as JSON. */
async function statusUrlOf(gateway: TierProcess): Promise<string> {
  const { name, url } = await Promise.race([
    gateway.event("status-started"),
    gateway.event("status-unavailable"),
  ]);
  if (typeof url !== "string") throw new Error(`${gateway.name}: ${name}`);
  return new URL("status.json", url).href;
}

function portIn(line: TierLine, field: string): number {
  const port = line[field];
  if (typeof port !== "number") throw new Error(`${line.name} names no ${field}`);
  return port;
}
