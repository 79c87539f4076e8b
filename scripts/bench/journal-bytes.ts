import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { connectFleet } from "./fleet.js";
import { type BenchLine, figure } from "./line.js";
import type { MemorySize } from "./memory.js";
import { benchModel, benchPlans } from "./plan.js";
import { startSite } from "./site.js";
import { onStage, waitFor } from "./stage.js";

const LIMIT_MS = 180_000;
const MB = 1e6;
const ABSENT = "absent-0";

/**
 * Bytes that a gateway writes to a round's journal. It only appends to it, so its size is what was
 * written; a device of the roster that never comes keeps the round, and with it the file, until it
 * has been looked at.
 */
export async function benchJournalBytes(
  size: MemorySize,
  signal: AbortSignal,
): Promise<BenchLine[]> {
  const bench = "journal-bytes";
  const { parameters, few, many } = size;
  const lines: BenchLine[] = [];
  const written = new Map<number, number>();
  for (const devices of [few, many]) {
    const bytes = await journalBytes(devices, parameters, signal);
    written.set(devices, bytes);
    const received = devices * parameters * Float32Array.BYTES_PER_ELEMENT;
    lines.push({
      bench,
      case: `${devices} devices`,
      value: figure(bytes / MB),
      unit: "MB",
      note: `${figure(bytes / received)} times the ${figure(received / MB)} MB of the updates`,
    });
  }
  const ratio = (written.get(many) as number) / (written.get(few) as number);
  return [
    ...lines,
    { bench, case: `${many} devices / ${few} devices`, value: figure(ratio), unit: "times" },
  ];
}

function journalBytes(devices: number, parameters: number, signal: AbortSignal): Promise<number> {
  return onStage(LIMIT_MS, signal, async (stage) => {
    const model = benchModel(1_000);
    const { upstream, port, dataDir } = await startSite(stage, model, { absentGraceMs: LIMIT_MS });
    const fleet = await connectFleet(stage, { port, devices });
    const plan = benchPlans(parameters, model)(1);
    await fleet.prepare(plan);
    upstream.openRound(plan, [...fleet.names, ABSENT]);
    await fleet.finish();
    const folder = join(dataDir, "rounds");
    const [journal, ...others] = await readdir(folder);
    if (journal === undefined || others.length > 0) throw new Error("not one journal is there");
    const { size } = await stat(join(folder, journal));
    const value = { round: plan.round, outcome: "published" };
    upstream.tell({ $case: "roundClosed", value });
    await waitFor("the Partial arrives", () => upstream.partials.length === 1);
    if (upstream.partials[0]?.contributors.length !== devices) {
      throw new Error("the Partial does not hold every update");
    }
    return size;
  });
}
