import { redact } from "@tributary/proto/host/config.js";
import { exitCodes, type Running, runUntilSignal } from "@tributary/proto/host/process.js";
import type { Command } from "commander";
import { stringify } from "yaml";
import { CommandFailure } from "./failure.js";
import type { GlobalOptions, World } from "./world.js";

/** What starts a tier; its package is loaded only when its command runs. */
type Tier = {
  readonly readConfig: (source: ConfigSource) => Promise<unknown>;
  readonly run: (source: ConfigSource, write: (line: string) => void) => Promise<Running>;
  readonly secretKeys: readonly string[];
};

type ConfigSource = {
  readonly file: string | undefined;
  readonly env: World["env"];
};

type StartOptions = GlobalOptions & { readonly config?: string; readonly printConfig?: boolean };

const tiers = {
  cloud: async (softwareVersion: string): Promise<Tier> => {
    const { readCloudConfig, runCloud } = await import("@tributary/cloud/main.js");
    const { secretKeys } = await import("@tributary/cloud/config.js");
    return {
      readConfig: readCloudConfig,
      run: (source, write) => runCloud({ ...source, softwareVersion, write }),
      secretKeys,
    };
  },
  gateway: async (softwareVersion: string): Promise<Tier> => {
    const { readGatewayConfig, runGateway } = await import("@tributary/gateway/main.js");
    return {
      readConfig: readGatewayConfig,
      run: (source, write) => runGateway({ ...source, softwareVersion, write }),
      secretKeys: [],
    };
  },
  device: async (): Promise<Tier> => {
    const { loadDeviceConfig, runDevice } = await import("@tributary/device-sdk/main.js");
    return {
      readConfig: loadDeviceConfig,
      run: (source, write) => runDevice({ ...source, write }),
      secretKeys: [],
    };
  },
};

/** Adds `start` to the command of a tier. */
export function addStart(
  parent: Command,
  world: World,
  name: keyof typeof tiers,
  softwareVersion: string,
): void {
  const prefix = `TRIBUTARY_${name.toUpperCase()}_`;
  parent
    .command("start")
    .description(`run a ${name} until SIGINT or SIGTERM`)
    .option("--config <file>", "YAML or JSON; without it the environment alone counts")
    .option("--print-config", "print the checked config, without secrets, and end")
    .addHelpText(
      "after",
      `\nVariables ${prefix}... lie over the file:\n` +
        `${prefix}LOG=json sets "log", and __ stands between groups.\n` +
        "With --json the log is one JSON object a line.",
    )
    .action(async (_options: unknown, command: Command) => {
      const { config, printConfig, json } = command.optsWithGlobals<StartOptions>();
      const tier = await tiers[name](softwareVersion);
      const env = json === true ? { ...world.env, [`${prefix}LOG`]: "json" } : world.env;
      const source = { file: config, env };
      if (printConfig === true) {
        const shown = redact(await tier.readConfig(source), tier.secretKeys);
        world.stdout.write(
          json === true ? `${JSON.stringify(shown, null, 2)}\n` : stringify(shown),
        );
        return;
      }
      const write = (line: string): void => world.stdout.write(line);
      // Set when a signal ends the run well; a failure has been reported by then.
      process.exitCode = await runUntilSignal(
        () => tier.run(source, write),
        (line) => world.stderr.write(`tributary: ${line}\n`),
      );
    });
}

/** Whether JSON can say it: NaN and infinities would come out as null. */
function isJson(value: unknown): boolean {
  if (typeof value === "number") return Number.isFinite(value);
  if (ArrayBuffer.isView(value) || Array.isArray(value)) {
    return [...(value as Iterable<unknown>)].every(isJson);
  }
  if (typeof value === "object" && value !== null) return Object.values(value).every(isJson);
  return value !== undefined;
}

/** Adds `predict` to the command of a device. */
export function addPredict(parent: Command, world: World): void {
  parent
    .command("predict")
    .description("answer one input with the last good model that the device keeps")
    .requiredOption("--config <file>", "the device's config")
    .requiredOption("--input <file>", "JSON file with the input that the trainer takes")
    .option("--device <id>", "which device, where the config lists several")
    .action(async (_options: unknown, command: Command) => {
      const { config, input, device } = command.optsWithGlobals<{
        config: string;
        input: string;
        device?: string;
      }>();
      const { predictOnce } = await import("@tributary/device-sdk/main.js");
      const source = { file: config, env: world.env, inputFile: input, device };
      const answer = await predictOnce(source);
      if (!answer.ok) {
        throw new CommandFailure(answer.code, answer.message, exitCodes.refused);
      }
      const { output } = answer;
      if (!isJson(output)) {
        const message =
          "the trainer's answer has values that are no numbers, or none at all: does the input fit the model?";
        throw new CommandFailure("not-a-number", message, exitCodes.refused);
      }
      world.stdout.write(`${JSON.stringify(output)}\n`);
    });
}
