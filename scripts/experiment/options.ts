import { Command, InvalidArgumentError, Option } from "commander";
import { wrapped } from "../cli/text/wrap.js";
import type { Experiment, Given } from "./experiment.js";
import { WIDTH } from "./outcome.js";

export type Choice = {
  readonly experiment: Experiment;
  readonly given: Given;
  readonly json: string | undefined;
};

/** An argument parser for whole numbers, or for the multiples of one. */
export function wholeNumber(least: number, most: number, of = 1): (text: string) => number {
  const kind = of === 1 ? "a whole number" : `a multiple of ${of}`;
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || value > most || value % of !== 0)
      throw new InvalidArgumentError(`It must be ${kind} from ${least} to ${most}.`);
    return value;
  };
}

/**
 * Reads the command line. Throws commander's `CommanderError`, which has printed itself, for a usage
 * error and for `--help`.
 */
export function readChoice(argv: readonly string[], experiments: readonly Experiment[]): Choice {
  let choice: Choice | undefined;
  const program = new Command("experiment")
    .description("Runs a named experiment and prints its table.")
    .usage("NAME [options]")
    .allowExcessArguments(false)
    .exitOverride();
  for (const experiment of experiments) {
    program.addCommand(
      commandOf(experiment, (chosen) => {
        choice = chosen;
      }),
    );
  }
  program.parse([...argv], { from: "user" });
  // Commander has shown the help and thrown when no experiment was named.
  if (choice === undefined) throw new Error("commander chose no experiment");
  return choice;
}

function commandOf(experiment: Experiment, choose: (choice: Choice) => void): Command {
  const { rounds, seeds } = experiment.defaults;
  const command = new Command(experiment.name)
    .description(experiment.summary)
    .addOption(
      new Option("--rounds <n>", "rounds of the cloud")
        .argParser(wholeNumber(1, 10_000))
        .default(rounds),
    )
    .addOption(
      new Option("--seeds <n>", "repetitions, with the seeds 1 to n")
        .argParser(wholeNumber(1, 100))
        .default(seeds),
    )
    .option("--json <file>", "write the unrounded figures as JSON to this file")
    .addHelpText("after", `\n${paragraphs(experiment.details)}\n`)
    .allowExcessArguments(false)
    .exitOverride();
  for (const option of experiment.options) command.addOption(option);
  return command.action(({ rounds, seeds, json, ...own }) =>
    choose({ experiment, given: { rounds, seeds, own }, json }),
  );
}

function paragraphs(text: string): string {
  return text
    .trim()
    .split(/\n\s*\n/)
    .map((paragraph) => wrapped(paragraph.replace(/\s+/g, " "), WIDTH).join("\n"))
    .join("\n\n");
}
