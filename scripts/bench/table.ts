import { type Bar, type BenchLine, holds } from "./line.js";

/** Columns of a plain terminal. */
const WIDTH = 80;
const BAR_COLUMNS = 17;
const VALUE_COLUMNS = 14;
const CASE_COLUMNS = WIDTH - VALUE_COLUMNS - BAR_COLUMNS - 4;

/** The figures as aligned rows of at most 80 characters, under a heading for each bench. */
export function formatTable(lines: readonly BenchLine[]): string {
  const rows: string[] = [];
  let bench: string | undefined;
  for (const line of lines) {
    if (line.bench !== bench) {
      if (bench !== undefined) rows.push("");
      bench = line.bench;
      rows.push(bench);
    }
    rows.push(row(line));
  }
  return rows.map((text) => `${text.trimEnd()}\n`).join("");
}

function row(line: BenchLine): string {
  const name =
    line.case.length > CASE_COLUMNS ? `${line.case.slice(0, CASE_COLUMNS - 3)}...` : line.case;
  const value = showValue(line.value, line.unit);
  const bar = line.bar === undefined ? "" : showBar(line, line.bar);
  return `  ${name.padEnd(CASE_COLUMNS)}${value.padStart(VALUE_COLUMNS)}  ${bar}`;
}

function showValue(value: number, unit: string): string {
  return unit === "times" ? `${value.toFixed(2)}x` : `${value} ${unit}`;
}

function showBar(line: BenchLine, bar: Bar): string {
  const bound = "atLeast" in bar ? `>= ${bar.atLeast}` : `<= ${bar.atMost}`;
  return `${bound}: ${holds(line, bar) ? "ok" : "MISSED"}`;
}
