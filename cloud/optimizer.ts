import type { OptimizerParams } from "./params.js";

/**
 * Server optimisers as pure float64 functions with a fixed order of operations, so that the same
 * deltas give the same bits on every machine.
 *
 * Formulas: McMahan et al. 2017 (FedAvg), Hsu et al. 2019 (FedAvgM) and Reddi et al. 2021,
 * "Adaptive Federated Optimization", Algorithm 2 (FedAdam, FedYogi, FedAdagrad). No bias
 * correction; m starts at 0 and v at tau^2.
 */

export type OptimizerKind = OptimizerParams["kind"];

/**
 * What an optimiser keeps between rounds. `weights` are the master weights (flat, layout order);
 * the published model is their float32. `m` is momentum (FedAvgM's v in the paper), `v` the second
 * moment.
 */
export type OptimizerState = {
  readonly kind: OptimizerKind;
  /** Steps taken since the moments started. */
  readonly step: number;
  readonly weights: Float64Array;
  readonly m?: Float64Array;
  readonly v?: Float64Array;
};

/** The state before the first step from `weights`, which is kept, not copied. */
export function startOptimizer(params: OptimizerParams, weights: Float64Array): OptimizerState {
  const { kind } = params;
  if (kind === "fedavg") return { kind, step: 0, weights };
  const m = new Float64Array(weights.length);
  if (kind === "fedavgm") return { kind, step: 0, weights, m };
  return { kind, step: 0, weights, m, v: new Float64Array(weights.length).fill(params.tau ** 2) };
}

/**
 * One step along `delta`, the weighted mean of the contributions' deltas (float64, layout order).
 * Neither argument is changed. A state of another optimiser starts its moments anew.
 */
export function stepOptimizer(
  params: OptimizerParams,
  state: OptimizerState,
  delta: Float64Array,
): OptimizerState {
  const from = state.kind === params.kind ? state : startOptimizer(params, state.weights);
  if (delta.length !== from.weights.length)
    throw new RangeError(`a delta of ${delta.length} values for ${from.weights.length} weights`);
  const step = from.step + 1;
  switch (params.kind) {
    case "fedavg":
      return { kind: params.kind, step, weights: added(from.weights, delta, params.learningRate) };
    case "fedavgm": {
      const m = scaledAdd(moment(from.m), params.momentum, delta, 1);
      return { kind: params.kind, step, weights: added(from.weights, m, params.learningRate), m };
    }
    case "fedadam":
    case "fedyogi":
    case "fedadagrad": {
      const m = scaledAdd(moment(from.m), params.beta1, delta, 1 - params.beta1);
      const v = secondMoment(params, moment(from.v), delta);
      const weights = new Float64Array(from.weights.length);
      for (let i = 0; i < weights.length; i++)
        weights[i] =
          at(from.weights, i) + (params.eta * at(m, i)) / (Math.sqrt(at(v, i)) + params.tau);
      return { kind: params.kind, step, weights, m, v };
    }
  }
}

function secondMoment(
  params: Extract<OptimizerParams, { tau: number }>,
  before: Float64Array,
  delta: Float64Array,
): Float64Array {
  const v = new Float64Array(before.length);
  switch (params.kind) {
    case "fedadam": {
      const { beta2 } = params;
      for (let i = 0; i < v.length; i++)
        v[i] = beta2 * at(before, i) + (1 - beta2) * (at(delta, i) * at(delta, i));
      return v;
    }
    case "fedyogi": {
      const { beta2 } = params;
      for (let i = 0; i < v.length; i++) {
        const square = at(delta, i) * at(delta, i);
        v[i] = at(before, i) - (1 - beta2) * square * Math.sign(at(before, i) - square);
      }
      return v;
    }
    case "fedadagrad":
      for (let i = 0; i < v.length; i++) v[i] = at(before, i) + at(delta, i) * at(delta, i);
      return v;
  }
}

function added(weights: Float64Array, along: Float64Array, rate: number): Float64Array {
  const next = new Float64Array(weights.length);
  for (let i = 0; i < next.length; i++) next[i] = at(weights, i) + rate * at(along, i);
  return next;
}

function scaledAdd(a: Float64Array, p: number, b: Float64Array, q: number): Float64Array {
  const sum = new Float64Array(a.length);
  for (let i = 0; i < sum.length; i++) sum[i] = p * at(a, i) + q * at(b, i);
  return sum;
}

function moment(values: Float64Array | undefined): Float64Array {
  if (values === undefined) throw new RangeError("the optimiser's state lacks a moment");
  return values;
}

/** Indexing inside the array's length, which every loop here keeps to. */
function at(values: Float64Array, i: number): number {
  return values[i] as number;
}

/** The model that is published: each weight's nearest float32. */
export function publishedWeights(state: OptimizerState): Float32Array {
  return Float32Array.from(state.weights);
}

export function allFinite(values: Float32Array | Float64Array): boolean {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false;
  return true;
}
