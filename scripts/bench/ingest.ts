import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { connectFleet } from "./fleet.js";
import { type BenchLine, figure, median } from "./line.js";
import { benchModel, benchPlans } from "./plan.js";
import { startSite } from "./site.js";
import { onStage, waitFor } from "./stage.js";
import { gridValues } from "./values.js";

export type IngestSize = {
  readonly devices: number;
  readonly parameters: number;
  readonly rounds: number;
};

const LIMIT_MS = 180_000;
const MB = 1e6;

/**
 * Updates of several devices at once through MQTT, admission, journal and receipt, beside the same
 * bytes through the broker alone and beside a bare write and fdatasync of them. The three take
 * turns, so that what else the machine does falls on all of them alike.
 */
export function benchIngest(size: IngestSize, signal: AbortSignal): Promise<BenchLine[]> {
  return onStage(LIMIT_MS, signal, async (stage) => {
    const { devices, parameters, rounds } = size;
    const model = benchModel(1_000);
    const planOf = benchPlans(parameters, model);
    const { upstream, port } = await startSite(stage, model);
    const fleet = await connectFleet(stage, { port, devices });
    const broker = await stage.worker("./broker-worker.js").ask({});
    const pushing = await connectFleet(stage, { port: Number(broker.port), devices, hello: false });
    const payload = new Uint8Array(gridValues(parameters).buffer);
    const taken = { gateway: [] as number[], broker: [] as number[], disk: [] as number[] };

    // The first turn warms everything up and does not count.
    for (let round = 1; round <= rounds + 1; round++) {
      const plan = planOf(round);
      await fleet.prepare(plan);
      upstream.openRound(plan, [...fleet.names]);
      const gatewayMs = await fleet.finish();
      // The uplink's share of the machine must not fall on the next turn.
      await waitFor("the Partial arrives", () => upstream.partials.length === round);
      const brokerMs = await pushing.push(parameters);
      const diskMs = await writeBare(join(stage.directory, "bare"), payload, devices);
      if (round === 1) continue;
      taken.gateway.push(gatewayMs);
      taken.broker.push(brokerMs);
      taken.disk.push(diskMs);
    }
    return report(devices * payload.length, taken, size);
  });
}

async function writeBare(path: string, payload: Uint8Array, times: number): Promise<number> {
  const file = await open(path, "w");
  const startMs = performance.now();
  for (let i = 0; i < times; i++) await file.write(payload);
  await file.datasync();
  const tookMs = performance.now() - startMs;
  await file.close();
  await rm(path);
  return tookMs;
}

function report(
  bytes: number,
  taken: { readonly gateway: number[]; readonly broker: number[]; readonly disk: number[] },
  { devices, parameters }: IngestSize,
): BenchLine[] {
  const bench = "ingest";
  const what = `${devices} devices, ${parameters} parameters`;
  const speed = (name: string, ms: readonly number[], note: string): BenchLine => ({
    bench,
    case: name,
    value: figure(bytes / MB / (median(ms) / 1000)),
    unit: "MB/s",
    note,
  });
  const ratio = (name: string, other: readonly number[]): BenchLine => ({
    bench,
    case: `MQTT, journal, receipt / ${name}`,
    value: figure(median(taken.gateway.map((ms, i) => (other[i] as number) / ms))),
    unit: "times",
    note: "median of turns",
  });
  return [
    speed("MQTT, journal, receipt", taken.gateway, `${what}; first begin to last receipt`),
    speed("broker alone", taken.broker, "first chunk to last PUBACK"),
    speed("write + fdatasync", taken.disk, "one file, one fdatasync"),
    ratio("broker alone", taken.broker),
    ratio("write + fdatasync", taken.disk),
  ];
}
