import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { systemClock } from "@tributary/proto/host/clock.js";
import { loadConfig } from "@tributary/proto/host/config.js";
import { eventLog } from "@tributary/proto/host/events.js";
import type { Running } from "@tributary/proto/host/process.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";
import { type ConfiguredDevice, configSchema, type DeviceConfig, devicesOf } from "./config.js";
import { createDevice, type Device, type DeviceOptions } from "./device.js";
import { createJoining } from "./enrol-joining.js";
import type { DeviceIdentity } from "./identity.js";
import { packagesOnly } from "./package-trainer.js";
import { baseDirOf, loadTrainerModule } from "./trainer-module.js";

/** The commands of a device: `tributary device start` and `tributary device predict`. */

export type ConfigPlace = {
  /** The config file; without one, only the environment counts. */
  readonly file?: string | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
};

export type RunOptions = ConfigPlace & {
  /** Takes each line of the log. */
  readonly write: (line: string) => void;
};

export type PredictOptions = ConfigPlace & {
  /** A JSON file with the input that the trainer's `predict` takes. */
  readonly inputFile: string;
  /** Which device of a config that lists several. */
  readonly device?: string | undefined;
};

/** Reads and checks a device's config; `TRIBUTARY_DEVICE_SITE` and the like lie over the file. */
export function loadDeviceConfig({ file, env }: ConfigPlace): Promise<DeviceConfig> {
  return loadConfig({ file, env, envPrefix: "TRIBUTARY_DEVICE_", schema: configSchema });
}

/**
 * Starts every device of a config. Throws `config-...` for what is wrong with the config or the
 * trainer module, and `data-dir-locked` when another process uses a device's folder.
 */
export async function runDevice(options: RunOptions): Promise<Running> {
  const config = await loadDeviceConfig(options);
  const onEvent = eventLog(config.log, systemClock(), options.write);
  const started: Device[] = [];
  const joining = createJoining(options, config, onEvent);
  const close = async (): Promise<void> => {
    await joining?.close();
    await Promise.all(started.map((device) => device.close()));
  };
  const begin = async (described: DeviceOptions, identity?: DeviceIdentity): Promise<void> => {
    const device = await createDevice({ ...described, ...(identity && { identity }), onEvent });
    started.push(device);
    await device.start();
  };
  try {
    for (const own of devicesOf(config)) {
      const described = await describe(options, config, own);
      if (joining === undefined) await begin(described);
      else await joining.join(own.device, (identity) => begin(described, identity));
    }
    joining?.all();
  } catch (error) {
    await close();
    throw error;
  }
  return { close, ...(joining && { failed: joining.failed }) };
}

/** Answers one input with the last good model that a device keeps; connects to nothing. */
export async function predictOnce(
  options: PredictOptions,
): Promise<Verdict<{ readonly output: unknown }, "unknown-model">> {
  const config = await loadDeviceConfig(options);
  const devices = devicesOf(config);
  const own =
    options.device === undefined && devices.length === 1
      ? devices[0]
      : devices.find(({ device }) => device === options.device);
  if (own === undefined) {
    const names = devices.slice(0, 8).map(({ device }) => device);
    throw new TributaryError("config-device", `name one of the devices: ${names.join(", ")}`);
  }
  const input = await readInput(options.inputFile);
  const device = await createDevice(await describe(options, config, own));
  try {
    return await device.predict(input);
  } finally {
    await device.close();
  }
}

/** One device of the config as the options that make it. */
async function describe(
  { file }: ConfigPlace,
  { site, gateway, credential, trainer, packages, dataDir, auditDir }: DeviceConfig,
  { device, options, attributes }: ConfiguredDevice,
): Promise<DeviceOptions> {
  const base = baseDirOf(file);
  const createTrainer =
    trainer === undefined
      ? () => packagesOnly
      : await loadTrainerModule(resolve(base, trainer.module));
  const trainedOn = packages.dataDir && { dataDir: resolve(base, packages.dataDir) };
  return {
    device,
    site,
    gateway,
    credential,
    attributes,
    trainer: await createTrainer(options),
    packages: { ...packages, ...trainedOn },
    ...(dataDir === undefined ? {} : { dataDir: join(resolve(base, dataDir), device) }),
    ...(auditDir === undefined ? {} : { auditDir: resolve(base, auditDir) }),
  };
}

async function readInput(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TributaryError("config-input", `cannot read the input ${file} as JSON: ${why}`, {
      cause,
    });
  }
}
