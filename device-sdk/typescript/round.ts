import { type Code, isRetryable } from "@tributary/proto/wire/codes.js";
import type { Down } from "@tributary/proto/wire/device-link.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { Manifest, Plan } from "@tributary/proto/wire/plan.js";
import type { DeviceEvent } from "./events.js";
import { limits } from "./limits.js";
import type { Update } from "./update.js";

/** What a device does, as a pure machine: no clock, no link, no disk, only what comes and what follows. */

export type Task = {
  readonly plan: Plan;
  readonly gateway: string;
  /** On the monotonic clock. */
  readonly deadlineMs: number;
};

/** A published model to keep for offline use. */
export type Wanted = { readonly manifest: Manifest; readonly layout: Plan["layout"] };

type Stage =
  | "offline" // no link: begins when it is up
  | "backoff" // refused for now: begins again after a wait
  | "begun" // waits for a grant or a receipt
  | "uploading"
  | "awaiting"; // every byte is acknowledged: waits for the receipt

export type Sending = {
  readonly at: "sending";
  readonly update: Update;
  readonly stage: Stage;
  /** How often it was begun without an answer. */
  readonly attempt: number;
  /** The grant's window, while there is one. */
  readonly windowBytes?: number;
  /** Offset of the last restart after `chunk-out-of-order`, within one grant. */
  readonly resumedAt?: number;
};

export type Phase =
  | { readonly at: "idle" }
  | { readonly at: "refreshing"; readonly wanted: Wanted }
  | { readonly at: "fetching"; readonly task: Task }
  | { readonly at: "training"; readonly task: Task }
  /** Aborted: the trainer has not come back yet, so nothing else may start. */
  | { readonly at: "stopping"; readonly round: string }
  /** The update is on its way into the slot; `unwanted` when its round closed meanwhile. */
  | { readonly at: "keeping"; readonly update: Update; readonly unwanted: boolean }
  | Sending;

type Finished = {
  readonly round: string;
  readonly declined?: { readonly code: Code; readonly message: string };
};

export type State = {
  /** Whether the gateway has said welcome on the present connection. */
  readonly online: boolean;
  readonly phase: Phase;
  /** The newest offer, taken up after the present round. */
  readonly next: Task | undefined;
  readonly wanted: Wanted | undefined;
  /** Newest last, bounded: an offer of one of these is answered, or ignored, but never taken twice. */
  readonly finished: readonly Finished[];
};

export type Input =
  | { readonly on: "restored"; readonly update: Update }
  | { readonly on: "link-up" }
  | { readonly on: "link-down" }
  | { readonly on: "offer"; readonly task: Task }
  | { readonly on: "published"; readonly wanted: Wanted }
  | { readonly on: "fetched"; readonly digest: string }
  | {
      readonly on: "fetch-failed";
      readonly digest: string;
      readonly code: Code;
      readonly message: string;
    }
  | { readonly on: "trained"; readonly update: Update }
  | {
      readonly on: "train-failed";
      readonly round: string;
      readonly code: Code;
      readonly message: string;
    }
  | { readonly on: "kept"; readonly round: string }
  | { readonly on: "keep-failed"; readonly round: string; readonly message: string }
  | ({ readonly on: "grant" } & Down<"grant">)
  /** A chunk was acknowledged. */
  | { readonly on: "progress"; readonly round: string }
  /** Every chunk was acknowledged. */
  | { readonly on: "sent"; readonly round: string }
  | ({ readonly on: "receipt" } & Down<"receipt">)
  | ({ readonly on: "refusal" } & Down<"refusal">)
  | { readonly on: "closed"; readonly round: string }
  /** The wait is over. */
  | { readonly on: "waited" }
  | { readonly on: "deadline" };

