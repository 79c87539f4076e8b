import { mkdir, mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { describeError, exitCodes } from "@tributary/proto/host/process.js";
import { CommanderError } from "commander";
import { createCsvMode } from "./csv/mode.js";
import { LogError } from "./csv/table.js";
import { createMnistMode } from "./mnist/mode.js";
import type { Mode } from "./mode.js";
import { type PilotOptions, readOptions } from "./options.js";
import { createProcesses, type Processes } from "./processes.js";
import { createProgressView, type ProgressView } from "./progress/progress.js";
import { reportHtml } from "./report/html.js";
import type { PilotReport } from "./report/report.js";
import { summary } from "./report/summary.js";
import { runPilot } from "./run.js";

process.exitCode = await main(process.argv.slice(2));

async function main(argv: readonly string[]): Promise<number> {
  let options: PilotOptions;
  try {
    options = readOptions(argv);
    if (options.report !== undefined) await checkWritable(options.report);
  } catch (error) {
    if (isSystemError(error)) {
      process.stderr.write(`pilot: the report cannot be written: ${error.message}\n`);
      return exitCodes.cannotWrite;
    }
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  }
  const startMs = Date.now();
  const start = performance.now();
  const elapsedMs = () => performance.now() - start;
  const directory = await mkdtemp(join(tmpdir(), "tributary-pilot-"));
  const view = createProgressView(process.stdout);
  const processes = createProcesses(await made(join(directory, "logs")), elapsedMs);
  const cleanUp = async () => {
    if (!options.keep) await rm(directory, { recursive: true, force: true });
  };
  const interruption = onInterruption(view, processes, cleanUp);

  view.note(
    `data directory: ${directory}${options.keep ? "" : "\n(removed at the end; --keep keeps it)"}`,
  );
  try {
    const mode = await createMode(options, directory);
    const run = { options, mode, directory, processes, view, startMs, elapsedMs };
    const report = await runPilot(run);
    await write(report, options.report);
    await cleanUp();
    return report.passed ? exitCodes.ok : exitCodes.refused;
  } catch (error) {
    if (interruption.happened) return exitCodes.interrupted;
    if (isInputError(error)) {
      process.stderr.write(`pilot: ${error.message}\n`);
      await rm(directory, { recursive: true, force: true });
      return exitCodes.usage;
    }
    await processes.endAll();
    process.stderr.write(
      `pilot: ${describeError(error)}\nThe data directory is kept: ${directory}\n`,
    );
    return exitCodes.internal;
  }
}

/** Numbers that allow no split, or logs that cannot be used: nothing has started yet. */
function isInputError(error: unknown): error is Error {
  return error instanceof RangeError || error instanceof LogError;
}

function createMode(options: PilotOptions, directory: string): Promise<Mode> {
  const { csv } = options;
  return csv === undefined
    ? createMnistMode(options)
    : createCsvMode({ ...options, csv, directory });
}

/** SIGINT, SIGTERM and SIGHUP end every process of the floor, then this one. */
function onInterruption(
  view: ProgressView,
  processes: Processes,
  cleanUp: () => Promise<void>,
): { happened: boolean } {
  const interruption = { happened: false };
  const stop = async () => {
    // A second signal changes nothing: the processes are being ended, each within a limit.
    if (interruption.happened) return;
    interruption.happened = true;
    view.note("stopping the processes");
    processes.onUnexpectedEnd(() => {});
    await processes.endAll();
    await cleanUp();
    process.exit(exitCodes.interrupted);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => void stop());
  }
  return interruption;
}

/** Writes report.json and report.html into a folder that outlives the run, or FILE and FILE's .html. */
async function write(report: PilotReport, file: string | undefined): Promise<void> {
  const jsonFile =
    file === undefined
      ? join(await mkdtemp(join(tmpdir(), "tributary-report-")), "report.json")
      : join(await made(dirname(resolve(file))), basename(file));
  const htmlFile = `${jsonFile.replace(/\.json$/, "")}.html`;
  await writeFile(jsonFile, `${JSON.stringify(report, undefined, 2)}\n`);
  await writeFile(htmlFile, reportHtml(report));
  process.stdout.write(summary(report, jsonFile, htmlFile));
}

/** Before anything starts: a run of minutes may not end without its report. */
async function checkWritable(file: string): Promise<void> {
  await made(dirname(resolve(file)));
  await (await open(file, "a")).close();
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "syscall" in error;
}

async function made(folder: string): Promise<string> {
  await mkdir(folder, { recursive: true });
  return folder;
}
