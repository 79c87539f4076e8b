import type { Training } from "@tributary/proto/wire/plan.js";

/** One tensor of a model: `values` in row-major (C) order, as many as the shape's product. */
export type Tensor = { readonly shape: readonly number[]; readonly values: Float32Array };

/**
 * A global model. The values are views of memory that the SDK keeps and computes with: read them,
 * copy them, never write to them.
 */
export type Model = {
  /** `<session>.<number>`. */
  readonly id: string;
  /** SHA-256 of the model's safetensors file, in hexadecimal. */
  readonly digest: string;
  /** By name, in the order of the model's layout. */
  readonly tensors: ReadonlyMap<string, Tensor>;
};

/** What one training task asks for. */
export type TrainPlan = {
  readonly round: string;
  readonly session: string;
  /** The session's parameters, untouched: `epochs`, `learningRate`, `batchSize`, `seed` and any others. */
  readonly training: Training;
  /** Milliseconds until the result would come too late. */
  readonly remainingMs: number;
};

export type TrainResult = {
  /** The weights after training, by name: every tensor of the model, as many values as it has. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  /** Samples trained on: a whole number, 1 or more. It weighs this update against the others. */
  readonly samples: number;
  /** Means over those samples, by name (`loss`, `accuracy`, ...): at most 16, finite. */
  readonly metrics: Readonly<Record<string, number>>;
};

export type EvaluateResult = Omit<TrainResult, "weights">;

/**
 * Where a machine-learning library meets the SDK. One call is under way at a time. A rejected
 * promise, a missing tensor or a value that is not finite fails this task only: the device
 * declines the round with `train-failed` and waits for the next one.
 */
export type Trainer = {
  /**
   * Trains from `model` on the device's own data. `signal` aborts when the round is over or the
   * device closes: stop soon after and reject (the result is not used); no other task starts
   * before this promise settles.
   */
  train(model: Model, plan: TrainPlan, signal: AbortSignal): Promise<TrainResult>;
  /** Measures `model` on the device's own data. */
  evaluate(model: Model, signal: AbortSignal): Promise<EvaluateResult>;
  /** Answers with `model`; needs no connection. Input and output are the trainer's own. */
  predict?(model: Model, input: unknown): unknown;
};

/** What a trainer module exports, as `createTrainer`. `options` is the config's `trainer.options`. */
export type CreateTrainer = (
  options: Readonly<Record<string, unknown>>,
) => Trainer | Promise<Trainer>;
