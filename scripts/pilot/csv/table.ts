import { createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import { parse } from "csv-parse";
import { parse as parseNow } from "csv-parse/sync";
import { logLimits } from "./limits.js";

/** A file that cannot be used; the message names the file, and the line where there is one. */
export class LogError extends Error {
  override readonly name = "LogError";
}

const LABEL = "anomaly";
/** Columns that say when or what, and never are inputs. */
const neverInputs = new Set(["changepoint", LABEL]);
const timeName = /^(date|time|datetime|timestamp|date[_ ]?time|ts|zeit)$/i;

function isNeverInput(name: string): boolean {
  return neverInputs.has(name.toLowerCase()) || timeName.test(name);
}

/** Whether a column of that name says which rows are anomalies. */
export function isLabel(name: string): boolean {
  return name.toLowerCase() === LABEL;
}

type LogHead = {
  readonly separator: ";" | ",";
  readonly columns: readonly string[];
};

/** What a look at every row of a log shows. */
export type LogSurvey = {
  readonly columns: readonly string[];
  /** Columns of numbers that may be inputs. */
  readonly sensors: readonly string[];
  /** Columns that are neither sensors nor the label. */
  readonly unused: readonly string[];
  readonly rows: number;
};

/** A column of which a larger share is text is no sensor; a smaller one is taken for a slip. */
const TEXT_SHARE_MAX = 0.05;

/**
 * Reads every row and tells the columns of numbers from the others. Text here and there in a column
 * that otherwise holds numbers is an error that names its line.
 */
export async function surveyLog(file: string, ignored: readonly string[]): Promise<LogSurvey> {
  const { size } = await stat(file);
  if (size > logLimits.fileBytes)
    throw new LogError(`${file}: more than ${logLimits.fileBytes} bytes`);
  const head = await readHead(file);
  const { columns } = head;
  const excluded = new Set(ignored);
  const tallies = columns.map((name) => ({ name, numbers: 0, texts: 0, firstText: "" }));
  const examined = tallies.filter(({ name }) => !isNeverInput(name) && !excluded.has(name));
  const places = examined.map(({ name }) => columns.indexOf(name));
  let rows = 0;
  for await (const { cells, line } of recordsOf(file, head)) {
    rows++;
    for (const [i, tally] of examined.entries()) {
      const text = cells[places[i] as number];
      if (isMissing(text)) continue;
      if (!Number.isNaN(numberOf(text, head.separator))) tally.numbers++;
      else if (tally.texts++ === 0) tally.firstText = notANumber(file, line, tally.name, text);
    }
  }
  checkRows(file, rows);
  for (const { name, numbers, texts, firstText } of examined)
    if (texts > 0 && texts <= TEXT_SHARE_MAX * (numbers + texts))
      throw new LogError(`${firstText}; mend it, or leave the column out with --ignore ${name}`);
  const sensors = examined.filter(({ numbers, texts }) => numbers > 0 && texts === 0);
  const names = sensors.map(({ name }) => name);
  return {
    columns,
    sensors: names,
    unused: columns.filter((name) => !names.includes(name) && !isLabel(name)),
    rows,
  };
}

async function readHead(file: string): Promise<LogHead> {
  const handle = await open(file);
  try {
    const buffer = Buffer.alloc(logLimits.headBytes);
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, 0);
    const text = buffer.toString("utf8", 0, bytesRead).replace(/^\uFEFF/, "");
    if (text.includes("\0")) throw new LogError(`${file}: not a text file`);
    const separator = separatorOf(text.split(/\r?\n/, 1)[0] ?? "");
    const columns = headerIn(file, text, separator);
    checkColumns(file, columns);
    return { separator, columns };
  } finally {
    await handle.close();
  }
}

function separatorOf(header: string): ";" | "," {
  return header.split(";").length > header.split(",").length ? ";" : ",";
}

function headerIn(file: string, head: string, separator: string): string[] {
  try {
    const [header = []] = parseNow(head, {
      delimiter: separator,
      skip_empty_lines: true,
      trim: true,
      relax_column_count: true,
      to: 1,
    });
    return header;
  } catch (cause) {
    throw readingFailure(file, cause);
  }
}

/** Every row below the header, with the line that it ends on. */
async function* recordsOf(
  file: string,
  { separator }: LogHead,
): AsyncGenerator<{ readonly cells: readonly string[]; readonly line: number }> {
  const parser = createReadStream(file).pipe(
    parse({
      delimiter: separator,
      bom: true,
      skip_empty_lines: true,
      trim: true,
      from: 2,
      info: true,
    }),
  );
  try {
    for await (const { record, info } of parser as AsyncIterable<ParsedRecord>)
      yield { cells: record, line: info.lines };
  } catch (cause) {
    throw readingFailure(file, cause);
  }
}

type ParsedRecord = { readonly record: string[]; readonly info: { readonly lines: number } };

function readingFailure(file: string, cause: unknown): LogError {
  if (cause instanceof LogError) return cause;
  return new LogError(`${file}: ${cause instanceof Error ? cause.message : String(cause)}`, {
    cause,
  });
}

