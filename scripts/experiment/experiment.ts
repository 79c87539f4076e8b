import type { Option, OptionValues } from "commander";
import type { Column } from "../cli/text/table.js";

/** What `npm run experiment -- NAME` runs: a question with a committed answer. */
export type Experiment = {
  readonly name: string;
  /** One line of `--help`. */
  readonly summary: string;
  /**
   * Below the experiment's own help: the setting, and every parameter that is not an option.
   * Paragraphs stand apart by a blank line; where their lines break is of no account.
   */
  readonly details: string;
  readonly defaults: { readonly rounds: number; readonly seeds: number };
  /** Beside --rounds, --seeds and --json. */
  readonly options: readonly Option[];
  run(given: Given, world: World): Promise<Outcome>;
};

export type Given = {
  readonly rounds: number;
  /** Repetitions, with the seeds 1, 2, ... */
  readonly seeds: number;
  /** The experiment's own options, by commander's names for them. */
  readonly own: OptionValues;
};

export type World = {
  /**
   * Shows how far the experiment is and lets signals in. Call it at least once a second or so;
   * rejects when the run was interrupted.
   *
   * @param done of `all` steps of equal length
   */
  progress(done: number, all: number, what: string): Promise<void>;
};

export type Outcome = {
  readonly title: string;
  readonly columns: readonly Column<readonly string[]>[];
  readonly rows: readonly (readonly string[])[];
  /** Lines below the table. */
  readonly notes: readonly string[];
  /** The unrounded figures, for `--json`; JSON values only. */
  readonly figures: unknown;
};

/** Columns of an outcome: the first one stands left, the others hold numbers. */
export function numberColumns(titles: readonly string[]): Column<readonly string[]>[] {
  return titles.map((title, at) => ({
    title,
    align: at === 0 ? "left" : "right",
    cell: (row) => row[at] ?? "",
  }));
}