export type Effect =
  /** Get the model, from disk or from the gateway; ends in `fetched` or `fetch-failed`. */
  | {
      readonly do: "fetch";
      readonly manifest: Manifest;
      readonly layout: Plan["layout"];
      readonly good: boolean;
    }
  | { readonly do: "abort-fetch" }
  /** Run the trainer; ends in `trained` or `train-failed`, after an abort too. */
  | { readonly do: "train"; readonly task: Task }
  | { readonly do: "abort-training"; readonly reason: string }
  /** Write the slot (an evaluation: note it only); ends in `kept` or `keep-failed`. */
  | { readonly do: "keep"; readonly update: Update }
  | { readonly do: "drop"; readonly update: Update; readonly because: "receipt" | "closed" | Code }
  | { readonly do: "send-begin"; readonly update: Update }
  | {
      readonly do: "send-chunks";
      readonly update: Update;
      readonly offset: number;
      readonly windowBytes: number;
    }
  | { readonly do: "stop-chunks" }
  | {
      readonly do: "decline";
      readonly round: string;
      readonly code: Code;
      readonly message: string;
    }
  /** One wait at a time: a new one takes the place of the old. Ends in `waited`. */
  | {
      readonly do: "wait";
      readonly why: "doubt" | "backoff";
      readonly attempt: number;
      readonly atLeastMs: number;
    }
  | { readonly do: "stop-waiting" }
  | { readonly do: "set-deadline"; readonly atMs: number }
  | { readonly do: "clear-deadline" }
  | { readonly do: "report"; readonly event: DeviceEvent };

export type Step = { readonly state: State; readonly effects: readonly Effect[] };

export const initialState: State = {
  online: false,
  phase: { at: "idle" },
  next: undefined,
  wanted: undefined,
  finished: [],
};

/** One step. `nowMs` is the monotonic clock. Input that does not fit the state changes nothing. */
export function step(state: State, input: Input, nowMs: number): Step {
  const reacted = react(state, input, nowMs);
  if (reacted.state.phase.at !== "idle") return reacted;
  const taken = takeNext(reacted.state, nowMs);
  return { state: taken.state, effects: [...reacted.effects, ...taken.effects] };
}

/** The round that a phase works for. */
export function roundOf(phase: Phase): string | undefined {
  switch (phase.at) {
    case "fetching":
    case "training":
      return phase.task.plan.round;
    case "stopping":
      return phase.round;
    case "keeping":
    case "sending":
      return phase.update.begin.round;
    default:
      return undefined;
  }
}

const idle: Phase = { at: "idle" };

function to(state: State, phase: Phase, ...effects: readonly Effect[]): Step {
  return { state: { ...state, phase }, effects };
}

function same(state: State, ...effects: readonly Effect[]): Step {
  return { state, effects };
}

function report(event: DeviceEvent): Effect {
  return { do: "report", event };
}

function react(state: State, input: Input, nowMs: number): Step {
  switch (input.on) {
    case "restored":
      return to(state, { at: "sending", update: input.update, stage: "offline", attempt: 0 });
    case "link-up":
      return onLinkUp({ ...state, online: true });
    case "link-down":
      return onLinkDown({ ...state, online: false });
    case "offer":
      return onOffer(state, input.task, nowMs);
    case "published":
      return same({ ...state, wanted: input.wanted });
    case "fetched":
      return onFetched(state, input.digest);
    case "fetch-failed":
      return onFetchFailed(state, input);
    case "trained":
    case "train-failed":
      return onTrainer(state, input);
    case "kept":
    case "keep-failed":
      return onKept(state, input);
    case "grant":
    case "progress":
    case "sent":
    case "receipt":
    case "refusal":
      return state.phase.at === "sending" ? onAnswer(state, state.phase, input) : same(state);
    case "closed":
      return onClosed(state, input.round);
    case "waited":
      return onWaited(state);
    case "deadline":
      return onDeadline(state);
  }
}

function finish(state: State, round: string, declined?: Finished["declined"]): State {
  const others = state.finished.filter((entry) => entry.round !== round);
  const entry: Finished = declined ? { round, declined } : { round };
  return { ...state, finished: [...others, entry].slice(-limits.finishedRounds) };
}

function decline(round: string, code: Code, message: string): readonly Effect[] {
  return [
    { do: "decline", round, code, message },
    report({ level: "info", name: "declined", round, code, message }),
  ];
}

// Link

function onLinkUp(state: State): Step {
  return state.phase.at === "sending" ? begin(state, state.phase, 0) : same(state);
}

