import { points } from "./points.js";
import type { PointResult } from "./run.js";

const columns: readonly (readonly [title: string, of: (result: PointResult) => string | number])[] =
  [
    ["point", ({ point }) => point],
    ["asked", ({ asked }) => asked],
    ["kills", ({ kills }) => kills],
    ["receipted", ({ receipted }) => receipted],
    ["in a model", ({ inModel }) => inModel],
    ["expired", ({ expired }) => expired],
    ["lost", ({ lost }) => lost.length],
    ["doubled", ({ doubled }) => doubled.length],
    ["models", ({ checked }) => checked.models],
    ["sums", ({ checked }) => checked.sums],
    ["late", ({ checked }) => checked.late],
    ["composed", ({ checked }) => checked.composed],
    ["further", ({ checked }) => checked.further],
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

/** What keeps a run from passing, in words; nothing for one that holds. */
export function failuresOf(result: PointResult): string[] {
  const { asked, kills, receipted, checked } = result;
  const { siteRounds, buffered, away } = points[result.point];
  const failures: string[] = [];
  const unless = (holds: boolean, what: string) => {
    if (!holds) failures.push(what);
  };
  for (const what of ["lost", "doubled", "unreceipted", "modelsWrong"] as const)
    for (const key of result[what]) failures.push(`${what}: ${key}`);
  unless(kills === asked, `vacuous: ${kills} lives ended at the point, not ${asked}`);
  unless(receipted > 0, "vacuous: no device holds a receipt");
  unless(checked.sums > 0, "vacuous: no sum was checked");
  unless(buffered === undefined || checked.late > 0, "vacuous: nothing late was in a model");
  unless(siteRounds === 1 || checked.composed > 0, "vacuous: nothing composed was in a model");
  unless(!away || checked.further > 0, "vacuous: no further stretch was in a model");
  return failures;
}

function padded(text: string, title: string, column: number): string {
  return column === 0 ? text.padEnd(width(title)) : text.padStart(width(title));
}
