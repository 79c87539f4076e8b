import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import {
  decline,
  finish,
  type Input,
  idle,
  merge,
  type Phase,
  report,
  roundOf,
  type State,
  type Step,
  same,
  type Task,
  to,
} from "./round-state.js";

/** The first half of a round at a device: offered, fetched, trained. */

/**
 * A session has one round at a time, and a round one site round: so a later number tells that the
 * earlier one is over.
 */
function supersedes(later: Plan, earlier: Plan): boolean {
  const a = splitNumberedId(later.round);
  const b = splitNumberedId(earlier.round);
  if (a === undefined || b === undefined || a.session !== b.session) return false;
  return a.number === b.number ? (a.site ?? 0) > (b.site ?? 0) : a.number > b.number;
}

/**
 * Whether a base is worth answering with. A site model is a step on the way, which nobody has
 * evaluated: the cloud's last one stays in its place.
 */
function isGood({ task, base }: Plan): boolean {
  return task === "train" && splitNumberedId(base.model)?.site === undefined;
}

export function onOffer(state: State, task: Task, nowMs: number): Step {
  const { phase, next } = state;
  const { round } = task.plan;
  const done = state.finished.find((entry) => entry.round === round);
  if (done?.declined) return same(state, { do: "decline", round, ...done.declined });
  if (done || roundOf(phase) === round) {
    const reason = done ? "finished" : "under way";
    return same(state, report({ level: "debug", name: "offer-ignored", round, reason }));
  }
  const { model: base } = task.plan.base;
  const remainingMs = task.deadlineMs - nowMs;
  const offered = report({
    level: "info",
    name: "offer",
    round,
    task: task.plan.task,
    base,
    remainingMs,
  });
  const displaced =
    next !== undefined && next.plan.round !== round
      ? decline(next.plan.round, "not-eligible", "the device took up a newer offer")
      : [];
  const queued = { ...state, next: task };
  if (phase.at === "refreshing" && phase.wanted.manifest.digest !== task.plan.base.digest)
    return to(queued, idle, offered, { do: "abort-fetch" }, ...displaced);
  if (phase.at === "refreshing") {
    const atMs = task.deadlineMs;
    return to(state, { at: "fetching", task }, offered, { do: "set-deadline", atMs });
  }
  if (phase.at === "fetching" && supersedes(task.plan, phase.task.plan)) {
    const left = finish(queued, phase.task.plan.round);
    return to(left, idle, offered, { do: "abort-fetch" }, { do: "clear-deadline" }, ...displaced);
  }
  if (phase.at === "training" && supersedes(task.plan, phase.task.plan))
    return merge(same(queued, offered, ...displaced), (after) =>
      stop(after, phase.task.plan.round, "superseded"),
    );
  return same(queued, offered, ...displaced);
}

/** From idle: the waiting offer, else the newest published model, else nothing. */
export function takeNext(state: State, nowMs: number): Step {
  const { next, wanted: published } = state;
  if (next !== undefined) {
    const { round, session, base, layout, package: offered } = next.plan;
    const wanted = offered && { wanted: { offered, session } };
    const rest = { ...state, next: undefined };
    if (next.deadlineMs <= nowMs) {
      const reason = "the deadline passed before the device was free";
      const late = finish(rest, round, { code: "too-late", message: reason });
      return merge(same(late, ...decline(round, "too-late", reason)), (s) => takeNext(s, nowMs));
    }
    return to(
      rest,
      { at: "fetching", task: next },
      { do: "set-deadline", atMs: next.deadlineMs },
      { do: "fetch", manifest: base, layout, good: isGood(next.plan), ...wanted },
    );
  }
  if (published === undefined || !state.online) return same(state);
  const { manifest, layout } = published;
  return to(
    { ...state, wanted: undefined },
    { at: "refreshing", wanted: published },
    { do: "fetch", manifest, layout, good: true },
  );
}

export function onFetched(state: State, digest: string): Step {
  const { phase } = state;
  if (phase.at === "refreshing" && phase.wanted.manifest.digest === digest) return to(state, idle);
  if (phase.at !== "fetching" || phase.task.plan.base.digest !== digest) return same(state);
  return to(state, { at: "training", task: phase.task }, { do: "train", task: phase.task });
}

export function onFetchFailed(state: State, input: Extract<Input, { on: "fetch-failed" }>): Step {
  const { phase } = state;
  const { digest, code, message } = input;
  if (phase.at === "refreshing" && phase.wanted.manifest.digest === digest) return to(state, idle);
  if (phase.at !== "fetching" || phase.task.plan.base.digest !== digest) return same(state);
  const { round } = phase.task.plan;
  const after = finish(state, round, { code, message });
  return to(after, idle, { do: "clear-deadline" }, ...decline(round, code, message));
}

export function onTrainer(
  state: State,
  input: Extract<Input, { on: "trained" } | { on: "train-failed" }>,
): Step {
  const { phase } = state;
  const round = input.on === "trained" ? input.update.begin.round : input.round;
  if (phase.at === "stopping" && phase.round === round) return to(state, idle);
  if (phase.at !== "training" || phase.task.plan.round !== round) return same(state);
  if (input.on === "trained") {
    const { update } = input;
    const keeping: Phase = { at: "keeping", update, unwanted: false };
    return to(state, keeping, { do: "clear-deadline" }, { do: "keep", update });
  }
  const { code, message } = input;
  const after = finish(state, round, { code, message });
  return to(after, idle, { do: "clear-deadline" }, ...decline(round, code, message));
}

/** Leaves a training task; the phase holds until the trainer has come back. */
export function stop(state: State, round: string, reason: string): Step {
  return to(
    finish(state, round),
    { at: "stopping", round },
    { do: "clear-deadline" },
    { do: "abort-training", reason },
  );
}

export function onDeadline(state: State): Step {
  const { phase } = state;
  if (phase.at !== "fetching" && phase.at !== "training") return same(state);
  const { round } = phase.task.plan;
  const message = `the deadline passed while ${phase.at}`;
  const late = (after: State): State => finish(after, round, { code: "too-late", message });
  const said = decline(round, "too-late", message);
  if (phase.at === "fetching") return to(late(state), idle, { do: "abort-fetch" }, ...said);
  const stopped = stop(state, round, "deadline");
  return { state: late(stopped.state), effects: [...stopped.effects, ...said] };
}
