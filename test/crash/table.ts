import type { PointResult } from "./run.js";

const columns: readonly (readonly [title: string, of: (result: PointResult) => string | number])[] =
  [
    ["point", ({ point }) => point],
    ["kills", ({ kills }) => kills],
    ["receipted", ({ receipted }) => receipted],
    ["in a model", ({ inModel }) => inModel],
    ["expired", ({ expired }) => expired],
    ["lost", ({ lost }) => lost.length],
    ["doubled", ({ doubled }) => doubled.length],
    ["sums checked", ({ modelsChecked }) => modelsChecked],
    ["wrong", ({ modelsWrong }) => modelsWrong.length],
    ["seconds", ({ elapsedMs }) => Math.round(elapsedMs / 1000)],
  ];

/** A row of a table in Markdown, padded so that it reads as a table on a terminal, too. */
const width = (title: string): number => Math.max(title.length, title === "point" ? 16 : 5);

export function tableHead(): string {
  const titles = columns.map(([title], i) => padded(title, title, i));
  const rules = columns.map(([title], i) => {
    const rule = "-".repeat(width(title));
    return i === 0 ? rule : `${rule.slice(1)}:`;
  });
  return `| ${titles.join(" | ")} |\n| ${rules.join(" | ")} |\n`;
}

export function tableRow(result: PointResult): string {
  const cells = columns.map(([title, of], i) => padded(String(of(result)), title, i));
  return `| ${cells.join(" | ")} |\n`;
}

/** Whether nothing was lost, doubled or summed wrongly, and there was something to judge. */
export function passed({ receipted, lost, doubled, modelsWrong }: PointResult): boolean {
  return receipted > 0 && lost.length + doubled.length + modelsWrong.length === 0;
}

function padded(text: string, title: string, column: number): string {
  return column === 0 ? text.padEnd(width(title)) : text.padStart(width(title));
}
