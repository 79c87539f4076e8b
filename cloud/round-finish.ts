import { writeCandidate } from "./candidate.js";
import type { LiveRound } from "./live-round.js";
import type { OptimizerFiles } from "./optimizer-files.js";
import type { SessionParams } from "./params.js";
import { mergePartials, metricMeans } from "./reduce.js";
import { type Close, closeRows } from "./round-end.js";
import type { SessionEvent, SessionState, SessionStep } from "./session.js";
import { decisionsOf, progressOf, type Tally } from "./session-record.js";
import type { SessionWorld } from "./session-world.js";
import type { RoundEnd } from "./store/store.js";

/** A session whose round has closed. */
export type Finishing = {
  readonly world: SessionWorld;
  readonly params: SessionParams;
  readonly optimizers: OptimizerFiles;
  readonly tally: Tally;
  readonly machine: () => SessionState;
  /** Tries again what failed for now, and for as long as a disk is full. */
  surely<T>(write: () => Promise<T>): Promise<T>;
  /** Steps the session's machine; `persist` makes the step durable before it is adopted. */
  advance(event: SessionEvent, persist: (step: SessionStep) => Promise<void>): Promise<void>;
  /** Makes the end durable and lets go of the round. */
  conclude(ended: LiveRound, end: RoundEnd): Promise<void>;
};

/**
 * Carries a closed round to its end: the merge, the candidate or the evaluation, and the one
 * transaction that says what became of every contribution. A crash before that leaves the round
 * open, and everything here is done again from its journal.
 */
export async function finishRound(
  session: Finishing,
  ended: LiveRound,
  close: Close,
): Promise<void> {
  const { world, tally } = session;
  const nowMs = world.clock.nowMs();
  if (close.outcome === "stopped")
    return session.advance({ kind: "round-stopped" }, (step) =>
      conclude(session, ended, close, step, { state: "stopped", rule: "stopped" }),
    );
  if (close.outcome === "failed") {
    const reason = "sites-quorum";
    return session.advance({ kind: "round-failed", reason, nowMs }, (step) =>
      conclude(session, ended, close, step, { state: "failed", rule: reason }),
    );
  }
  const merged = await session.surely(() =>
    mergePartials(world.kernel, ended.plan, ended.each(close.merged)),
  );
  tally.metrics = metricMeans(merged);
  if (ended.plan.task === "evaluate") return finishEvaluation(session, ended, close, merged);
  return finishTraining(session, ended, close, merged);
}

type Merged = Awaited<ReturnType<typeof mergePartials>>;

async function finishTraining(
  session: Finishing,
  ended: LiveRound,
  close: Close,
  merged: Merged,
): Promise<void> {
  const { world, params, optimizers } = session;
  const { row: model, finite } = await session.surely(async () =>
    writeCandidate(
      params,
      ended,
      merged,
      world.models,
      optimizers,
      world.events,
      world.clock.nowMs(),
      1 + ((await world.store.model(ended.row.base))?.version ?? 0),
    ),
  );
  await session.advance({ kind: "trained", model: model.id, finite }, async (step) => {
    const state = decisionsOf(step).get(model.id) ?? "candidate";
    await conclude(session, ended, close, step, {
      ...(state === "held"
        ? { state: "held", rule: "not-finite" }
        : { state: "committed", rule: null }),
      model: { ...model, state },
    });
    world.events({
      level: "info",
      name: "model-made",
      session: ended.row.session,
      model: model.id,
      parent: ended.row.base,
      samples: model.weight,
      contributors: model.contributors,
      sumDigest: model.sumDigest ?? "",
    });
  });
  const { head, candidate } = session.machine();
  // What cannot be removed now is removed after a later round.
  await optimizers.prune([head, ...(candidate === undefined ? [] : [candidate])]).catch(() => {});
}

async function finishEvaluation(
  session: Finishing,
  ended: LiveRound,
  close: Close,
  merged: Merged,
): Promise<void> {
  const { world, params } = session;
  const { id: round, session: name, base: model } = ended.row;
  const metrics = metricMeans(merged);
  const against = session.machine().baseline?.model ?? null;
  const shown = Object.entries(metrics).map(([metric, value]) => [`evaluation.${metric}`, value]);
  await session.advance({ kind: "evaluated", metrics }, async (step) => {
    const state = decisionsOf(step).get(model) ?? "candidate";
    const passed = state === "published";
    await conclude(session, ended, close, step, {
      ...(passed ? { state: "committed", rule: null } : { state: "held", rule: "gate" }),
      decided: [{ model, state, metrics: Object.fromEntries(shown) }],
      evaluation: {
        round,
        session: name,
        model,
        against,
        passed,
        weight: Number(merged.weight),
        contributors: merged.contributors.length,
        metrics,
        atMs: world.clock.nowMs(),
      },
    });
    const { metric } = params.gate;
    world.events({
      level: "info",
      name: "model-evaluated",
      session: name,
      model,
      round,
      passed,
      metric,
      value: metrics[metric],
    });
  });
}

type How = Pick<RoundEnd, "state" | "rule" | "model" | "decided" | "evaluation">;

function conclude(
  session: Finishing,
  ended: LiveRound,
  close: Close,
  step: SessionStep,
  how: How,
): Promise<void> {
  return session.conclude(ended, {
    round: ended.row.id,
    closedAtMs: session.world.clock.nowMs(),
    ...closeRows(ended, close, how.model?.id ?? null),
    progress: progressOf(step.state),
    ...how,
  });
}
