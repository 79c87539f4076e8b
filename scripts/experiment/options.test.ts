import assert from "node:assert/strict";
import { test } from "node:test";
import { CommanderError, Option } from "commander";
import { type Experiment, numberColumns } from "./experiment.js";
import { readChoice, wholeNumber } from "./options.js";
import { outcomeText } from "./outcome.js";

const outcome = {
  title: "A title that says what was measured, on which fleet, for how long, and how often it was",
  columns: numberColumns(["rule", "accuracy"]),
  rows: [
    ["a rule with a name that is longer than a terminal is wide, which none should be at all", "1"],
    ["another", "0.5"],
  ],
  notes: [
    "A note that needs more than one line of a terminal because it explains a figure at length.",
  ],
  figures: [],
};
const sample: Experiment = {
  name: "sample",
  summary: "what the options come to",
  details: "Nothing.",
  defaults: { rounds: 7, seeds: 2 },
  options: [new Option("--every <n>").argParser(wholeNumber(1, 9)).default(3)],
  run: async () => outcome,
};

test("an experiment has its own options beside those of all", () => {
  const plain = readChoice(["sample"], [sample]);
  assert.deepEqual(plain.given, { rounds: 7, seeds: 2, own: { every: 3 } });
  assert.deepEqual([plain.experiment, plain.json], [sample, undefined]);
  const full = ["sample", "--rounds", "9", "--seeds", "1", "--every", "4", "--json", "a.json"];
  const given = readChoice(full, [sample]);
  assert.deepEqual(given.given, { rounds: 9, seeds: 1, own: { every: 4 } });
  assert.equal(given.json, "a.json");
});

test("a wrong command line is commander's error, and --help none of a kind that fails", (t) => {
  t.mock.method(process.stderr, "write", () => true);
  t.mock.method(process.stdout, "write", () => true);
  const codeOf = (argv: string[]) => {
    try {
      readChoice(argv, [sample]);
    } catch (error) {
      return error instanceof CommanderError ? error.exitCode : error;
    }
    return undefined;
  };
  for (const argv of [
    [],
    ["other"],
    ["sample", "more"],
    ["sample", "--rounds", "0"],
    ["sample", "--every", "1.5"],
  ])
    assert.equal(codeOf(argv), 1, argv.join(" "));
  assert.equal(codeOf(["sample", "--help"]), 0);
});

test("an outcome fits a terminal of 80 columns", () => {
  const text = outcomeText(outcome);
  for (const line of text.split("\n")) assert.ok(line.length <= 80, line);
  assert.match(text, /another +0\.5\n/);
});
