import type { CloudEvents } from "./events.js";
import type { LiveRound } from "./live-round.js";
import { startOptimizer } from "./optimizer.js";
import type { OptimizerFiles } from "./optimizer-files.js";
import type { SessionParams } from "./params.js";
import { makeCandidate, metricMeans } from "./reduce.js";
import type { RootStep } from "./root-step.js";
import type { PlanBase } from "./round-plan.js";
import type { ModelRow } from "./store/rows.js";

/** The model files, as the sessions use them. */
export type ModelFiles = {
  /** Manifest and layout of a model; undefined when the trail does not have it. */
  base(model: string): Promise<PlanBase | undefined>;
  /** The weights of a model, flat, in layout order. */
  values(model: string): Promise<Float32Array>;
  /** Writes a model file. Durable when it resolves. */
  write(
    model: string,
    layout: PlanBase["layout"],
    values: Float32Array,
  ): Promise<{ readonly digest: string; readonly bytes: number }>;
};

/**
 * Steps the optimiser along a round's delta, and makes the model's file and the optimiser's state
 * durable. The row is not yet in the trail: without it the files are unknown, and made again.
 *
 * @param version of the model that it makes
 */
export async function writeCandidate(
  params: SessionParams,
  live: LiveRound,
  step: RootStep,
  version: number,
  models: ModelFiles,
  optimizers: OptimizerFiles,
  events: CloudEvents,
  nowMs: number,
): Promise<{ readonly row: ModelRow; readonly finite: boolean }> {
  const { plan, row: round } = live;
  const from = await optimizers.load(round.base);
  if (from.state === undefined && (from.reason !== undefined || round.base !== params.initialModel))
    events({
      level: "warn",
      name: "optimizer-reset",
      session: round.session,
      model: round.base,
      reason: from.reason ?? "its state was not kept",
    });
  const state =
    from.state ??
    startOptimizer(params.optimizer, Float64Array.from(await models.values(round.base)));
  const candidate = makeCandidate(params.optimizer, state, step.delta);
  const model = round.id;
  const writing = [
    models.write(model, plan.layout, candidate.values),
    optimizers.save(model, candidate.state),
  ] as const;
  // Where one fails, the other must not still be writing when both are tried again.
  await Promise.allSettled(writing);
  const [file] = await Promise.all(writing);
  const row: ModelRow = {
    id: model,
    digest: file.digest,
    bytes: file.bytes,
    parameters: candidate.values.length,
    parent: round.base,
    version,
    session: round.session,
    round: round.id,
    state: "candidate",
    weight: step.samples,
    contributors: step.contributors,
    metrics: metricMeans(step.metrics),
    sumDigest: step.sumDigest,
    groups: step.groups,
    fractionBits: plan.grid.fractionBits,
    createdAtMs: nowMs,
  };
  return { row, finite: candidate.finite };
}