function onLinkDown(state: State): Step {
  const { phase } = state;
  if (phase.at !== "sending") return same(state);
  const { update } = phase;
  return to(
    state,
    { at: "sending", update, stage: "offline", attempt: 0 },
    { do: "stop-chunks" },
    { do: "stop-waiting" },
  );
}

// Offers

/** A session has one round at a time, so a later number tells that the earlier round is over. */
function supersedes(later: Plan, earlier: Plan): boolean {
  const a = splitNumberedId(later.round);
  const b = splitNumberedId(earlier.round);
  return a !== undefined && b !== undefined && a.session === b.session && a.number > b.number;
}

function onOffer(state: State, task: Task, nowMs: number): Step {
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

function merge(first: Step, then: (state: State) => Step): Step {
  const second = then(first.state);
  return { state: second.state, effects: [...first.effects, ...second.effects] };
}

/** From idle: the waiting offer, else the newest published model, else nothing. */
function takeNext(state: State, nowMs: number): Step {
  const { next, wanted } = state;
  if (next !== undefined) {
    const { round, base, layout, task } = next.plan;
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
      { do: "fetch", manifest: base, layout, good: task === "train" },
    );
  }
  if (wanted === undefined || !state.online) return same(state);
  const { manifest, layout } = wanted;
  return to(
    { ...state, wanted: undefined },
    { at: "refreshing", wanted },
    { do: "fetch", manifest, layout, good: true },
  );
}

// Fetch and train

function onFetched(state: State, digest: string): Step {
  const { phase } = state;
  if (phase.at === "refreshing" && phase.wanted.manifest.digest === digest) return to(state, idle);
  if (phase.at !== "fetching" || phase.task.plan.base.digest !== digest) return same(state);
  return to(state, { at: "training", task: phase.task }, { do: "train", task: phase.task });
}

function onFetchFailed(state: State, input: Extract<Input, { on: "fetch-failed" }>): Step {
  const { phase } = state;
  const { digest, code, message } = input;
  if (phase.at === "refreshing" && phase.wanted.manifest.digest === digest) return to(state, idle);
  if (phase.at !== "fetching" || phase.task.plan.base.digest !== digest) return same(state);
  const { round } = phase.task.plan;
  const after = finish(state, round, { code, message });
  return to(after, idle, { do: "clear-deadline" }, ...decline(round, code, message));
}

