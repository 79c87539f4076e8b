/** A column of a table; rows are given as one object each. */
export type Column<Row> = {
  readonly title: string;
  readonly cell: (row: Row) => string;
  /** Numbers stand right. Default: left. */
  readonly align?: "left" | "right";
};

const gap = "  ";
const narrowest = 4;

/**
 * Aligned lines, a header first, none wider than `width` where the columns allow it. What does not
 * fit is taken from the widest columns, whose cells then end with `…`.
 */
export function table<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  width: number,
): string {
  const cells = [
    columns.map(({ title }) => title),
    ...rows.map((row) => columns.map(({ cell }) => printable(cell(row)))),
  ];
  const natural = columns.map((_, at) => Math.max(...cells.map((line) => line[at]?.length ?? 0)));
  const widths = fit(natural, width - gap.length * (columns.length - 1));
  const lines = cells.map((line) =>
    line
      .map((text, at) => {
        const cut = shorten(text, widths[at] ?? 0);
        return columns[at]?.align === "right"
          ? cut.padStart(widths[at] ?? 0)
          : cut.padEnd(widths[at] ?? 0);
      })
      .join(gap)
      .trimEnd(),
  );
  return `${lines.join("\n")}\n`;
}

/** Lines of `name  value`, the names padded to one width; absent values are left out. */
export function fields(pairs: readonly (readonly [string, string | undefined])[]): string {
  const shown = pairs.filter(([, value]) => value !== undefined);
  const width = Math.max(...shown.map(([name]) => name.length));
  return shown
    .map(([name, value]) => `${name.padEnd(width)}${gap}${printable(value ?? "")}\n`)
    .join("");
}

/** The text in at most `width` characters. */
export function shorten(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`;
}

/** Names come from other machines: a control character must not reach the terminal. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, "?");
}

/** Takes from the widest until the sum fits, but no column below its minimum. */
function fit(natural: readonly number[], total: number): readonly number[] {
  const widths = [...natural];
  let excess = widths.reduce((sum, width) => sum + width, 0) - total;
  while (excess > 0) {
    const widest = Math.max(...widths);
    if (widest <= narrowest) break;
    widths[widths.indexOf(widest)] = widest - 1;
    excess -= 1;
  }
  return widths;
}
