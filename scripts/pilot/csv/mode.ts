import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import type { Mode, SessionSpec } from "../mode.js";
import { modelOf } from "../model-view.js";
import type { AnomalyReport } from "../report/report.js";
import { autoencoderLayout, initialAutoencoder } from "../trainers/autoencoder.js";
import { createTrainer, type DeviceResult, TRAIN_SHARE } from "../trainers/sensor-log.js";
import {
  initialStatistics,
  scalingOf,
  statisticsLayout,
  statisticsRounds,
} from "../trainers/statistics.js";
import { type Confusion, detection, pooled, thresholdRule } from "./detection.js";
import { findLogs, type LogDevice } from "./logs.js";

type CsvRun = {
  readonly csv: string;
  readonly ignore: readonly string[];
  readonly rounds: number | undefined;
  readonly seed: number;
  /** Where devices leave their counts. */
  readonly directory: string;
};

const ROUNDS = 20;
const TRAINING = { epochs: 2, learningRate: 0.003, batchSize: 32 };

/** Sensor logs: each folder a site, each file a device; an autoencoder that flags anomalies. */
export async function createCsvMode(run: CsvRun): Promise<Mode> {
  const logs = await findLogs(run.csv, run.ignore);
  const devices = logs.sites.flatMap((site) => site.devices);
  const rounds = run.rounds ?? ROUNDS;
  const resultOf = (device: LogDevice) => join(run.directory, `result-${device.device}.json`);
  const sites = logs.sites.map((site) => ({
    site: site.site,
    gateway: `gateway-${site.site}`,
    devices: site.devices.map((device) => ({
      device: device.device,
      options: {
        file: resolve(device.file),
        device: device.device,
        sensors: logs.sensors,
        result: resultOf(device),
        rounds,
        training: TRAINING,
      },
    })),
  }));
  const params = sessionParams(run, rounds, sites.length);
  let step = 0;
  return {
    name: "csv",
    provenance: `Sensor logs in ${resolve(run.csv)}: ${devices.length} files of ${sites.length} folders.`,
    sites,
    siteEntries: logs.sites.map(({ site, devices: members }) => ({
      site,
      gateway: `gateway-${site}`,
      devices: members.map(({ device, shown }) => ({
        device,
        holds: shown,
        samples: Math.floor((logs.rows.get(device) ?? 0) * TRAIN_SHARE),
      })),
    })),
    trainerModule: new URL("../trainers/sensor-log.js", import.meta.url).pathname,
    async nextSession(previousModel): Promise<SessionSpec | undefined> {
      step++;
      const sensors = logs.sensors.length;
      if (step === 1) {
        const initialModel = encodeSafetensors(
          statisticsLayout(sensors),
          initialStatistics(sensors),
        );
        return { isMain: false, initialModel, params: params.statistics };
      }
      if (step > 2 || previousModel === undefined) return undefined;
      const scaling = scalingOf(modelOf(previousModel));
      const initialModel = encodeSafetensors(
        autoencoderLayout(sensors),
        initialAutoencoder(scaling, run.seed),
      );
      return { isMain: true, initialModel, params: params.autoencoder };
    },
    accuracy: async () => undefined,
    async result(finalModel) {
      const options = sites.flatMap((site) => site.devices.map((device) => device.options));
      const results: DeviceResult[] = [];
      for (const own of options) results.push(await resultIn(own, finalModel));
      return { anomaly: anomalyReport(logs.sensors, logs.unused, results) };
    },
  };
}

/** What a device left; one that was away when the last model was evaluated does it now. */
async function resultIn(
  options: Readonly<Record<string, unknown>> & { readonly result: string },
  finalModel: Uint8Array,
): Promise<DeviceResult> {
  if (!existsSync(options.result)) {
    const trainer = await createTrainer(options);
    await trainer.evaluate(modelOf(finalModel), new AbortController().signal);
  }
  return JSON.parse(await readFile(options.result, "utf8")) as DeviceResult;
}

function sessionParams({ seed }: CsvRun, rounds: number, sites: number) {
  const shared = {
    seed,
    sitesQuorum: Math.max(1, sites - 1),
    deadlineMs: 60_000,
    uploadWindowMs: 10_000,
    absentGraceMs: 5_000,
    optimizer: { kind: "fedavg", learningRate: 1 },
  } as const;
  return {
    statistics: {
      ...shared,
      name: "statistics",
      initialModel: "statistics-start.0",
      rounds: statisticsRounds,
      // Every site's statistics count: scaling by the others' would be off for its values.
      sitesQuorum: sites,
      evaluateEvery: 0,
      // Shares and scaled means lie in [-1, 1]; 29 bits keep small ones.
      grid: { fractionBits: 29, range: 2 },
    },
    autoencoder: {
      ...shared,
      name: "anomalies",
      initialModel: "anomalies-start.0",
      rounds,
      evaluateEvery: rounds,
      gate: { metric: "loss", direction: "lower", tolerance: 0.1 },
      grid: { fractionBits: 20, range: 16 },
      training: TRAINING,
    },
  } as const;
}

function anomalyReport(
  sensors: readonly string[],
  unusedColumns: readonly string[],
  results: readonly DeviceResult[],
): AnomalyReport {
  const parts = (of: "federated" | "localOnly") =>
    results.flatMap((result): Confusion[] => (result[of] === undefined ? [] : [result[of]]));
  const federated = parts("federated");
  return {
    sensors,
    unusedColumns,
    thresholdRule,
    ...(federated.length === 0
      ? {}
      : {
          federated: detection(pooled(federated)),
          localOnly: detection(pooled(parts("localOnly"))),
        }),
    devices: results.map((result) => ({
      device: result.device,
      rows: result.testRows,
      labelled: result.labelled,
      alarms: result.alarms,
      ...(hasAnomalies(result.federated) ? { federated: detection(result.federated) } : {}),
      ...(hasAnomalies(result.localOnly) ? { localOnly: detection(result.localOnly) } : {}),
    })),
  };
}

/** Without an anomaly to find there is neither F1 nor a share of missed ones. */
function hasAnomalies(counts: Confusion | undefined): counts is Confusion {
  return counts !== undefined && counts.tp + counts.fn > 0;
}
