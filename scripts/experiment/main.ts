import { mkdir, open, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { setImmediate } from "node:timers/promises";
import { describeError, exitCodes } from "@tributary/proto/host/process.js";
import { CommanderError } from "commander";
import type { World } from "./experiment.js";
import { experiments } from "./experiments.js";
import { type Choice, readChoice } from "./options.js";
import { outcomeText } from "./outcome.js";

/** `npm run experiment -- NAME`: progress on standard error, the table on standard output. */
process.exitCode = await main(process.argv.slice(2));

async function main(argv: readonly string[]): Promise<number> {
  let choice: Choice;
  try {
    choice = readChoice(argv, experiments);
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  }
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => interrupted.abort(new Error("interrupted")));
  }
  const view = createProgressLine(interrupted.signal);
  try {
    if (choice.json !== undefined) await checkWritable(choice.json);
    await run(choice, view.world, view.clear);
    return exitCodes.ok;
  } catch (error) {
    view.clear();
    if (interrupted.signal.aborted) return exitCodes.interrupted;
    process.stderr.write(`experiment: ${describeError(error)}\n`);
    return error instanceof Error && "syscall" in error
      ? exitCodes.cannotWrite
      : exitCodes.internal;
  }
}

async function run(
  { experiment, given, json }: Choice,
  world: World,
  clearProgress: () => void,
): Promise<void> {
  const startedAt = new Date().toISOString();
  const start = performance.now();
  const outcome = await experiment.run(given, world);
  clearProgress();
  const seconds = (performance.now() - start) / 1000;
  process.stdout.write(`${outcomeText(outcome)}took ${seconds.toFixed(1)} s\n`);
  if (json === undefined) return;
  const { rounds, seeds, own } = given;
  const record = {
    experiment: experiment.name,
    settings: { rounds, seeds, ...own },
    startedAt,
    seconds,
    node: process.version,
    figures: outcome.figures,
  };
  await writeFile(json, `${JSON.stringify(record, undefined, 2)}\n`);
}

/** Before anything starts: a run of minutes may not end without its figures. */
async function checkWritable(file: string): Promise<void> {
  await mkdir(dirname(resolve(file)), { recursive: true });
  await (await open(file, "a")).close();
}

/** One line that is rewritten in place on a terminal; elsewhere a line whenever `what` changes. */
function createProgressLine(signal: AbortSignal): { world: World; clear: () => void } {
  const out = process.stderr;
  let shown = "";
  const clear = () => {
    if (out.isTTY && shown !== "") out.write("\r\u001b[K");
    shown = "";
  };
  const world: World = {
    async progress(done, all, what) {
      const percent = `${String(Math.floor((100 * done) / Math.max(1, all))).padStart(3)} %`;
      const line = out.isTTY ? `${percent}  ${what}` : what;
      if (line !== shown) {
        out.write(
          out.isTTY
            ? `\r\u001b[K${line.slice(0, (out.columns ?? 80) - 1)}`
            : `${percent}  ${what}\n`,
        );
        shown = line;
      }
      await setImmediate();
      signal.throwIfAborted();
    },
  };
  return { world, clear };
}
