import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { identityText } from "@tributary/proto/tier/identity.js";
import { writeCandidate } from "./candidate.js";
import type { HeldPartial } from "./held-partial.js";
import { hasRoom, type LatePartials } from "./late-partials.js";
import type { LiveRound } from "./live-round.js";
import type { OptimizerFiles } from "./optimizer-files.js";
import type { SessionParams } from "./params.js";
import type { PoolDecision } from "./pool.js";
import { mergePartials, metricMeans } from "./reduce.js";
import { takeRootStep } from "./root-step.js";
import type { Close, Ending, Endings } from "./round-end.js";
import { stopRule } from "./round-opening.js";
import { decideFor, reportDropped } from "./round-pool.js";
import type { SessionEvent, SessionState, SessionStep } from "./session.js";
import { decisionsOf, type Tally } from "./session-record.js";
import type { SessionWorld } from "./session-world.js";
import type { RoundEnd } from "./store/store.js";

/** A session whose round has closed. */
export type Finishing = {
  readonly world: SessionWorld;
  readonly params: SessionParams;
  readonly optimizers: OptimizerFiles;
  readonly late: LatePartials;
  readonly tally: Tally;
  readonly machine: () => SessionState;
  /** Tries again what failed for now, and for as long as a disk is full. */
  surely<T>(write: () => Promise<T>): Promise<T>;
  /** Steps the session's machine; `persist` makes the step durable before it is adopted. */
  advance(event: SessionEvent, persist: (step: SessionStep) => Promise<void>): Promise<void>;
  /** Makes the end durable, with every Partial's ending, and lets go of the round. */
  conclude(ended: LiveRound, step: SessionStep, endings: Endings, how: How): Promise<void>;
};

export type How = Pick<RoundEnd, "state" | "rule" | "model" | "decided" | "evaluation">;

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
  const nowMs = session.world.clock.monotonicMs();
  const endings = endingsOf(close);
  switch (close.outcome) {
    case "stopped":
      return session.advance({ kind: "round-stopped" }, (step) =>
        session.conclude(ended, step, endings, { state: "stopped", rule: stopRule(ended) }),
      );
    case "short": {
      const gone = await keepFiles(session, ended, endings);
      await session.advance({ kind: "round-short" }, (step) =>
        session.conclude(ended, step, endings, { state: "kept", rule: "contributors" }),
      );
      return reportGone(session.world, ended.row.session, gone);
    }
    case "failed": {
      const gone = await keepFiles(session, ended, endings);
      const buffered = session.params.aggregation.kind === "buffered";
      const training = ended.plan.task === "train";
      const reason = buffered && training ? "contributors" : "sites-quorum";
      await session.advance({ kind: "round-failed", reason, nowMs }, (step) =>
        session.conclude(ended, step, endings, { state: "failed", rule: reason }),
      );
      return reportGone(session.world, ended.row.session, gone);
    }
    case "committed":
      return ended.plan.task === "evaluate"
        ? finishEvaluation(session, ended, close, endings)
        : finishTraining(session, ended, close, endings);
  }
}

/** What the round itself decides: the model is named once it is known. */
function endingsOf(close: Close): Map<string, Ending> {
  const endings = new Map<string, Ending>();
  for (const identity of close.merged)
    endings.set(identity, { fate: { outcome: "merged", model: null }, retained: false });
  for (const identity of close.kept)
    endings.set(identity, { fate: { outcome: "kept" }, retained: true });
  for (const { identity, rule } of close.expired)
    endings.set(identity, { fate: { outcome: "expired", rule }, retained: false });
  return endings;
}

/**
 * Writes files for Partials of the round that outlive its journal, before any row says so: as many as
 * the session has room for beside what it keeps on. Others are not retained, which `endings` then says;
 * gives those.
 */
async function keepFiles(
  session: Finishing,
  ended: LiveRound,
  endings: Map<string, Ending>,
): Promise<readonly Gone[]> {
  const { late } = session;
  const before = new Set(late.list().map(({ identity }) => identityText(identity)));
  const kept = late
    .list()
    .filter(({ identity }) => endings.get(identityText(identity))?.retained !== false);
  const own = [...endings].filter(([identity, { retained }]) => retained && !before.has(identity));
  const gone: Gone[] = [];
  const files: string[] = [];
  for (const [identity, ending] of own) {
    const held = heldOf(ended, identity);
    if (hasRoom(kept, [held])) {
      kept.push({ ...held, applied: false });
      files.push(identity);
      continue;
    }
    endings.set(identity, withoutRoom(ending));
    gone.push({ held, merged: ending.fate.outcome === "merged" });
  }
  if (files.length > 0)
    await session.surely(() =>
      ended.each(files, (identity, _partial, bytes) => late.write(heldOf(ended, identity), bytes)),
    );
  return gone;
}

