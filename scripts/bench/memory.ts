import { connectFleet } from "./fleet.js";
import { type BenchLine, figure } from "./line.js";
import { benchModel, benchPlans } from "./plan.js";
import { readStatusKib } from "./proc.js";
import { startSite } from "./site.js";
import { onStage, waitFor } from "./stage.js";

export type MemorySize = {
  readonly parameters: number;
  readonly few: number;
  readonly many: number;
};

const LIMIT_MS = 180_000;
const RATIO_BAR = 1.25;
const KIB_PER_MIB = 1024;

/**
 * Peak memory of a gateway process over one whole round, model distribution and Partial included,
 * with few devices and with many. Each count gets a gateway of its own.
 */
export async function benchMemory(size: MemorySize, signal: AbortSignal): Promise<BenchLine[]> {
  const bench = "memory";
  const { parameters, few, many } = size;
  const fewKib = await peakOf(few, parameters, signal);
  const manyKib = await peakOf(many, parameters, signal);
  const peak = (devices: number, kib: number): BenchLine => ({
    bench,
    case: `peak RSS, ${devices} devices`,
    value: figure(kib / KIB_PER_MIB),
    unit: "MiB",
    note: `VmHWM of the gateway after one round of ${parameters} parameters`,
  });
  return [
    peak(few, fewKib),
    peak(many, manyKib),
    {
      bench,
      case: `${many} devices / ${few} devices`,
      value: figure(manyKib / fewKib),
      unit: "times",
      bar: { atMost: RATIO_BAR },
    },
  ];
}

function peakOf(devices: number, parameters: number, signal: AbortSignal): Promise<number> {
  return onStage(LIMIT_MS, signal, async (stage) => {
    const model = benchModel(parameters);
    const { upstream, port, pid } = await startSite(stage, model);
    const fleet = await connectFleet(stage, { port, devices });
    const plan = benchPlans(parameters, model)(1);
    await fleet.prepare(plan);
    upstream.openRound(plan, [...fleet.names]);
    await fleet.finish();
    await waitFor("the Partial arrives", () => upstream.partials.length === 1);
    return readStatusKib(pid, "VmHWM");
  });
}
