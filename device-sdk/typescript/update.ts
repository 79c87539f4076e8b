import type { KeyObject } from "node:crypto";
import { encodingFor, quantise } from "@tributary/proto/algebra/grid.js";
import { tensorLength } from "@tributary/proto/algebra/layout.js";
import { metricToFixed } from "@tributary/proto/algebra/metric.js";
import { createHasher } from "@tributary/proto/host/digest.js";
import { signUpdate } from "@tributary/proto/identity/statement.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import { metricsSchema } from "@tributary/proto/wire/device-link.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { updatePreimage } from "@tributary/proto/wire/update.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { StoredModel } from "./models.js";
import type { EvaluateResult, TrainResult } from "./trainer.js";

/** One update: what `begin` announces, the bytes of its chunks, and what a checker needs to read them. */
export type Update = {
  readonly begin: Begin;
  readonly task: Plan["task"];
  readonly fractionBits: readonly number[];
  /** Values of each tensor, in the layout's order. */
  readonly lengths: readonly number[];
  readonly payload: Uint8Array;
};

type Made = Verdict<{ readonly update: Update }, "train-failed" | "plan-invalid">;

/** Names the device and what it answers. */
export type Origin = { readonly device: string; readonly gateway: string; readonly plan: Plan };

/** The digest that binds an update's header to its bytes (wire/update.ts). */
export function updateDigest(
  device: string,
  begin: Omit<Begin, "digest">,
  payload: Uint8Array,
): string {
  return createHasher().update(updatePreimage(device, begin)).update(payload).digest();
}

/** An update's header as it is sent: with the device's statement for it, where the device has a key. */
export function signedBegin(begin: Begin, device: string, key: KeyObject | undefined): Begin {
  if (key === undefined) return begin;
  const { round, digest } = begin;
  return { ...begin, signature: signUpdate({ round, device, digest }, key) };
}

/**
 * Turns trained weights into an update: delta = weight - base, each in float32, snapped to the
 * plan's grid. Refuses, with `train-failed`, what the trainer got wrong: a tensor missing, unknown
 * or of another length, a value not finite, a value past the range where the plan does not let it
 * saturate, a sample count or a metric out of bounds.
 */
export function makeTrainUpdate(origin: Origin, base: StoredModel, result: TrainResult): Made {
  const { plan } = origin;
  if (encodingFor(plan.grid) !== plan.encoding)
    return refuse("plan-invalid", `encoding ${plan.encoding} is not the one for the plan's grid`);
  const delta = subtractBase(base, result);
  if (!(delta instanceof Float32Array)) return delta;
  const { range } = plan.grid;
  const quantised = quantise(delta, plan.layout, plan.grid, { saturate: plan.saturate });
  if (!quantised.ok)
    return refuse(
      "train-failed",
      `${quantised.code} at ${quantised.message}; the plan's range is ${range}`,
    );
  return makeUpdate(origin, result, quantised.values, quantised.saturated);
}

/** An evaluation carries metrics and no values. */
export function makeEvaluateUpdate(origin: Origin, result: EvaluateResult): Made {
  return makeUpdate(origin, result, new Uint8Array(0), 0);
}

function subtractBase(
  base: StoredModel,
  result: TrainResult,
): Float32Array | Refusal<"train-failed"> {
  if (!(result?.weights instanceof Map)) return refuse("train-failed", "the weights are not a Map");
  const delta = new Float32Array(base.values.length);
  let start = 0;
  for (const spec of base.layout) {
    const length = tensorLength(spec);
    const weights: unknown = result.weights.get(spec.name);
    if (!(weights instanceof Float32Array))
      return refuse("train-failed", `no Float32Array of weights for tensor ${spec.name}`);
    if (weights.length !== length)
      return refuse(
        "train-failed",
        `${weights.length} weights for tensor ${spec.name}; it has ${length}`,
      );
    for (let i = 0; i < length; i++)
      delta[start + i] = (weights[i] as number) - (base.values[start + i] as number);
    start += length;
  }
  if (result.weights.size !== base.layout.length)
    return refuse("train-failed", "weights for a tensor that the model does not have");
  return delta;
}

function makeUpdate(
  { device, gateway, plan }: Origin,
  { samples, metrics }: EvaluateResult,
  payload: Uint8Array,
  saturated: number,
): Made {
  if (!Number.isSafeInteger(samples) || samples < 1 || samples > plan.nMax)
    return refuse(
      "train-failed",
      `${samples} samples; a whole number from 1 to ${plan.nMax} can be`,
    );
  const fixed = fixMetrics(metrics);
  if (!fixed.ok) return fixed;
  const head = {
    round: plan.round,
    gateway,
    base: plan.base.model,
    baseDigest: plan.base.digest,
    samples,
    encoding: plan.encoding,
    bytes: payload.length,
    saturated,
    metrics: fixed.metrics,
  };
  const begin = { ...head, digest: updateDigest(device, head, payload) };
  const lengths = plan.layout.map(tensorLength);
  const { fractionBits } = plan.grid;
  return { ok: true, update: { begin, task: plan.task, fractionBits, lengths, payload } };
}

function fixMetrics(
  metrics: Readonly<Record<string, number>>,
): Verdict<{ readonly metrics: Begin["metrics"] }, "train-failed"> {
  const fixed: Record<string, number> = {};
  for (const [name, value] of Object.entries(metrics ?? {})) {
    const onGrid = metricToFixed(value);
    if (typeof onGrid !== "bigint")
      return refuse("train-failed", `metric ${name}: ${onGrid.message}`);
    fixed[name] = Number(onGrid);
  }
  const checked = metricsSchema.safeParse(fixed);
  if (!checked.success) {
    const { path, message } = checked.error.issues[0] ?? { path: [], message: "invalid" };
    return refuse("train-failed", `metrics ${path.join(".")}: ${message}`);
  }
  return { ok: true, metrics: checked.data };
}