/** A Partial that there is no room to retain, and whether a model holds it. */
type Gone = { readonly held: HeldPartial; readonly merged: boolean };

function withoutRoom({ fate }: Ending): Ending {
  return fate.outcome === "kept"
    ? { fate: { outcome: "expired", rule: "storage-full" }, retained: false }
    : { fate, retained: false };
}

function reportGone({ events }: SessionWorld, session: string, gone: readonly Gone[]): void {
  for (const { held, merged } of gone) {
    const { base, identity, contributors } = held;
    const { gateway } = identity;
    if (merged) {
      const site = held.site ?? gateway;
      events({ level: "error", name: "site-forgotten", session, site, base, applied: true });
    } else {
      const what = { rule: "storage-full", contributors: contributors.length };
      events({ level: "warn", name: "partial-expired", session, gateway, ...what });
    }
  }
}

function heldOf(ended: LiveRound, identity: string): HeldPartial {
  const held = ended.held(identity);
  if (held === undefined) throw new Error(`${ended.row.id} closes with an unknown ${identity}`);
  return held;
}

async function finishTraining(
  session: Finishing,
  ended: LiveRound,
  close: Close,
  endings: Map<string, Ending>,
): Promise<void> {
  const { world, params, optimizers, late, tally } = session;
  await session.surely(() => late.renew());
  const fresh = close.merged.map((identity) => heldOf(ended, identity));
  const { decision, version } = await session.surely(() =>
    decideFor(world, params, ended.row.base, fresh, late.list()),
  );
  const { row: model, finite } = await session.surely(async () => {
    const step = await takeRootStep(
      world.kernel,
      ended.plan,
      decision.groups,
      (identity) => late.get(identity) ?? heldOf(ended, identity),
      (identities, take) => visit(ended, late, identities, take),
    );
    const nowMs = world.clock.nowMs();
    return writeCandidate(
      params,
      ended,
      step,
      version + 1,
      world.models,
      optimizers,
      world.events,
      nowMs,
    );
  });
  tally.metrics = model.metrics;
  const remembers = params.aggregation.kind === "site-memory";
  endPool(endings, decision, model.id, remembers);
  const gone = await keepFiles(session, ended, endings);
  await session.advance({ kind: "trained", model: model.id, finite }, async (step) => {
    const state = decisionsOf(step).get(model.id) ?? "candidate";
    await session.conclude(ended, step, endings, {
      ...(state === "held"
        ? { state: "held", rule: "not-finite" }
        : { state: "committed", rule: null }),
      model: { ...model, state },
    });
    reportDropped(world, ended.row.session, params, decision);
    reportGone(world, ended.row.session, gone);
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

/** Adds what the pool's decision means for each Partial, the round's own and those kept before. */
function endPool(
  endings: Map<string, Ending>,
  { groups, dropped, waiting }: PoolDecision,
  model: string,
  remembers: boolean,
): void {
  for (const { entries } of groups)
    for (const { identity } of entries)
      endings.set(identity, { fate: { outcome: "merged", model }, retained: remembers });
  for (const { entry, rule } of dropped)
    endings.set(entry.identity, { fate: { outcome: "expired", rule }, retained: false });
  for (const { identity } of waiting)
    endings.set(identity, { fate: { outcome: "kept" }, retained: true });
}

/** Visits Partials of the round's journal and of those kept before, one in memory at a time. */
async function visit(
  ended: LiveRound,
  late: LatePartials,
  identities: readonly string[],
  take: (identity: string, partial: Sum) => void,
): Promise<void> {
  const own = identities.filter((identity) => late.get(identity) === undefined);
  if (own.length > 0) await ended.each(own, take);
  for (const held of late.list()) {
    const identity = identityText(held.identity);
    if (identities.includes(identity)) take(identity, await late.read(held));
  }
}

async function finishEvaluation(
  session: Finishing,
  ended: LiveRound,
  close: Close,
  endings: Endings,
): Promise<void> {
  const { world, params, tally } = session;
  const { id: round, session: name, base: model } = ended.row;
  const origin = { base: ended.plan.base.model, baseDigest: ended.plan.base.digest };
  const merged = await session.surely(() =>
    mergePartials(world.kernel, ended.plan, origin, (take) =>
      ended.each(close.merged, (_identity, partial) => take(partial)),
    ),
  );
  const metrics = metricMeans(merged.metrics);
  tally.metrics = metrics;
  const against = session.machine().baseline?.model ?? null;
  const shown = Object.entries(metrics).map(([metric, value]) => [`evaluation.${metric}`, value]);
  await session.advance({ kind: "evaluated", metrics }, async (step) => {
    const state = decisionsOf(step).get(model) ?? "candidate";
    const passed = state === "published";
    await session.conclude(ended, step, endings, {
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
