import type { Clock } from "@tributary/proto/host/clock.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { LatePartials } from "./late-partials.js";
import { limits } from "./limits.js";
import type { SessionParams } from "./params.js";
import {
  type Baseline,
  newSession,
  type Phase,
  type SessionRules,
  type SessionState,
  type SessionStep,
} from "./session.js";
import type { Activity, RoundView, SessionView } from "./session-view.js";
import type { SessionWorld } from "./session-world.js";
import type { ModelState, OpenRound, SessionProgress, SessionRow } from "./store/rows.js";
import type { Store } from "./store/store.js";

/** A session's machine and its rows: from one to the other, and what is shown of both. */

/** Figures of a session that no decision depends on. */
export type Tally = {
  merged: number;
  expired: number;
  /** Of the last round with contributions. */
  metrics: Readonly<Record<string, number>>;
};

export function rulesOf(params: SessionParams): SessionRules {
  const { rounds, evaluateEvery, sitesQuorum, devicesMin, failedRoundsMax, gate } = params;
  const { pauseMs, pauseMaxMs } = limits;
  return {
    rounds,
    evaluateEvery,
    sitesQuorum,
    devicesMin,
    failedRoundsMax,
    gate,
    pauseMs,
    pauseMaxMs,
  };
}

export function progressOf(machine: SessionState): SessionProgress {
  const { phase, head, nextRound, failedRounds, baseline } = machine;
  const { state, reason } = rowState(phase);
  return { state, reason, head, nextRound, failedRounds, evaluated: baseline?.model ?? null };
}

function rowState(phase: Phase): Pick<SessionProgress, "state" | "reason"> {
  switch (phase.kind) {
    case "waiting":
    case "round":
    case "pausing":
      return { state: "running", reason: null };
    case "stopped":
      return { state: "stopped", reason: "stopped by hand" };
    case "finished":
      return { state: "finished", reason: null };
    case "failed":
      return { state: "failed", reason: phase.reason };
  }
}

/** How a session is over for what waits in it, if it is: a failed one may go on as it is. */
export function endedBy({ phase }: SessionState): "stopped" | "finished" | undefined {
  return phase.kind === "stopped" || phase.kind === "finished" ? phase.kind : undefined;
}

/** Whether an open round is the one that a session is to run from its head, or of its candidate. */
export function isFor(
  { head, candidate }: SessionState,
  { task, base }: Pick<OpenRound, "task" | "base">,
): boolean {
  return task === "train" ? candidate === undefined && base === head : base === candidate;
}

/** Says that a session does not run any more. */
export function reportPhase(
  events: SessionWorld["events"],
  session: string,
  { phase, head, made }: SessionState,
): void {
  if (phase.kind === "finished")
    events({ level: "info", name: "session-finished", session, head, models: made });
  if (phase.kind === "stopped") events({ level: "info", name: "session-stopped", session });
  if (phase.kind === "failed")
    events({ level: "error", name: "session-failed", session, reason: phase.reason });
}

/** What is kept for models to come. */
export function keptBy(late: LatePartials): SessionView["kept"] {
  const all = late.list();
  const waiting = all.filter(({ applied }) => !applied);
  return {
    partials: waiting.length,
    contributions: waiting.reduce((sum, { contributors }) => sum + contributors.length, 0),
    bytes: late.bytes(),
    carried: all.length - waiting.length,
  };
}

/** What a step decides about models. */
export function decisionsOf(step: SessionStep): ReadonlyMap<string, ModelState> {
  const decisions = new Map<string, ModelState>();
  for (const effect of step.effects) {
    if (effect.kind === "publish") decisions.set(effect.model, "published");
    if (effect.kind === "hold") decisions.set(effect.model, "held");
  }
  return decisions;
}

/** The gate's metric of a model, as it was evaluated last. */
export async function baselineOf(
  store: Store,
  params: SessionParams,
  model: string,
): Promise<Baseline | undefined> {
  const value = (await store.evaluationOf(model))?.metrics[params.gate.metric];
  return value === undefined ? undefined : { model, value };
}

