import { table } from "../cli/text/table.js";
import { wrapped } from "../cli/text/wrap.js";
import type { Outcome } from "./experiment.js";

/** Columns of a plain terminal. */
export const WIDTH = 80;

/** An outcome for a terminal: title, table and notes, at most 80 columns wide. */
export function outcomeText({ title, columns, rows, notes }: Outcome): string {
  const below = notes.flatMap((note) => wrapped(note, WIDTH));
  return ["", ...wrapped(title, WIDTH), "", table(columns, rows, WIDTH), ...below, ""].join("\n");
}