function checkRows(file: string, rows: number): void {
  if (rows === 0) throw new LogError(`${file}: no row below the header`);
  if (rows > logLimits.rows) throw new LogError(`${file}: more than ${logLimits.rows} rows`);
  if (rows < logLimits.rowsMin)
    throw new LogError(`${file}: ${rows} rows; at least ${logLimits.rowsMin}`);
}

function checkColumns(file: string, columns: readonly string[]): void {
  if (columns.length < 2) {
    throw new LogError(
      `${file}: the header has ${columns.length} columns; separate them by ; or ,`,
    );
  }
  if (columns.length > logLimits.columns) {
    throw new LogError(`${file}: ${columns.length} columns; at most ${logLimits.columns}`);
  }
  const twice = columns.find((name, at) => columns.indexOf(name) !== at);
  if (twice !== undefined)
    throw new LogError(`${file}: the column "${twice}" stands twice in the header`);
  if (columns.every((name) => isMissing(name) || !Number.isNaN(numberOf(name, ";")))) {
    throw new LogError(`${file}: the first line holds numbers; it must name the columns`);
  }
}

const missing = new Set(["", "na", "nan", "null", "none", "-"]);

function isMissing(text: string | undefined): boolean {
  return text === undefined || missing.has(text.toLowerCase());
}

/** `1,5`, as it stands between semicolons. Where commas part columns there is none. */
const decimalComma = /^[+-]?\d*,\d+(e[+-]?\d+)?$/i;

/** The cell's value, written with a decimal point or comma; NaN for text. */
function numberOf(text: string | undefined, separator: LogHead["separator"]): number {
  if (text === undefined || text === "") return Number.NaN;
  const plain = separator === ";" && decimalComma.test(text) ? text.replace(",", ".") : text;
  const value = Number(plain);
  return Number.isFinite(value) ? value : Number.NaN;
}

function notANumber(file: string, line: number, column: string, text: string | undefined): string {
  const shown = String(text).slice(0, 40);
  return `${file}, line ${line}: "${shown}" in column "${column}" is not a number`;
}

export type LogRows = {
  readonly rows: number;
  /** Row by row, one value a sensor. */
  readonly values: Float64Array;
  /** 1 where the row is labelled an anomaly; undefined without a label column. */
  readonly labels: Uint8Array | undefined;
  /** Missing values that were filled with the sensor's last one. */
  readonly filled: number;
};

/**
 * Reads the sensors and the label of every row. A missing value takes the sensor's last one (the
 * first one, ahead of it); text in a sensor's column, a label that is not 0 or 1 and a row of
 * another length are errors.
 */
export async function readRows(file: string, sensors: readonly string[]): Promise<LogRows> {
  const head = await readHead(file);
  const { columns, separator } = head;
  const places = sensors.map((name) => {
    const at = columns.indexOf(name);
    if (at < 0) throw new LogError(`${file}: no column "${name}"`);
    return at;
  });
  const labelAt = columns.findIndex(isLabel);
  const values: number[] = [];
  const labels: number[] = [];
  let rows = 0;
  for await (const { cells, line } of recordsOf(file, head)) {
    // Before the values are kept: a file without an end must not fill the memory.
    if (++rows > logLimits.rows) break;
    for (const [sensor, at] of places.entries()) {
      const text = cells[at];
      const value = isMissing(text) ? Number.NaN : numberOf(text, separator);
      if (Number.isNaN(value) && !isMissing(text))
        throw new LogError(notANumber(file, line, sensors[sensor] ?? "", text));
      values.push(value);
    }
    if (labelAt >= 0) labels.push(labelIn(file, line, cells[labelAt], separator));
  }
  checkRows(file, rows);
  const filledValues = Float64Array.from(values);
  const filled = fillMissing(filledValues, sensors.length);
  return {
    rows,
    values: filledValues,
    labels: labelAt >= 0 ? Uint8Array.from(labels) : undefined,
    filled,
  };
}

function labelIn(
  file: string,
  line: number,
  text: string | undefined,
  separator: LogHead["separator"],
): number {
  const value = numberOf(text, separator);
  if (isMissing(text) || (value !== 0 && value !== 1)) {
    throw new LogError(`${file}, line ${line}: "${text}" in column "${LABEL}" is not 0 or 1`);
  }
  return value;
}

function fillMissing(values: Float64Array, sensors: number): number {
  let filled = 0;
  for (let sensor = 0; sensor < sensors; sensor++) {
    let last = firstNumber(values, sensor, sensors);
    for (let at = sensor; at < values.length; at += sensors) {
      const value = values[at] as number;
      if (Number.isNaN(value)) {
        values[at] = last;
        filled++;
      } else {
        last = value;
      }
    }
  }
  return filled;
}

function firstNumber(values: Float64Array, sensor: number, sensors: number): number {
  for (let at = sensor; at < values.length; at += sensors) {
    const value = values[at] as number;
    if (!Number.isNaN(value)) return value;
  }
  return 0;
}
