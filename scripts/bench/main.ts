import { exitCodes } from "@tributary/proto/host/process.js";
import { Command, Option } from "commander";
import { type BenchName, benches, benchNames } from "./benches.js";
import { type BenchLine, holds } from "./line.js";
import { fullSizes, quickSizes } from "./sizes.js";
import { formatTable } from "./table.js";

/** `npm run bench`: one JSON line for each figure as it is measured, then all as a table. */

type Options = { readonly only?: BenchName[]; readonly quick?: boolean; readonly strict?: boolean };

const options = new Command("bench")
  .description("Measures what Tributary promises about its speed, as ratios within one run.")
  .addOption(new Option("--only <name...>", "run these benches").choices(benchNames))
  .option("--quick", "fewer turns; noisier figures")
  .option("--strict", "exit with 1 when a bar is missed, too")
  .addHelpText("after", "\nExits with 1 when something could not be measured.")
  .allowExcessArguments(false)
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : exitCodes.usage))
  .parse()
  .opts<Options>();

const interrupted = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => interrupted.abort(new Error("interrupted")));
}
const sizes = options.quick === true ? quickSizes : fullSizes;
const lines: BenchLine[] = [];
const failures: string[] = [];
for (const name of options.only ?? benchNames) {
  if (interrupted.signal.aborted) break;
  process.stderr.write(`${name} ...\n`);
  try {
    for (const line of await benches[name](sizes, interrupted.signal)) {
      process.stdout.write(`${JSON.stringify(line)}\n`);
      lines.push(line);
    }
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    failures.push(`${name} could not be measured: ${why}`);
  }
}

process.stdout.write(`\n${formatTable(lines)}`);
for (const failure of failures) process.stderr.write(`\n${failure}\n`);
const missed = lines.filter((line) => line.bar !== undefined && !holds(line, line.bar));
if (missed.length > 0) process.stdout.write(`\n${missed.length} bar(s) missed\n`);
const failed = failures.length > 0 || (options.strict === true && missed.length > 0);
process.exitCode = interrupted.signal.aborted
  ? exitCodes.interrupted
  : failed
    ? exitCodes.refused
    : exitCodes.ok;
