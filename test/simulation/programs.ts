import { type Cloud, createCloud } from "@tributary/cloud/cloud.js";
import { configSchema as cloudConfig } from "@tributary/cloud/config.js";
import type { Store } from "@tributary/cloud/store/store.js";
import { type MemoryStore, memoryStore } from "@tributary/cloud/testing/memory-store.js";
import { createDevice, type Device } from "@tributary/device-sdk/device.js";
import type { Message } from "@tributary/device-sdk/link.js";
import { configSchema as gatewayConfig } from "@tributary/gateway/config.js";
import { createGateway, type Gateway } from "@tributary/gateway/gateway.js";
import { type MemoryDisk, memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { UpKind } from "@tributary/proto/wire/topics.js";
import type { Program, Run, Stage } from "./actor.js";
import { simulatedBroker, simulatedLink } from "./device-link.js";
import { createRack, type Rack } from "./hardware.js";
import type { Holdings } from "./holdings.js";
import type { Plant } from "./plant.js";
import { createRegister, type Register } from "./register.js";
import type { DeviceSettings, GatewaySettings, Settings } from "./settings.js";
import { type SlowWorld, slowDatabase, slowDisk, slowly } from "./slow.js";
import { serveTier, simulatedUpstream } from "./tier-link.js";
import { simulatedTrainer, type Trained } from "./trainer.js";

/** The three tiers' own compositions, each on a simulated machine. */

export type Setting = Stage & {
  readonly settings: Settings;
  readonly plant: Plant;
  readonly holdings: Holdings;
};

const softwareVersion = "simulated";

function slow({ agenda, settings }: Setting, { life, random }: Run): SlowWorld {
  return { agenda, life, random, pace: settings.pace };
}

export type CloudProgram = Program<Cloud> & {
  readonly disk: MemoryDisk;
  readonly store: MemoryStore;
  /** What it wrote down and said. */
  readonly register: Register;
  /** While it is away the store's calls fail, retryable. */
  away: boolean;
};

export function cloudProgram(setting: Setting): CloudProgram {
  const { network, seed, plant, holdings } = setting;
  const disk = memoryDisk({ random: seededRandom(`${seed} cloud disk`) });
  const store = memoryStore();
  const register = createRegister();
  const overheard = register.overheard(store);
  const program: CloudProgram = {
    disk,
    store,
    register,
    away: false,
    async start(run) {
      const { life, random } = run;
      const clock = plant.clock(run.clock, "cloud");
      const names = Object.keys(store).filter((name) => name !== "crash") as (keyof Store)[];
      const reached = reachable(plant.cloudStore(overheard), names, () => !program.away);
      return createCloud({
        config: cloudConfig.parse({
          dataDir: "simulated",
          heartbeatIntervalMs: 2_000,
          heartbeatMissedMs: 9_000,
        }),
        softwareVersion,
        events(event) {
          if (life.alive) register.said(event);
          run.note(event);
        },
        clock,
        random,
        disk: slowDisk(plant.disk(disk, "cloud"), slow(setting, run)),
        store: slowly(reached, names, slow(setting, run), true),
        listenGrpc: (service) =>
          serveTier(network, life, random)(holdings.overheard(plant.service(service), undefined)),
        startApi: async () => ({ port: 2, async close() {} }),
      });
    },
    powerCut() {
      disk.crash();
      store.crash();
    },
  };
  return program;
}

/** A part whose calls fail while what they need cannot be reached. */
function reachable<T extends object>(
  part: T,
  names: readonly (keyof T & string)[],
  isReachable: () => boolean,
): T {
  const wrapped: Record<string, unknown> = {};
  for (const name of names) {
    const call = part[name] as unknown as (...given: unknown[]) => unknown;
    wrapped[name] = async (...given: unknown[]) => {
      if (!isReachable())
        throw new TributaryError("store-unreachable", "the store does not answer", {
          retryable: true,
        });
      return call.apply(part, given);
    };
  }
  return Object.assign(Object.create(part) as T, wrapped);
}

export type GatewayProgram = Program<Gateway> & { readonly rack: Rack };

export function gatewayProgram(setting: Setting, gateway: GatewaySettings): GatewayProgram {
  const { network, seed, settings, plant, holdings } = setting;
  const { name, site, uploadSlots, above } = gateway;
  const below = settings.gateways.some((other) => other.above === name);
  const rack = createRack(name, seededRandom(`${seed} ${name} disk`));
  const crashes = seededRandom(`${seed} ${name} crashes`);
  return {
    rack,
    async start(run) {
      const { life, random } = run;
      const { now: hardware } = rack;
      const { disk, index } = hardware;
      const clock = plant.clock(run.clock, "gateway");
      return createGateway({
        config: gatewayConfig.parse({
          site,
          gateway: name,
          dataDir: "simulated",
          upstream: `${above}:1`,
          // The names of the simulation's network are nobody's loopback.
          insecure: true,
          ...(below && {
            downstream: {
              listen: { port: 1 },
              heartbeatIntervalMs: 2_000,
              heartbeatMissedMs: 9_000,
            },
          }),
          ballastBytes: 0,
          status: { enabled: false },
          uploadSlots,
          absentGraceMs: 3_000,
        }),
        softwareVersion,
        events(event) {
          if (event.name === "gateway-started") holdings.named(event.incarnation, hardware);
          if (event.name === "site-rounds-composed" && life.alive)
            holdings.composed(hardware, event.round, event.first, event.newest);
          run.note(event);
        },
        parts: {
          clock,
          random,
          disk: slowDisk(plant.disk(disk, "gateway"), slow(setting, run)),
          database: (path) =>
            slowDatabase(plant.database(index.database(path)), slow(setting, run)),
          kernel: plant.kernel(),
          upstream: plant.upstream(simulatedUpstream(network, life, above, clock, random)),
          listenDownstream: (service) =>
            serveTier(network, life, random)(holdings.overheard(service, hardware)),
          broker: plant.broker(simulatedBroker(network, life, random, settings.duplicateRate)),
        },
      });
    },
    powerCut() {
      rack.now.disk.crash();
      rack.now.index.crash(crashes.next());
    },
  };
}

export type DeviceProgram = Program<Device> & { readonly disk: MemoryDisk | undefined };

export type DeviceAccount = {
  trained(trained: Trained): void;
  sent(device: string, kind: UpKind, header: object): void;
  /** @param from the gateway to which the device is connected */
  received(device: string, message: Message, from: string): void;
};

export function deviceProgram(
  setting: Setting,
  { name, disk: kept }: DeviceSettings,
  home: () => GatewaySettings,
  account: DeviceAccount,
): DeviceProgram {
  const { network, seed, settings, plant } = setting;
  const disk = kept ? memoryDisk({ random: seededRandom(`${seed} ${name} disk`) }) : undefined;
  return {
    disk,
    async start(run) {
      const { life, random } = run;
      // A device that is to be moved goes on here until it starts with its new config.
      const { site, name: gateway } = home();
      const clock = plant.clock(run.clock, "device");
      const device = await createDevice({
        device: name,
        site,
        gateway: `mqtt://${gateway}`,
        trainer: simulatedTrainer({
          seed,
          device: name,
          clock,
          nMax: settings.session.nMax,
          range: settings.session.grid.range,
          mostMs: settings.trainingMostMs,
          onTrained: account.trained,
        }),
        onEvent: run.note,
        parts: {
          clock,
          random,
          ...(disk && { disk: slowDisk(plant.disk(disk, "device"), slow(setting, run)) }),
          openLink: simulatedLink(network, life, gateway, {
            sent: (kind, header) => account.sent(name, kind, header),
            received: (message) => account.received(name, message, gateway),
          }),
          systemAttributes: async () => ({ os: "simulated" }),
        },
      });
      await device.start();
      return device;
    },
    powerCut() {
      disk?.crash();
    },
  };
}
