import type { Model, Tensor, TrainResult } from "@tributary/device-sdk/trainer.js";
import { type Layout, parameterCount } from "@tributary/proto/algebra/layout.js";

/**
 * How much each sensor deviates within a device, pooled over the fleet, without a raw value leaving
 * a device and without knowing units beforehand. Each device takes its readings from its own mean,
 * which stays with it: machines differ in level, and a fleet-wide mean would drown what happens at
 * one of them. Two rounds of plain averaging with sample counts as weights: how large deviations
 * are (shares of binary orders of magnitude), then their mean square on that scale.
 */
const STAGES = 2;
/** Bin 0 is for zeros; bin b holds magnitudes in [2^(b - 65), 2^(b - 64)). */
const BINS = 128;
const BIN_OF_ONE = 64;

/** Deviation of each sensor, in its own unit. */
export type Scaling = readonly number[];

/** Readings as deviations from the device's own means, row by row. */
export type SensorRows = { readonly sensors: number; readonly values: Float64Array };

export const statisticsRounds = STAGES;

export function statisticsLayout(sensors: number): Layout {
  return [
    { name: "done", shape: [STAGES] },
    { name: "deviation.magnitude", shape: [sensors, BINS] },
    { name: "deviation.square", shape: [sensors] },
  ];
}

export function initialStatistics(sensors: number): Float32Array {
  return new Float32Array(parameterCount(statisticsLayout(sensors)));
}

export function isStatisticsModel(model: Model): boolean {
  return model.tensors.has("deviation.square");
}

/** What a device answers in the round that `model` asks for: its own averages, all else unchanged. */
export function averageStatistics(model: Model, rows: SensorRows): TrainResult {
  const weights = new Map(
    [...model.tensors].map(([name, { values }]) => [name, Float32Array.from(values)] as const),
  );
  const done = tensor(weights, "done");
  const stage = done.findIndex((share) => share < 0.5);
  if (stage >= 0) done[stage] = 1;
  if (stage === 0) tensor(weights, "deviation.magnitude").set(magnitudes(rows));
  if (stage === 1) {
    const scale = scales(model, "deviation.magnitude");
    tensor(weights, "deviation.square").set(meanSquares(rows, scale));
  }
  return { weights, samples: rows.values.length / rows.sensors, metrics: {} };
}

/** The scaling that the finished statistics hold. A sensor that never changes keeps deviation 1. */
export function scalingOf(model: Model): Scaling {
  const square = valuesOf(model, "deviation.square");
  return scales(model, "deviation.magnitude").map((unit, sensor) => {
    const deviation = Math.sqrt(Math.max(0, at(square, sensor))) * unit;
    return deviation > 0 ? deviation : 1;
  });
}

/** The same statistics of one device's own rows. */
export function ownScaling(rows: SensorRows): Scaling {
  let model = emptyModel(rows.sensors);
  for (let stage = 0; stage < STAGES; stage++) {
    const { weights } = averageStatistics(model, rows);
    const tensors = [...model.tensors].map(
      ([name, { shape }]) => [name, { shape, values: weights.get(name) as Float32Array }] as const,
    );
    model = { ...model, tensors: new Map(tensors) };
  }
  return scalingOf(model);
}

function emptyModel(sensors: number): Model {
  const tensors = statisticsLayout(sensors).map(({ name, shape }): [string, Tensor] => [
    name,
    { shape, values: new Float32Array(shape.reduce((length, size) => length * size, 1)) },
  ]);
  return { id: "own.0", digest: "", tensors: new Map(tensors) };
}

function tensor(weights: ReadonlyMap<string, Float32Array>, name: string): Float32Array {
  const values = weights.get(name);
  if (values === undefined) throw new Error(`the model has no tensor ${name}`);
  return values;
}

function valuesOf(model: Model, name: string): Float32Array {
  const found = model.tensors.get(name);
  if (found === undefined) throw new Error(`the model has no tensor ${name}`);
  return found.values;
}

function at(values: ArrayLike<number>, index: number): number {
  return values[index] ?? 0;
}

/** Share of each sensor's values in each bin. */
function magnitudes({ sensors, values }: SensorRows): Float32Array {
  const counts = new Float64Array(sensors * BINS);
  for (let i = 0; i < values.length; i++) {
    const slot = (i % sensors) * BINS + binOf(at(values, i));
    counts[slot] = at(counts, slot) + 1;
  }
  const rows = values.length / sensors;
  return Float32Array.from(counts, (count) => count / rows);
}

function binOf(value: number): number {
  if (value === 0) return 0;
  const bin = Math.floor(Math.log2(Math.abs(value))) + 1 + BIN_OF_ONE;
  return Math.max(1, Math.min(BINS - 1, bin));
}

/** For each sensor a power of two above every value that was seen. */
function scales(model: Model, name: string): number[] {
  const shares = valuesOf(model, name);
  const sensors = shares.length / BINS;
  return Array.from({ length: sensors }, (_, sensor) => {
    for (let bin = BINS - 1; bin > 0; bin--) {
      if (at(shares, sensor * BINS + bin) > 0) return 2 ** (bin - BIN_OF_ONE);
    }
    return 1;
  });
}

/** Mean of (value / scale)^2 of each sensor; at most 1. */
function meanSquares({ sensors, values }: SensorRows, scale: readonly number[]): Float64Array {
  const sums = new Float64Array(sensors);
  for (let i = 0; i < values.length; i++) {
    const sensor = i % sensors;
    sums[sensor] = at(sums, sensor) + (at(values, i) / at(scale, sensor)) ** 2;
  }
  const rows = values.length / sensors;
  return sums.map((sum) => sum / rows);
}
