import { readFile } from "node:fs/promises";
import { limits } from "@tributary/gateway/limits.js";
import type { Figure, SiteSize } from "@tributary/gateway/size.js";
import type { Encoding } from "@tributary/proto/algebra/grid.js";
import { parameterCount } from "@tributary/proto/algebra/layout.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { encodings } from "@tributary/proto/wire/plan.js";
import { decodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { type Command, InvalidArgumentError, Option } from "commander";
import { reasonOf, usageFailure } from "./failure.js";
import { shorten } from "./text/table.js";
import { bytes } from "./text/words.js";
import { type GlobalOptions, show, type World } from "./world.js";

type SizeOptions = GlobalOptions & {
  readonly devices: number;
  readonly model?: string;
  readonly parameters?: number;
  readonly encoding: Encoding;
  readonly outage: number;
  readonly roundsPerHour: number;
  readonly siteRounds: boolean;
  readonly uploadSlots: number;
};

const parametersMax = wire.modelBytes / 4;
const roundsPerHourMax = 3_600;
const outageMinMs = 60_000;
const outageMaxMs = 3_650 * 86_400_000;
const units: Readonly<Record<string, number>> = { m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Adds `size`: what a gateway will need, calculated from formulas that it shows. */
export function addGatewaySize(gateway: Command, world: World): void {
  gateway
    .command("size")
    .description("calculate the buffer, memory and flash wear that a site needs")
    .requiredOption("--devices <n>", "devices of the site", within(1, limits.connections))
    .option("--model <file>", "a safetensors file of the model, to count its parameters")
    .option(
      "--parameters <n>",
      "parameters of the model, where there is no file",
      within(1, parametersMax),
    )
    .addOption(
      new Option("--encoding <name>", "how devices send values: 2 or 4 bytes each")
        .choices(encodings)
        .default("f32" satisfies Encoding),
    )
    .addOption(
      new Option("--outage <time>", "longest time without the uplink: 90m, 6h, 7d")
        .argParser(timeOf)
        .default(timeOf("7d"), "7d"),
    )
    .option("--rounds-per-hour <n>", "rounds an hour, site rounds among them", amountOf, 6)
    .option("--no-site-rounds", "the site rests while the uplink is away")
    .option("--upload-slots <n>", "the config's uploadSlots", within(1, 64), 4)
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<SizeOptions>();
      const { sizeSite } = await import("@tributary/gateway/size.js");
      const { devices, encoding, outage, roundsPerHour, siteRounds, uploadSlots } = options;
      const parameters = await parametersOf(options);
      const load = {
        devices,
        parameters,
        encoding,
        roundsPerHour,
        outageMs: outage,
        siteRounds,
        uploadSlots,
      };
      const size = sizeSite(load);
      show(world, options, { load, ...size }, () =>
        describeSize(parameters, devices, size, world.stdout.width),
      );
    });
}

async function parametersOf({ model, parameters }: SizeOptions): Promise<number> {
  if ((model === undefined) === (parameters === undefined)) {
    throw usageFailure("give either --model FILE or --parameters N");
  }
  if (model === undefined) return parameters as number;
  const file = await readFile(model).catch((error: unknown) => {
    throw usageFailure(`cannot read the model ${model}: ${reasonOf(error)}`);
  });
  const decoded = decodeSafetensors(file);
  if (!decoded.ok) throw usageFailure(`${model} is not a model: ${decoded.message}`);
  return parameterCount(decoded.layout);
}

function describeSize(parameters: number, devices: number, size: SiteSize, width: number): string {
  const { parts, buffer, budget, memory, writtenOnline, writtenOffline, upload, outageRounds } =
    size;
  const line = ({ name, bytes: value, formula }: Figure): string => {
    const head = `  ${name.padEnd(22)}${bytes(value).padStart(9)}  `;
    const fits = head.length + formula.length <= width;
    return shorten(fits ? `${head}${formula}` : `${head.trimEnd()}\n      ${formula}`, 2 * width);
  };
  return [
    `P = ${parameters} parameters, N = ${devices} devices, b bytes a value, R rounds an hour`,
    "",
    "made of",
    ...parts.map(line),
    "",
    "needed",
    line(buffer),
    line(budget),
    line(memory),
    line(writtenOnline),
    line(writtenOffline),
    "",
    `the outage: ${outageRounds} site rounds; what waits merges, so the buffer does not grow`,
    line(upload),
    "Small flash wears by up to twice what is written: it writes whole pages.",
    "",
  ].join("\n");
}

/** Parses a whole number within a range; commander names the flag. */
function within(least: number, most: number): (value: string) => number {
  return (value) => {
    const number = /^\d{1,12}$/.test(value) ? Number(value) : Number.NaN;
    if (number >= least && number <= most) return number;
    throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
  };
}

function amountOf(value: string): number {
  const number = /^\d{1,6}(\.\d{1,6})?$/.test(value) ? Number(value) : Number.NaN;
  if (number <= roundsPerHourMax) return number;
  throw new InvalidArgumentError(`It must be a number from 0 to ${roundsPerHourMax}, such as 0.5.`);
}

function timeOf(value: string): number {
  const [, amount, unit] = /^(\d{1,6}(?:\.\d{1,3})?)([mhd])$/.exec(value) ?? [];
  const ms = Number(amount) * (units[unit ?? ""] ?? Number.NaN);
  if (ms >= outageMinMs && ms <= outageMaxMs) return ms;
  throw new InvalidArgumentError("It must be from 1m to 3650d, such as 90m, 6h or 7d.");
}
