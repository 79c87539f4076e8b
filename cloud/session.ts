import { type GateReason, judge } from "./gate.js";
import type { GateParams } from "./params.js";

/**
 * A session as a pure machine: wait for the quorum of sites, run a training round, judge the
 * candidate (after an evaluation round where one is due), publish or hold it, and again, until the
 * rounds asked for are done. A number of failed rounds in a row ends it.
 *
 * A step's state is to be durable before its effects are carried out.
 */

export type Task = "train" | "evaluate";

export type SessionRules = {
  /** Models to make. */
  readonly rounds: number;
  /** An evaluation after every n models made, and after the last; 0 for none. */
  readonly evaluateEvery: number;
  readonly sitesQuorum: number;
  /** Connected devices that a round waits for. */
  readonly devicesMin: number;
  readonly failedRoundsMax: number;
  /** Pause after a failed round; doubles with each in a row, up to `pauseMaxMs`. */
  readonly pauseMs: number;
  readonly pauseMaxMs: number;
  readonly gate: GateParams;
};

export type Phase =
  | { readonly kind: "waiting" }
  | {
      readonly kind: "round";
      readonly round: number;
      readonly task: Task;
      readonly after: "go-on" | "stop";
    }
  /** Until then by the monotonic clock, as every time here. */
  | { readonly kind: "pausing"; readonly untilMs: number }
  | { readonly kind: "stopped" }
  | { readonly kind: "finished" }
  | { readonly kind: "failed"; readonly reason: string };

/** A model that was evaluated, and the gate's metric of it. */
export type Baseline = { readonly model: string; readonly value: number };

export type Fleet = {
  /** Sites that could meet their quorum now. */
  readonly sitesReady: number;
  /** Devices connected at them. */
  readonly devices: number;
};

export type SessionState = {
  readonly rules: SessionRules;
  readonly phase: Phase;
  /** The model the next training round starts from. */
  readonly head: string;
  /** Made, and waiting for its evaluation. */
  readonly candidate?: string;
  readonly nextRound: number;
  /** Models made so far, published or not. */
  readonly made: number;
  /** Failed rounds in a row. */
  readonly failedRounds: number;
  readonly baseline?: Baseline;
  readonly fleet: Fleet;
};

export type SessionEvent =
  /** Look again at `fleet`, which the caller keeps up to date. */
  | { readonly kind: "fleet" }
  | { readonly kind: "tick"; readonly nowMs: number }
  | { readonly kind: "trained"; readonly model: string; readonly finite: boolean }
  | { readonly kind: "evaluated"; readonly metrics: Readonly<Record<string, number>> }
  | { readonly kind: "round-failed"; readonly reason: string; readonly nowMs: number }
  | { readonly kind: "round-stopped" }
  /** The round made no model, and what it brought is kept for the next. */
  | { readonly kind: "round-short" }
  | { readonly kind: "stop" }
  | { readonly kind: "resume" }
  | { readonly kind: "broken"; readonly reason: string }
  | { readonly kind: "activate"; readonly model: string; readonly baseline?: Baseline };

export type HoldReason = GateReason | "superseded";

export type SessionEffect =
  | { readonly kind: "open"; readonly round: number; readonly task: Task; readonly base: string }
  | { readonly kind: "publish"; readonly model: string }
  | { readonly kind: "hold"; readonly model: string; readonly reason: HoldReason }
  | { readonly kind: "stop-round"; readonly round: number }
  | { readonly kind: "wake"; readonly atMs: number };

export type SessionStep = {
  readonly state: SessionState;
  readonly effects: readonly SessionEffect[];
};

export function newSession(rules: SessionRules, initialModel: string): SessionState {
  return {
    rules,
    phase: { kind: "waiting" },
    head: initialModel,
    nextRound: 1,
    made: 0,
    failedRounds: 0,
    fleet: { sitesReady: 0, devices: 0 },
  };
}

export function stepSession(state: SessionState, event: SessionEvent): SessionStep {
  switch (event.kind) {
    case "fleet":
      return proceed(state);
    case "tick":
      return tick(state, event.nowMs);
    case "trained":
      return trained(state, event.model, event.finite);
    case "evaluated":
      return evaluated(state, event.metrics);
    case "round-failed":
      return roundFailed(state, event.reason, event.nowMs);
    case "round-stopped":
      return proceed(roundOver(state));
    case "round-short":
      return proceed({ ...roundOver(state), failedRounds: 0 });
    case "stop":
      return stop(state);
    case "resume":
      return resume(state);
    case "broken":
      return still({ ...state, phase: { kind: "failed", reason: event.reason } });
    case "activate":
      return activate(state, event.model, event.baseline);
  }
}

function still(state: SessionState): SessionStep {
  return { state, effects: [] };
}

