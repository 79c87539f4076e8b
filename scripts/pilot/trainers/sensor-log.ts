import { writeFile } from "node:fs/promises";
import type { Model, Trainer, TrainPlan } from "@tributary/device-sdk/trainer.js";
import { z } from "zod";
import { type Confusion, confusion, smoothed, threshold } from "../csv/detection.js";
import { type LogRows, readRows } from "../csv/table.js";
import {
  autoencoderLayout,
  initialAutoencoder,
  reconstructionErrors,
  trainAutoencoder,
  windowsOf,
} from "./autoencoder.js";
import { averageStatistics, isStatisticsModel, ownScaling, type SensorRows } from "./statistics.js";
import { inTurn } from "./turn.js";
import { startBackend } from "./wasm-backend.js";

/** The first part of each log trains; the rest tests. */
export const TRAIN_SHARE = 0.4;
/** The last part of the training part only calibrates the threshold. */
const CALIBRATION_SHARE = 0.25;

const trainingSchema = z.object({
  epochs: z.number().int().min(1),
  learningRate: z.number().positive(),
  batchSize: z.number().int().min(1),
});
type Training = z.infer<typeof trainingSchema>;

const optionsSchema = z.strictObject({
  file: z.string(),
  device: z.string(),
  sensors: z.array(z.string()).min(1),
  /** Where the device writes its counts (never a value of the log) for the report. */
  result: z.string(),
  /** Rounds that the session runs: the local-only baseline trains as many epochs. */
  rounds: z.number().int().min(1),
  /** As the session's, for the baseline. */
  training: trainingSchema,
});

/** What a device leaves for the report. */
export type DeviceResult = {
  readonly device: string;
  readonly testRows: number;
  readonly filled: number;
  readonly labelled: boolean;
  readonly alarms: number;
  readonly federated?: Confusion;
  readonly localOnly?: Confusion;
};

type Log = {
  readonly rows: LogRows;
  readonly sensors: number;
  /** Deviations of every row from the training part's means, which stay on the device. */
  readonly deviations: Float64Array;
  readonly means: Float64Array;
  readonly trainRows: number;
  readonly fitRows: number;
};

/** The trainer of one sensor log: statistics of its training part, then an autoencoder. */
export async function createTrainer(given: Readonly<Record<string, unknown>>): Promise<Trainer> {
  const options = optionsSchema.parse(given);
  await startBackend();
  const rows = await readRows(options.file, options.sensors);
  const trainRows = Math.floor(rows.rows * TRAIN_SHARE);
  const fitRows = Math.floor(trainRows * (1 - CALIBRATION_SHARE));
  const sensors = options.sensors.length;
  const means = meansOf(rows.values.subarray(0, trainRows * sensors), sensors);
  const deviations = rows.values.map((value, i) => value - (means[i % sensors] ?? 0));
  const log: Log = { rows, sensors, deviations, means, trainRows, fitRows };
  let local: readonly boolean[] | undefined;

  return {
    train: (model, plan, signal) =>
      inTurn(signal, async () => {
        if (isStatisticsModel(model)) return averageStatistics(model, part(log, 0, trainRows));
        const training = trainingSchema.parse(plan.training);
        return trainAutoencoder(
          model,
          windowsOf(part(log, 0, fitRows), model),
          seeded(training, plan, options.device),
          signal,
        );
      }),
    evaluate: (model, signal) =>
      inTurn(signal, async () => {
        const alarms = alarmsOf(log, model);
        local ??= await trainAlone(log, options, signal);
        const result = resultOf(options.device, log, alarms, local);
        await writeFile(options.result, `${JSON.stringify(result)}\n`);
        return { samples: alarms.length, metrics: metricsOf(log, model, result) };
      }),
    predict: (model, input) => predict(model, log, input),
  };
}

function seeded(training: Training, plan: Pick<TrainPlan, "round" | "training">, device: string) {
  return { ...training, seed: `${plan.training.seed ?? 0}/${plan.round}/${device}` };
}

