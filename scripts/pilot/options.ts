import { Command, InvalidArgumentError, Option } from "commander";
import { FAULT_ROUNDS_MIN } from "./faults/schedule.js";
import { type Outage, readOutage } from "./outage.js";

export type PilotOptions = {
  readonly rounds: number | undefined;
  readonly sites: number;
  readonly devices: number;
  readonly seed: number;
  readonly faults: boolean;
  /** In place of the cut that the faults have: one that lasts for a time. */
  readonly outage: Outage | undefined;
  readonly secure: boolean;
  readonly keep: boolean;
  readonly report: string | undefined;
  readonly csv: string | undefined;
  readonly ignore: readonly string[];
};

function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || value > most) {
      throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
    }
    return value;
  };
}

/**
 * Reads the pilot's command line. Throws commander's `CommanderError`, which has printed itself, for
 * a usage error and for `--help`.
 */
export function readOptions(argv: readonly string[]): PilotOptions {
  const command = new Command("pilot")
    .description(
      "Runs a factory floor on this machine: one cloud, gateways and devices, end to end.",
    )
    .addOption(new Option("--rounds <n>", "training rounds").argParser(wholeNumber(1, 1000)))
    .addOption(
      new Option("--sites <n>", "sites, each with a gateway")
        .argParser(wholeNumber(2, 16))
        .default(3),
    )
    .addOption(
      new Option("--devices <n>", "devices over all sites")
        .argParser(wholeNumber(4, 240))
        .default(24),
    )
    .addOption(
      new Option("--seed <n>", "of the split, the initial model and the shuffles")
        .argParser(wholeNumber(0, 2 ** 32 - 1))
        .default(1),
    )
    .option("--no-faults", "cut no uplink and kill no gateway")
    .addOption(
      new Option(
        "--outage <duration>",
        "cut one site's uplink for so long, such as 10m or 6h; time-scaled",
      ).argParser(readOutage),
    )
    .option("--plain", "give nobody keys: every link in the clear", false)
    .option("--keep", "keep the data directory", false)
    .option("--report <file>", "write the report as JSON to this file")
    .option("--csv <dir>", "train on sensor logs: each folder a site, each CSV file a device")
    .option("--ignore <column...>", "columns of the logs that are never inputs", [] as string[])
    .allowExcessArguments(false)
    .exitOverride();
  const given = command.parse([...argv], { from: "user" }).opts();
  const isGiven = (option: string) => command.getOptionValueSource(option) === "cli";
  if (given.csv !== undefined && (isGiven("sites") || isGiven("devices"))) {
    command.error("error: --csv takes its sites and devices from the folders and files");
  }
  if (given.csv === undefined && isGiven("ignore")) command.error("error: --ignore needs --csv");
  if (given.outage !== undefined && !given.faults)
    command.error("error: --outage is a fault, and --no-faults wants none");
  if (given.outage !== undefined && given.rounds < FAULT_ROUNDS_MIN)
    command.error(`error: --outage needs at least ${FAULT_ROUNDS_MIN} rounds`);
  return {
    rounds: given.rounds,
    sites: given.sites,
    devices: given.devices,
    seed: given.seed,
    faults: given.faults,
    outage: given.outage,
    secure: !given.plain,
    keep: given.keep,
    report: given.report,
    csv: given.csv,
    ignore: given.ignore,
  };
}
