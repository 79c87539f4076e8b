import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createMnistMode } from "./mnist/mode.js";
import { type PilotOptions, readOptions } from "./options.js";
import { createProcesses } from "./processes.js";
import { createProgressView } from "./progress/progress.js";
import { reportHtml } from "./report/html.js";
import type { PilotReport } from "./report/report.js";
import { summary } from "./report/summary.js";
import { runPilot } from "./run.js";

const options = readOptions(process.argv.slice(2));
const startMs = Date.now();
const start = performance.now();
const elapsedMs = () => performance.now() - start;
const directory = await mkdtemp(join(tmpdir(), "tributary-pilot-"));
const view = createProgressView(process.stdout);
const processes = createProcesses(await made(join(directory, "logs")), elapsedMs);

let isInterrupted = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    isInterrupted = true;
    view.note("stopping the processes");
    processes.onUnexpectedEnd(() => {});
    void processes.endAll().then(async () => {
      await cleanUp(options.keep);
      process.exit(130);
    });
  });
}

view.note(
  `data directory: ${directory}${options.keep ? "" : " (removed at the end; --keep keeps it)"}`,
);
try {
  const mode = await createMnistMode(options);
  const report = await runPilot({ options, mode, directory, processes, view, startMs, elapsedMs });
  view.close();
  await write(report, options);
  await cleanUp(options.keep);
  process.exitCode = report.passed ? 0 : 1;
} catch (error) {
  if (!isInterrupted) {
    view.close();
    await processes.endAll();
    process.stderr.write(
      `pilot: ${error instanceof Error ? error.message : String(error)}\nThe data directory is kept: ${directory}\n`,
    );
    process.exitCode = 70;
  }
}

async function write(report: PilotReport, { report: file }: PilotOptions): Promise<void> {
  const json = `${JSON.stringify(report, undefined, 2)}\n`;
  // Beside the data directory's, so that the report outlives it.
  const folder =
    file === undefined
      ? await made(join(tmpdir(), "tributary-report"))
      : await made(dirname(resolve(file)));
  const jsonFile = file === undefined ? join(folder, "report.json") : resolve(file);
  const htmlFile = join(
    folder,
    file === undefined ? "report.html" : `${jsonFile.replace(/^.*\/|\.json$/g, "")}.html`,
  );
  await writeFile(jsonFile, json);
  await writeFile(htmlFile, reportHtml(report));
  process.stdout.write(summary(report, jsonFile, htmlFile));
}

async function cleanUp(keep: boolean): Promise<void> {
  if (!keep) await rm(directory, { recursive: true, force: true });
}

async function made(folder: string): Promise<string> {
  await mkdir(folder, { recursive: true });
  return folder;
}
