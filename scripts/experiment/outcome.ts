import { table } from "../cli/text/table.js";
import type { Outcome } from "./experiment.js";

/** Columns of a plain terminal. */
export const WIDTH = 80;

/** An outcome for a terminal: title, table and notes, at most 80 columns wide. */
export function outcomeText({ title, columns, rows, notes }: Outcome): string {
  const below = notes.flatMap((note) => wrapped(note, WIDTH));
  return ["", ...wrapped(title, WIDTH), "", table(columns, rows, WIDTH), ...below, ""].join("\n");
}

/** The text in lines of at most `width` characters, broken at spaces; a longer word stays whole. */
export function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (longer.length > width && line !== "") {
      lines.push(line);
      line = word;
    } else {
      line = longer;
    }
  }
  return [...lines, line];
}