function meansOf(values: Float64Array, sensors: number): Float64Array {
  const sums = new Float64Array(sensors);
  for (const [i, value] of values.entries()) sums[i % sensors] = (sums[i % sensors] ?? 0) + value;
  return sums.map((sum) => sum / (values.length / sensors));
}

function part({ deviations, sensors }: Log, from: number, to: number): SensorRows {
  return { sensors, values: deviations.subarray(from * sensors, to * sensors) };
}

/** Whether each test row is an anomaly under the model, by the device's own threshold. */
function alarmsOf(log: Log, model: Model): boolean[] {
  const scores = smoothed(
    reconstructionErrors(model, windowsOf(part(log, 0, log.rows.rows), model)),
  );
  const limit = threshold(scores.subarray(log.fitRows, log.trainRows));
  return [...scores.subarray(log.trainRows)].map((score) => score > limit);
}

/** The baseline: the same network and rule, on the device's own rows and statistics alone. */
async function trainAlone(
  log: Log,
  { training, rounds }: z.infer<typeof optionsSchema>,
  signal: AbortSignal,
): Promise<boolean[]> {
  const start = initialAutoencoder(ownScaling(part(log, 0, log.trainRows)), 1);
  let model = modelFrom(log.sensors, start);
  const alone = { ...training, epochs: training.epochs * rounds, seed: "alone" };
  const { weights } = await trainAutoencoder(
    model,
    windowsOf(part(log, 0, log.fitRows), model),
    alone,
    signal,
  );
  const tensors = [...model.tensors].map(
    ([name, { shape }]) => [name, { shape, values: weights.get(name) as Float32Array }] as const,
  );
  model = { ...model, tensors: new Map(tensors) };
  return alarmsOf(log, model);
}

function modelFrom(sensors: number, values: Float32Array): Model {
  let at = 0;
  const tensors = autoencoderLayout(sensors).map(({ name, shape }) => {
    const length = shape.reduce((product, size) => product * size, 1);
    at += length;
    return [name, { shape, values: values.subarray(at - length, at) }] as const;
  });
  return { id: "alone.0", digest: "", tensors: new Map(tensors) };
}

function resultOf(
  device: string,
  log: Log,
  alarms: readonly boolean[],
  local: readonly boolean[],
): DeviceResult {
  const labels = log.rows.labels?.subarray(log.trainRows);
  return {
    device,
    testRows: alarms.length,
    filled: log.rows.filled,
    labelled: labels !== undefined,
    alarms: alarms.filter(Boolean).length,
    ...(labels === undefined
      ? {}
      : { federated: confusion(alarms, labels), localOnly: confusion(local, labels) }),
  };
}

/** Shares of the test rows: their sample-weighted sums are the fleet's counts. */
function metricsOf(log: Log, model: Model, result: DeviceResult): Record<string, number> {
  const errors = reconstructionErrors(
    model,
    windowsOf(part(log, log.fitRows, log.trainRows), model),
  );
  const loss = errors.reduce((sum, error) => sum + error, 0) / errors.length;
  const shares = Object.entries(result.federated ?? {}).map(
    ([name, count]) => [name, count / result.testRows] as const,
  );
  return { loss, alarms: result.alarms / result.testRows, ...Object.fromEntries(shares) };
}

const inputSchema = z.array(z.array(z.number())).min(1);

/** Input: rows of sensor values, newest last. Answers with the reconstruction error of each row. */
function predict(model: Model, { sensors, means }: Log, input: unknown): number[] {
  const rows = inputSchema.parse(input);
  if (rows.some((row) => row.length !== sensors))
    throw new Error(`each row must hold ${sensors} values`);
  const values = Float64Array.from(rows.flat(), (value, i) => value - (means[i % sensors] ?? 0));
  return [...reconstructionErrors(model, windowsOf({ sensors, values }, model))];
}