/** The machine and the tally that a session's rows describe. An open round is not yet part of it. */
export async function restoreSession(
  store: Store,
  row: SessionRow,
): Promise<{ readonly machine: SessionState; readonly tally: Tally }> {
  const tally: Tally = { merged: 0, expired: 0, metrics: {} };
  for (let after: number | undefined; ; ) {
    const slice = await store.listRounds(row.id, { after, limit: SLICE });
    for (const round of slice.items) {
      tally.merged += round.merged;
      tally.expired += round.expired;
    }
    after = slice.next;
    if (after === undefined) break;
  }
  let made = 0;
  let candidate: string | undefined;
  for (let after: number | undefined; ; ) {
    const slice = await store.listModels({ session: row.id }, { after, limit: SLICE });
    for (const model of slice.items) {
      if (model.round === null) continue;
      if (made === 0) tally.metrics = model.metrics;
      made++;
      if (model.state === "candidate" && model.parent === row.head) candidate ??= model.id;
    }
    after = slice.next;
    if (after === undefined) break;
  }
  const baseline =
    row.evaluated === null ? undefined : await baselineOf(store, row.params, row.evaluated);
  const machine: SessionState = {
    ...newSession(rulesOf(row.params), row.head),
    phase: phaseOf(row),
    nextRound: row.nextRound,
    failedRounds: row.failedRounds,
    made,
    ...(candidate !== undefined && { candidate }),
    ...(baseline && { baseline }),
  };
  return { machine, tally };
}

const SLICE = 500;

function phaseOf({ state, reason }: SessionRow): Phase {
  if (state === "running") return { kind: "waiting" };
  return state === "failed" ? { kind: "failed", reason: reason ?? "" } : { kind: state };
}

/** Failures of a disk that end when somebody makes room: nothing is lost by waiting for that. */
const WAITED_FOR: readonly string[] = ["disk-full", "disk-read-only"];

/**
 * Tries a write again while its failure may pass: `limits.retries` times, and for as long as a disk
 * is full or read-only, which `waits` is told. Once `closing` is aborted, the next failure is final.
 */
export async function persistently<T>(
  { clock, events }: Pick<SessionWorld, "clock" | "events">,
  closing: AbortSignal,
  write: () => Promise<T>,
  waits: (reason: string | undefined) => void = () => undefined,
): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      const written = await write();
      waits(undefined);
      return written;
    } catch (error) {
      if (!(error instanceof TributaryError) || closing.aborted) throw error;
      const waited = WAITED_FOR.includes(error.code);
      if (!waited && (!error.retryable || attempt >= limits.retries)) throw error;
      const retryMs = Math.min(limits.retryMaxMs, limits.retryMs * 2 ** attempt);
      const { message } = error;
      if (waited) waits(message);
      const what = waited ? "disk" : "store";
      events({ level: "error", name: "storage-failed", what, message, retryMs });
      await pause(clock, retryMs, closing);
      if (closing.aborted) throw error;
    }
  }
}

/** Resolves after `delayMs`, or at once when `closing` is aborted. */
function pause(clock: Clock, delayMs: number, closing: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const over = () => {
      timer.cancel();
      closing.removeEventListener("abort", over);
      resolve();
    };
    const timer = clock.setTimer(delayMs, over);
    closing.addEventListener("abort", over);
  });
}

export function sessionView(of: {
  readonly row: SessionRow;
  readonly machine: SessionState;
  readonly progress: SessionProgress;
  readonly updatedAtMs: number;
  readonly tally: Tally;
  readonly round: RoundView | null;
  readonly kept: SessionView["kept"];
  /** What it waits for, in words. */
  readonly waitsFor: string | undefined;
}): SessionView {
  const { row, machine, progress, updatedAtMs, tally, round, kept, waitsFor } = of;
  return {
    id: row.id,
    name: row.params.name,
    state: progress.state,
    activity: activityOf(machine.phase),
    reason: progress.reason ?? waitsFor ?? null,
    params: row.params,
    head: machine.head,
    round,
    kept,
    counts: {
      models: machine.made,
      rounds: machine.nextRound - 1,
      failedRounds: machine.failedRounds,
      merged: tally.merged,
      expired: tally.expired,
    },
    startedAtMs: row.createdAtMs,
    endedAtMs: progress.state === "running" ? null : updatedAtMs,
    metrics: tally.metrics,
  };
}

function activityOf(phase: Phase): Activity {
  if (phase.kind !== "round") return phase.kind;
  return phase.task === "train" ? "training" : "evaluating";
}