function onTrainer(
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
function stop(state: State, round: string, reason: string): Step {
  return to(
    finish(state, round),
    { at: "stopping", round },
    { do: "clear-deadline" },
    { do: "abort-training", reason },
  );
}

function onDeadline(state: State): Step {
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

// Keep and send

function onKept(state: State, input: Extract<Input, { on: "kept" } | { on: "keep-failed" }>): Step {
  const { phase } = state;
  if (phase.at !== "keeping" || phase.update.begin.round !== input.round) return same(state);
  const { update, unwanted } = phase;
  if (input.on === "keep-failed") {
    if (unwanted) return to(state, idle);
    const message = `the update could not be kept: ${input.message}`;
    const after = finish(state, input.round, { code: "storage-failed", message });
    return to(after, idle, ...decline(input.round, "storage-failed", message));
  }
  if (unwanted) return to(state, idle, { do: "drop", update, because: "closed" });
  const sending: Sending = { at: "sending", update, stage: "offline", attempt: 0 };
  return state.online ? begin(state, sending, 0) : to(state, sending);
}

function begin(state: State, { update }: Sending, attempt: number): Step {
  return to(
    state,
    { at: "sending", update, stage: "begun", attempt },
    { do: "stop-chunks" },
    { do: "send-begin", update },
    { do: "wait", why: "doubt", attempt, atLeastMs: limits.doubtMs },
    report({ level: "info", name: "begun", round: update.begin.round, attempt }),
  );
}

function onWaited(state: State): Step {
  const { phase } = state;
  if (phase.at !== "sending" || phase.stage === "offline") return same(state);
  return begin(state, phase, phase.attempt + 1);
}

type Answer = Extract<
  Input,
  { on: "grant" } | { on: "progress" } | { on: "sent" } | { on: "receipt" } | { on: "refusal" }
>;

function onAnswer(state: State, phase: Sending, input: Answer): Step {
  const { begin: head } = phase.update;
  if (input.on === "refusal") return onRefusal(state, phase, input);
  if (input.round !== head.round || phase.stage === "offline") return same(state);
  const doubt: Effect = { do: "wait", why: "doubt", attempt: 0, atLeastMs: limits.doubtMs };
  switch (input.on) {
    case "receipt": {
      if (input.digest !== head.digest) return same(state);
      const { round, digest } = input;
      const got = report({ level: "info", name: "receipt", round, digest });
      return forget(state, phase, "receipt", got);
    }
    case "grant": {
      const { round, offset, windowBytes } = input;
      if (offset > head.bytes) return same(state);
      const granted = report({ level: "debug", name: "granted", round, offset, windowBytes });
      return to(
        state,
        // The attempts stay: an upload that is refused at its end must not start over at once.
        {
          at: "sending",
          update: phase.update,
          stage: "uploading",
          attempt: phase.attempt,
          windowBytes,
        },
        { do: "stop-chunks" },
        { do: "send-chunks", update: phase.update, offset, windowBytes },
        doubt,
        granted,
      );
    }
    case "progress":
      return phase.stage === "uploading" ? same(state, doubt) : same(state);
    case "sent": {
      if (phase.stage !== "uploading") return same(state);
      const sent = report({ level: "debug", name: "sent", round: head.round, bytes: head.bytes });
      return to(state, { ...phase, stage: "awaiting" }, doubt, sent);
    }
  }
}

/** The only way out of `sending`: the gateway has the update, or will never take it. */
function forget(
  state: State,
  { update }: Sending,
  because: "receipt" | "closed" | Code,
  ...reports: readonly Effect[]
): Step {
  return to(
    finish(state, update.begin.round),
    idle,
    { do: "stop-chunks" },
    { do: "stop-waiting" },
    { do: "drop", update, because },
    ...reports,
  );
}

function onRefusal(state: State, phase: Sending, refusal: Down<"refusal">): Step {
  const { about, code, message, retryAfterMs = 0, expectedOffset } = refusal;
  const { update, stage } = phase;
  const { round, bytes } = update.begin;
  if ((about !== "begin" && about !== "chunk") || stage === "offline") return same(state);
  if ((refusal.round ?? round) !== round) return same(state);
  const retryable = isRetryable(code);
  const refused = report({ level: "warn", name: "refused", round, code, message, retryable });
  if (!retryable) return forget(state, phase, code, refused);
  if (stage === "backoff") return same(state);
  if (about === "chunk" && stage !== "uploading" && stage !== "awaiting") return same(state);
  if (code === "chunk-out-of-order" && expectedOffset !== undefined && expectedOffset <= bytes) {
    // Each chunk that was under way is refused with the same offset: one restart answers them all.
    if (phase.resumedAt === expectedOffset) return same(state);
    if (phase.resumedAt === undefined && phase.windowBytes !== undefined)
      return to(
        state,
        { ...phase, stage: "uploading", resumedAt: expectedOffset },
        { do: "stop-chunks" },
        { do: "send-chunks", update, offset: expectedOffset, windowBytes: phase.windowBytes },
        { do: "wait", why: "doubt", attempt: 0, atLeastMs: limits.doubtMs },
        refused,
      );
  }
  return to(
    state,
    { at: "sending", update, stage: "backoff", attempt: phase.attempt },
    { do: "stop-chunks" },
    { do: "wait", why: "backoff", attempt: phase.attempt, atLeastMs: retryAfterMs },
    refused,
  );
}

function onClosed(state: State, round: string): Step {
  const closed = report({ level: "info", name: "closed", round });
  if (state.next?.plan.round === round)
    return same({ ...finish(state, round), next: undefined }, closed);
  const { phase } = state;
  if (roundOf(phase) !== round) return same(finish(state, round));
  switch (phase.at) {
    case "fetching":
      return to(
        finish(state, round),
        idle,
        { do: "abort-fetch" },
        { do: "clear-deadline" },
        closed,
      );
    case "training":
      return merge(same(state, closed), (after) => stop(after, round, "closed"));
    case "keeping":
      return to(finish(state, round), { ...phase, unwanted: true }, closed);
    case "sending":
      return forget(state, phase, "closed", closed);
    default:
      return same(state);
  }
}
