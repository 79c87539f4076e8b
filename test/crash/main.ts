import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { exitCodes } from "@tributary/proto/host/process.js";
import { isPointName, type PointName, pointNames, points } from "./points.js";
import { type PointResult, runPoint } from "./run.js";
import { failuresOf, tableHead, tableRow } from "./table.js";

/** `npm run crash`: kills each tier at each named point, and judges what became of every receipt. */

const USAGE = `npm run crash -- [--kills N] [--point P ...] [--seed S] [--jobs J]

  --kills N   lives that end at each point (10)
  --point P   only this point; may be repeated
  --seed S    of the hits at which lives end (1)
  --jobs J    points at a time (as many as there are processors, at most 4)

Points:
${pointNames.map((name) => `  ${name.padEnd(18)}${points[name].tier}: ${points[name].where}`).join("\n")}

An interrupt ends the run early, and judges what it has come to. Exits with 1 when a contribution
that a device holds a receipt for is in no model and no recorded expiry, when one is in two, when a
model is not to the bit what its contributions make, and when a run shows nothing: a life that ended
elsewhere than at its point, no receipt, no sum.
`;

type Order = {
  readonly kills: number;
  readonly seed: number;
  readonly jobs: number;
  readonly names: readonly PointName[];
};

const JOBS_MOST = 4;

function readOrder(): Order | undefined {
  try {
    const { values } = parseArgs({
      options: {
        kills: { type: "string", default: "10" },
        point: { type: "string", multiple: true, default: [...pointNames] },
        seed: { type: "string", default: "1" },
        jobs: { type: "string", default: String(Math.min(JOBS_MOST, availableParallelism())) },
        help: { type: "boolean", default: false },
      },
    });
    const [kills, seed, jobs] = [values.kills, values.seed, values.jobs].map(Number);
    if (kills === undefined || seed === undefined || jobs === undefined) return undefined;
    const names = values.point.filter(isPointName);
    const whole = [kills, seed, jobs].every(Number.isInteger) && kills >= 1;
    const bounded = jobs >= 1 && jobs <= JOBS_MOST && names.length === values.point.length;
    return whole && bounded && !values.help ? { kills, seed, jobs, names } : undefined;
  } catch {
    return undefined;
  }
}

const interrupted = new AbortController();
const { signal } = interrupted;
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => interrupted.abort());

/** Resolves to whether the point holds. */
async function runOne(point: PointName, { kills, seed }: Order): Promise<boolean> {
  let result: PointResult;
  try {
    result = await runPoint({ point, kills, seed, signal });
  } catch (error) {
    process.stderr.write(`${point}: ${error instanceof Error ? error.stack : String(error)}\n`);
    return false;
  }
  process.stdout.write(tableRow(result));
  const failures = failuresOf(result);
  for (const failure of failures) process.stderr.write(`${point}: ${failure}\n`);
  return failures.length === 0;
}

async function run(order: Order): Promise<void> {
  const waiting = [...order.names];
  const held: boolean[] = [];
  const work = async () => {
    for (;;) {
      const point = signal.aborted ? undefined : waiting.shift();
      if (point === undefined) return;
      held.push(await runOne(point, order));
    }
  };
  process.stdout.write(tableHead());
  await Promise.all(Array.from({ length: order.jobs }, work));
  const failed = held.filter((holds) => !holds).length;
  process.stdout.write(`${held.length - failed} passed, ${failed} failed\n`);
  const clean = signal.aborted ? exitCodes.interrupted : exitCodes.ok;
  process.exitCode = failed === 0 ? clean : exitCodes.refused;
}

const order = readOrder();
if (order === undefined) {
  process.stderr.write(USAGE);
  process.exitCode = exitCodes.usage;
} else await run(order);
