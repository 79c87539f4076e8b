import type { Cloud } from "@tributary/cloud/cloud.js";
import type { Device } from "@tributary/device-sdk/device.js";
import type { Gateway } from "@tributary/gateway/gateway.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { type Account, createAccount } from "./account.js";
import { type Actor, createActor, type Stage } from "./actor.js";
import { createAgenda } from "./agenda.js";
import { checkLimits } from "./check-limits.js";
import { checkTrail } from "./check-trail.js";
import { createFailures, type Failure } from "./failures.js";
import { scheduleFaults } from "./faults.js";
import { createHoldings } from "./holdings.js";
import { createNetwork } from "./network.js";
import { createMachine } from "./node.js";
import { createOperator } from "./operator.js";
import { nothingPlanted, type Plant } from "./plant.js";
import {
  type CloudProgram,
  cloudProgram,
  type DeviceAccount,
  type DeviceProgram,
  deviceProgram,
  type GatewayProgram,
  gatewayProgram,
  type Setting,
} from "./programs.js";
import { drawer, type GatewaySettings, type Settings, settingsOf } from "./settings.js";
import { createTrace } from "./trace.js";

/** Who is in the world. */
export type Cast = {
  readonly cloud: { readonly actor: Actor<Cloud>; readonly program: CloudProgram };
  readonly gateways: readonly GatewayPart[];
  readonly devices: readonly DevicePart[];
};
export type GatewayPart = {
  readonly settings: GatewaySettings;
  readonly actor: Actor<Gateway>;
  readonly program: GatewayProgram;
};
export type DevicePart = {
  readonly name: string;
  home: GatewaySettings;
  readonly actor: Actor<Device>;
  readonly program: DeviceProgram;
};

export type Outcome = {
  readonly seed: number;
  readonly failure: Failure | undefined;
  /** Digest of everything that happened. */
  readonly trace: string;
  readonly tail: readonly string[];
  readonly figures: Figures;
};

export type Figures = {
  readonly events: number;
  readonly simulatedMs: number;
  readonly models: number;
  readonly receipts: number;
  readonly faults: number;
};

/** After the faults have stopped everything must come to rest within so long. */
const CONVERGE_MS = 45 * 60_000;
const CHECK_EVERY_MS = 2_000;

/** Runs the world that a seed picks, to its end or to the first thing that a checker finds. */
export async function simulate(
  seed: number,
  plant: Plant = nothingPlanted,
  change: (settings: Settings) => Settings = (settings) => settings,
): Promise<Outcome> {
  const settings = change(settingsOf(seed));
  const trace = createTrace(400);
  const failures = createFailures();
  const agenda = createAgenda();
  const network = createNetwork(agenda, seededRandom(`${seed} network`), settings.weather, trace);
  const stage: Stage = { agenda, network, trace, failures, seed };
  const account = createAccount();
  const holdings = createHoldings();
  const cast = createCast({ ...stage, settings, plant, holdings }, account);
  const operator = createOperator(stage, settings, cast.cloud);
  const onUnhandled = (reason: unknown) => {
    failures.add(
      "unhandled",
      reason instanceof Error ? (reason.stack ?? reason.message) : String(reason),
    );
  };
  process.on("unhandledRejection", onUnhandled);
  const faults = scheduleFaults(stage, settings, cast, operator);
  const everyone = [cast.cloud, ...cast.gateways, ...cast.devices].map(({ actor }) => actor);
  for (const actor of everyone) actor.start();

  let calm = false;
  let restarted = false;
  const look = async () => {
    const full = await checkLimits(cast);
    if (full !== undefined) failures.add("limits", full);
    if (!faults.over) return;
    const waiting = await whatWaits(cast, operator, restarted);
    if (waiting !== undefined) {
      if (agenda.nowMs > settings.faultsMs + CONVERGE_MS)
        failures.add("waiting", `still waiting: ${waiting}`);
    } else if (restarted) calm = true;
    else {
      // What a failed removal left behind must be gone when everyone has started once more.
      restarted = true;
      for (const actor of everyone) actor.kill(true, 1_000);
    }
  };
  const lookAgain = () => {
    look().then(
      () => agenda.after(CHECK_EVERY_MS, lookAgain),
      (error: unknown) => onUnhandled(error),
    );
  };
  agenda.after(CHECK_EVERY_MS, lookAgain);

  let events = 0;
  try {
    while (failures.first === undefined && !calm) {
      if (!agenda.step(Number.POSITIVE_INFINITY)) {
        failures.add("waiting", "nothing is left to happen, and not all is done");
        break;
      }
      events++;
      await drained();
    }
    if (failures.first === undefined)
      await checkTrail(settings, cast.cloud.program, account, holdings, failures);
  } catch (error) {
    onUnhandled(error);
  } finally {
    await drained();
    process.off("unhandledRejection", onUnhandled);
  }
  const models = (
    await cast.cloud.program.store.listModels({ session: settings.session.name }, { limit: 1_000 })
  ).items;
  return {
    seed,
    failure: failures.first,
    trace: trace.digest(),
    tail: trace.tail(),
    figures: {
      events,
      simulatedMs: agenda.nowMs,
      models: models.length,
      receipts: account.receipts.length,
      faults: faults.count,
    },
  };
}

