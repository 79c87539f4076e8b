import { createCloud } from "@tributary/cloud/cloud.js";
import { configSchema as cloudConfig } from "@tributary/cloud/config.js";
import { openStore } from "@tributary/cloud/store/open.js";
import { createDevice } from "@tributary/device-sdk/device.js";
import { openMqttLink } from "@tributary/device-sdk/link.js";
import { createBroker } from "@tributary/gateway/broker.js";
import { configSchema as gatewayConfig } from "@tributary/gateway/config.js";
import { createGateway } from "@tributary/gateway/gateway.js";
import { levelDatabase } from "@tributary/gateway/store-table.js";
import { createUpstream } from "@tributary/gateway/upstream.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { nodeDisk } from "@tributary/proto/host/disk.js";
import { type Random, systemRandom } from "@tributary/proto/host/random.js";
import { createStepTrainer } from "../floor/trainer.js";
import { type Bomb, createBomb } from "./bomb.js";
import type { LifeSpec } from "./life.js";
import { minedCloudDisk, minedDeviceDisk, minedGatewayDisk } from "./mined-disk.js";
import { minedBroker, minedDeviceLink, minedUpstream } from "./mined-links.js";
import { isOfIndex, minedCloudStore, minedIndex } from "./mined-store.js";
import { receiptEarly } from "./planted.js";

/**
 * One life of a tier, as a process: the product's own composition on parts that end the process at
 * a named point. What it is comes as JSON in the first argument; it writes its events to standard
 * output, one JSON object a line.
 */

/** Short back-offs, so that a life begins its work at once. */
const random: Random = { ...systemRandom(), next: () => 0.02 };

const write = (event: object) => void process.stdout.write(`${JSON.stringify(event)}\n`);

async function live(spec: LifeSpec): Promise<void> {
  const bomb = createBomb(spec.fuse);
  switch (spec.tier) {
    case "cloud":
      return liveAsCloud(spec, bomb);
    case "gateway":
      return liveAsGateway(spec, bomb);
    case "device":
      return liveAsDevice(spec, bomb);
  }
}

type Spec<T extends LifeSpec["tier"]> = Extract<LifeSpec, { tier: T }>;

async function liveAsCloud({ dataDir: root }: Spec<"cloud">, bomb: Bomb): Promise<void> {
  const { grpcPort, httpPort } = await createCloud({
    config: cloudConfig.parse({ dataDir: root, grpc: { port: 0 }, http: { port: 0 } }),
    softwareVersion: "crash",
    events: write,
    random,
    disk: minedCloudDisk(nodeDisk(root), { root, bomb, writeDelayMs: 0 }),
    store: minedCloudStore(await openStore({ dataDir: root }), bomb),
  });
  write({ name: "alive", grpcPort, httpPort });
}

async function liveAsGateway(spec: Spec<"gateway">, bomb: Bomb): Promise<void> {
  const { config, writeDelayMs, plant } = spec;
  const parsed = gatewayConfig.parse(config);
  const open = plant === "receipt-early" ? receiptEarlyBroker : createBroker;
  const { mqttPort, downstreamPort } = await createGateway({
    config: parsed,
    softwareVersion: "crash",
    events: write,
    parts: {
      random,
      disk: minedGatewayDisk(nodeDisk(parsed.dataDir), {
        root: parsed.dataDir,
        bomb,
        writeDelayMs,
      }),
      // A gateway that has both parts of a test takes no lock: only where it must be.
      ...(isOfIndex(spec.fuse?.point) && {
        database: (path: string) => minedIndex(levelDatabase(path), bomb),
      }),
      upstream: minedUpstream(createUpstream(parsed.upstream, systemClock()), bomb),
      broker: async (options) => minedBroker(await open(options), bomb),
    },
  });
  write({ name: "alive", mqttPort, downstreamPort });
}

const receiptEarlyBroker: typeof createBroker = (options) => receiptEarly(options, createBroker);

async function liveAsDevice(spec: Spec<"device">, bomb: Bomb): Promise<void> {
  const { name: device, site, mqttPort, dataDir: root, auditDir, samples } = spec;
  const created = await createDevice({
    device,
    site,
    gateway: `mqtt://127.0.0.1:${mqttPort}`,
    auditDir,
    trainer: createStepTrainer({ device, samples }),
    onEvent: write,
    parts: {
      random,
      disk: minedDeviceDisk(nodeDisk(root), { root, bomb, writeDelayMs: 0 }),
      openLink: minedDeviceLink(openMqttLink, bomb),
      systemAttributes: async () => ({}),
    },
  });
  await created.start();
  write({ name: "alive" });
}

// Whoever started this process holds its standard input open: its end must not leave it behind.
process.stdin.resume();
process.stdin.once("close", () => process.kill(process.pid, "SIGKILL"));
await live(JSON.parse(process.argv[2] ?? "{}") as LifeSpec);