/** From `waiting`, opens the round that is due once enough sites are there. */
function proceed(state: SessionState): SessionStep {
  if (state.phase.kind !== "waiting") return still(state);
  if (state.candidate === undefined && state.made >= state.rules.rounds)
    return still({ ...state, phase: { kind: "finished" } });
  const { sitesQuorum, devicesMin } = state.rules;
  if (state.fleet.sitesReady < sitesQuorum || state.fleet.devices < devicesMin) return still(state);
  const task: Task = state.candidate === undefined ? "train" : "evaluate";
  const round = state.nextRound;
  const base = state.candidate ?? state.head;
  return {
    state: {
      ...state,
      nextRound: round + 1,
      phase: { kind: "round", round, task, after: "go-on" },
    },
    effects: [{ kind: "open", round, task, base }],
  };
}

/** What follows a round that has closed. */
function roundOver(state: SessionState): SessionState {
  const stopped = state.phase.kind === "round" && state.phase.after === "stop";
  return { ...state, phase: { kind: stopped ? "stopped" : "waiting" } };
}

function tick(state: SessionState, nowMs: number): SessionStep {
  if (state.phase.kind !== "pausing") return still(state);
  const { untilMs } = state.phase;
  if (nowMs < untilMs) return { state, effects: [{ kind: "wake", atMs: untilMs }] };
  return proceed({ ...state, phase: { kind: "waiting" } });
}

function trained(state: SessionState, model: string, finite: boolean): SessionStep {
  const made = state.made + 1;
  const after = { ...roundOver(state), made, failedRounds: 0 };
  if (!finite) return followedBy(proceed(after), { kind: "hold", model, reason: "not-finite" });
  const { evaluateEvery, rounds } = state.rules;
  const due = evaluateEvery > 0 && (made % evaluateEvery === 0 || made >= rounds);
  if (due) return proceed({ ...after, candidate: model });
  return followedBy(proceed({ ...after, head: model }), { kind: "publish", model });
}

function evaluated(state: SessionState, metrics: Readonly<Record<string, number>>): SessionStep {
  const { candidate, ...rest } = state;
  if (candidate === undefined) return proceed(roundOver(state));
  const after = { ...roundOver(rest), failedRounds: 0 };
  const verdict = judge(state.rules.gate, metrics, state.baseline?.value);
  if (!verdict.pass)
    return followedBy(proceed(after), { kind: "hold", model: candidate, reason: verdict.reason });
  const baseline = { model: candidate, value: metrics[state.rules.gate.metric] as number };
  return followedBy(proceed({ ...after, head: candidate, baseline }), {
    kind: "publish",
    model: candidate,
  });
}

/** Puts what was decided before what it leads to. */
function followedBy(step: SessionStep, first: SessionEffect): SessionStep {
  return { state: step.state, effects: [first, ...step.effects] };
}

function roundFailed(state: SessionState, reason: string, nowMs: number): SessionStep {
  const failedRounds = state.failedRounds + 1;
  const after = { ...roundOver(state), failedRounds };
  if (after.phase.kind === "stopped") return still(after);
  const { failedRoundsMax, pauseMs, pauseMaxMs } = state.rules;
  if (failedRounds >= failedRoundsMax) {
    const words = `${failedRounds} rounds in a row failed, the last by ${reason}`;
    return still({ ...after, phase: { kind: "failed", reason: words } });
  }
  const untilMs = nowMs + Math.min(pauseMaxMs, pauseMs * 2 ** Math.min(failedRounds - 1, 30));
  return {
    state: { ...after, phase: { kind: "pausing", untilMs } },
    effects: [{ kind: "wake", atMs: untilMs }],
  };
}

function stop(state: SessionState): SessionStep {
  const { phase } = state;
  switch (phase.kind) {
    case "round":
      return {
        state: { ...state, phase: { ...phase, after: "stop" } },
        effects: [{ kind: "stop-round", round: phase.round }],
      };
    case "waiting":
    case "pausing":
    case "failed":
      return still({ ...state, phase: { kind: "stopped" } });
    case "stopped":
    case "finished":
      return still(state);
  }
}

function resume(state: SessionState): SessionStep {
  const { kind } = state.phase;
  if (kind !== "stopped" && kind !== "failed") return still(state);
  return proceed({ ...state, failedRounds: 0, phase: { kind: "waiting" } });
}

/** Moves the head by hand. A round that is open is for the old head, so it is stopped. */
function activate(state: SessionState, model: string, baseline: Baseline | undefined): SessionStep {
  const { candidate, baseline: _, ...rest } = state;
  const moved: SessionState = { ...rest, head: model, ...(baseline && { baseline }) };
  const effects: SessionEffect[] = [];
  if (candidate !== undefined && candidate !== model)
    effects.push({ kind: "hold", model: candidate, reason: "superseded" });
  effects.push({ kind: "publish", model });
  if (state.phase.kind === "round") {
    effects.push({ kind: "stop-round", round: state.phase.round });
    return { state: moved, effects };
  }
  return { state: moved, effects };
}
