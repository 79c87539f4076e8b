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

function isLabel(name: string): boolean {
  return name.toLowerCase() === LABEL;
}

export type LogHeader = {
  readonly separator: ";" | ",";
  readonly columns: readonly string[];
  /** Columns of numbers that may be inputs. */
  readonly sensors: readonly string[];
  /** Columns that are neither sensors nor the label, and why. */
  readonly unused: readonly string[];
  readonly hasLabel: boolean;
};

/** Reads the header and the first rows: enough to tell numbers from text, and nothing more. */
export async function readHeader(file: string, ignored: readonly string[]): Promise<LogHeader> {
  const { size } = await stat(file);
  if (size > logLimits.fileBytes)
    throw new LogError(`${file}: more than ${logLimits.fileBytes} bytes`);
  const head = await readHead(file);
  const separator = separatorOf(head.split(/\r?\n/, 1)[0] ?? "");
  const [columns = [], ...rows] = headRows(file, head, separator, size > logLimits.headBytes);
  checkColumns(file, columns);
  if (rows.length === 0) throw new LogError(`${file}: no row below the header`);
  const isNumeric = (at: number) =>
    rows.every((row) => isNumberOrMissing(row[at])) && rows.some((row) => !isMissing(row[at]));
  const excluded = new Set(ignored);
  const sensors = columns.filter(
    (name, at) => !isNeverInput(name) && !excluded.has(name) && isNumeric(at),
  );
  return {
    separator,
    columns,
    sensors,
    unused: columns.filter((name) => !sensors.includes(name) && !isLabel(name)),
    hasLabel: columns.some(isLabel),
  };
}

async function readHead(file: string): Promise<string> {
  const handle = await open(file);
  try {
    const buffer = Buffer.alloc(logLimits.headBytes);
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, 0);
    const text = buffer.toString("utf8", 0, bytesRead).replace(/^\uFEFF/, "");
    if (text.includes("\0")) throw new LogError(`${file}: not a text file`);
    return text;
  } finally {
    await handle.close();
  }
}

function separatorOf(header: string): ";" | "," {
  return header.split(";").length > header.split(",").length ? ";" : ",";
}

function headRows(file: string, head: string, separator: string, isCut: boolean): string[][] {
  const lines = head.split(/\r?\n/);
  // The last line of a cut head may be half a line.
  const whole = (isCut ? lines.slice(0, -1) : lines).slice(0, logLimits.sampledRows + 1);
  try {
    return parseNow(whole.join("\n"), {
      delimiter: separator,
      skip_empty_lines: true,
      trim: true,
      relax_column_count: true,
    });
  } catch (cause) {
    throw new LogError(`${file}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
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
  if (columns.every((name) => isNumberOrMissing(name))) {
    throw new LogError(`${file}: the first line holds numbers; it must name the columns`);
  }
}

const missing = new Set(["", "na", "nan", "null", "none", "-"]);

function isMissing(text: string | undefined): boolean {
  return text === undefined || missing.has(text.toLowerCase());
}

function isNumberOrMissing(text: string | undefined): boolean {
  return isMissing(text) || Number.isFinite(Number(text));
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
  const { separator, columns, hasLabel } = await readHeader(file, []);
  const places = sensors.map((name) => {
    const at = columns.indexOf(name);
    if (at < 0) throw new LogError(`${file}: no column "${name}"`);
    return at;
  });
  const labelAt = columns.findIndex(isLabel);
  const values: number[] = [];
  const labels: number[] = [];
  let line = 1;
  const parser = createReadStream(file).pipe(
    parse({ delimiter: separator, bom: true, skip_empty_lines: true, trim: true, from: 2 }),
  );
  try {
    for await (const cells of parser as AsyncIterable<string[]>) {
      line++;
      if (line - 1 > logLimits.rows)
        throw new LogError(`${file}: more than ${logLimits.rows} rows`);
      for (const [sensor, at] of places.entries()) {
        values.push(numberIn(file, line, sensors[sensor] ?? "", cells[at]));
      }
      if (hasLabel) labels.push(labelIn(file, line, cells[labelAt]));
    }
  } catch (cause) {
    if (cause instanceof LogError) throw cause;
    throw new LogError(`${file}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
  const rows = line - 1;
  if (rows < logLimits.rowsMin)
    throw new LogError(`${file}: ${rows} rows; at least ${logLimits.rowsMin}`);
  const filledValues = Float64Array.from(values);
  const filled = fillMissing(filledValues, sensors.length);
  return {
    rows,
    values: filledValues,
    labels: hasLabel ? Uint8Array.from(labels) : undefined,
    filled,
  };
}

function numberIn(file: string, line: number, column: string, text: string | undefined): number {
  if (isMissing(text)) return Number.NaN;
  const value = Number(text);
  if (!Number.isFinite(value)) {
    throw new LogError(
      `${file}, row ${line}: "${String(text).slice(0, 40)}" in column "${column}" is not a number`,
    );
  }
  return value;
}

function labelIn(file: string, line: number, text: string | undefined): number {
  const value = Number(text);
  if (isMissing(text) || (value !== 0 && value !== 1)) {
    throw new LogError(`${file}, row ${line}: "${text}" in column "${LABEL}" is not 0 or 1`);
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

/** Rows below the header, counted by line ends: no value is looked at. */
export async function countRows(file: string): Promise<number> {
  let lines = 0;
  let last = 0;
  for await (const piece of createReadStream(file) as AsyncIterable<Uint8Array>) {
    for (const byte of piece) {
      // Blank lines are no rows.
      if (byte === 10 && last !== 10) lines++;
      if (byte !== 13) last = byte;
    }
  }
  return Math.max(0, lines + (last === 10 ? 0 : 1) - 1);
}
