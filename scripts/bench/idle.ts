import { connectFleet } from "./fleet.js";
import { type BenchLine, figure, median } from "./line.js";
import { benchModel } from "./plan.js";
import { readStatusKib } from "./proc.js";
import { startSite } from "./site.js";
import { onStage, waitFor } from "./stage.js";

export type IdleSize = {
  readonly devices: number;
  readonly devicesPerProcess: number;
  /** How often the idle gateway is looked at, a second apart. */
  readonly looks: number;
};

const LIMIT_MS = 180_000;
const KIB_PER_MIB = 1024;

/** Memory of a gateway whose devices are connected, welcomed, and only keep their connection. */
export function benchIdle(size: IdleSize, signal: AbortSignal): Promise<BenchLine[]> {
  return onStage(LIMIT_MS, signal, async (stage) => {
    const bench = "idle";
    const { devices, devicesPerProcess, looks } = size;
    const { upstream, port, pid } = await startSite(stage, benchModel(1_000));
    const emptyKib = await readStatusKib(pid, "VmRSS");
    for (let from = 0; from < devices; from += devicesPerProcess) {
      const count = Math.min(devicesPerProcess, devices - from);
      await connectFleet(stage, { port, devices: count, prefix: `dev-${from}` });
    }
    await waitFor(
      "every device is reported upstream",
      () =>
        upstream.heard("devicesChanged").reduce((n, { joined }) => n + joined.length, 0) >= devices,
    );
    const seenKib: number[] = [];
    for (let look = 0; look < looks; look++) {
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      seenKib.push(await readStatusKib(pid, "VmRSS"));
    }
    const fullKib = median(seenKib);
    return [
      { bench, case: "RSS, no device", value: figure(emptyKib / KIB_PER_MIB), unit: "MiB" },
      {
        bench,
        case: `RSS, ${devices} idle devices`,
        value: figure(fullKib / KIB_PER_MIB),
        unit: "MiB",
        note: "garbage of connecting included, as far as the collector left it",
      },
      {
        bench,
        case: "for each device",
        value: figure((fullKib - emptyKib) / devices),
        unit: "KiB",
      },
    ];
  });
}
