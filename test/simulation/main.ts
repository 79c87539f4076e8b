import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { exitCodes } from "@tributary/proto/host/process.js";
import { simulateSeeds } from "./pool.js";
import { createReport } from "./report.js";
import { simulate } from "./world.js";

const USAGE = `Runs the production logic of all tiers in a simulated world, one world a seed.

  npm run simulate -- --seeds N     the seeds 1 to N (1000 unless given)
  npm run simulate -- --seed S      one seed; with --seeds N, the N seeds from S on
    --quiet                         only failures and the closing line
`;

const write = (text: string) => process.stdout.write(text);

async function run(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seeds: { type: "string" },
      seed: { type: "string" },
      quiet: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    write(USAGE);
    return exitCodes.ok;
  }
  const first = wholeNumber("seed", values.seed) ?? 1;
  const count = wholeNumber("seeds", values.seeds) ?? (values.seed === undefined ? 1_000 : 1);
  if (count === 0) throw new RangeError("--seeds must be at least 1: no seed shows nothing");
  const report = createReport(write, {
    count,
    quiet: values.quiet,
    live: process.stdout.isTTY === true && !values.quiet,
  });
  if (count === 1) report.outcome(await simulate(first), true);
  else await simulateSeeds({ first, count, workers: availableParallelism() }, report.outcome);
  return report.close() === 0 ? exitCodes.ok : exitCodes.refused;
}

function wholeNumber(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,15}$/.test(text)) throw new RangeError(`--${name} must be a whole number: ${text}`);
  return Number(text);
}

try {
  process.exitCode = await run();
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
  process.exitCode = exitCodes.usage;
}