/** Everything that one event led to has run: no promise waits but on a later event. */
function drained(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function createCast(setting: Setting, account: Account): Cast {
  const { agenda, seed, settings, holdings } = setting;
  const draw = drawer(seededRandom(`${seed} machines`));
  // Crystals are off by up to 200 parts in a million.
  const machine = (name: string) => {
    const made = createMachine(agenda, name, 1 + draw.between(-2e-4, 2e-4));
    made.wallOffsetMs = Math.round(draw.between(-2_000, 2_000));
    return made;
  };
  const program = cloudProgram(setting);
  const cloud = { program, actor: createActor(setting, machine("cloud"), program) };
  const gateways = settings.gateways.map((gateway) => {
    const own = gatewayProgram(setting, gateway);
    const actor = createActor(setting, machine(gateway.name), own);
    return { settings: gateway, program: own, actor };
  });
  const overheard: DeviceAccount = {
    ...account,
    received(device, message, from) {
      account.received(device, message, from);
      const by = gateways.find(({ settings: { name } }) => name === from)?.program.rack.now;
      if (message.kind === "receipt" && by !== undefined)
        holdings.receipted(by, message.header.round, device);
    },
  };
  const devices = settings.gateways.flatMap((gateway) =>
    gateway.devices.map((device): DevicePart => {
      const part: { home: GatewaySettings } = { home: gateway };
      const own = deviceProgram(setting, device, () => part.home, overheard);
      const actor = createActor(setting, machine(device.name), own);
      return Object.assign(part, { name: device.name, program: own, actor });
    }),
  );
  return { cloud, gateways, devices };
}

/** The first thing found that is not at rest; undefined when all is. */
async function whatWaits(
  cast: Cast,
  operator: ReturnType<typeof createOperator>,
  strictly: boolean,
): Promise<string | undefined> {
  for (const { actor } of [cast.cloud, ...cast.gateways, ...cast.devices])
    if (actor.running === undefined) return `${actor.name} is not up`;
  const session = await operator.waitsFor();
  if (session !== undefined) return session;
  for (const { actor, program } of cast.gateways)
    for (const folder of strictly ? ["outbox", "rounds", "sites"] : ["outbox"]) {
      const files = await program.rack.now.disk.list(folder);
      if (files.length > 0) return `${actor.name} holds ${folder}/${files.join(", ")}`;
    }
  for (const { actor, program } of strictly ? cast.devices : [])
    if (await program.disk?.exists("slot")) return `${actor.name} holds an update`;
  return undefined;
}
