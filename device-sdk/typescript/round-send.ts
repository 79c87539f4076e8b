import { type Code, isRetryable } from "@tributary/proto/wire/codes.js";
import type { Down } from "@tributary/proto/wire/device-link.js";
import { limits } from "./limits.js";
import {
  decline,
  type Effect,
  finish,
  type Input,
  idle,
  report,
  type Sending,
  type State,
  type Step,
  same,
  to,
} from "./round-state.js";

/** The second half of a round at a device: kept, begun, sent, until the gateway has it or refuses it. */

export function onLinkUp(state: State): Step {
  return state.phase.at === "sending" ? begin(state, state.phase, 0) : same(state);
}

export function onLinkDown(state: State): Step {
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

export function onKept(
  state: State,
  input: Extract<Input, { on: "kept" } | { on: "keep-failed" }>,
): Step {
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

export function onWaited(state: State): Step {
  const { phase } = state;
  if (phase.at !== "sending" || phase.stage === "offline") return same(state);
  return begin(state, phase, phase.attempt + 1);
}

type Answer = Extract<
  Input,
  { on: "grant" } | { on: "progress" } | { on: "sent" } | { on: "receipt" } | { on: "refusal" }
>;

export function onAnswer(state: State, phase: Sending, input: Answer): Step {
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
export function forget(
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
