import { forget, onAnswer, onKept, onLinkDown, onLinkUp, onWaited } from "./round-send.js";
import {
  finish,
  type Input,
  idle,
  merge,
  report,
  roundOf,
  type State,
  type Step,
  same,
  to,
} from "./round-state.js";
import {
  onDeadline,
  onFetched,
  onFetchFailed,
  onOffer,
  onTrainer,
  stop,
  takeNext,
} from "./round-task.js";

/** What a device does, as a pure machine: no clock, no link, no disk, only what comes and what follows. */

export {
  type Effect,
  type Input,
  initialState,
  roundOf,
  type State,
  type Step,
  type Task,
} from "./round-state.js";

/** One step. `nowMs` is the monotonic clock. Input that does not fit the state changes nothing. */
export function step(state: State, input: Input, nowMs: number): Step {
  const reacted = react(state, input, nowMs);
  if (reacted.state.phase.at !== "idle") return reacted;
  const taken = takeNext(reacted.state, nowMs);
  return { state: taken.state, effects: [...reacted.effects, ...taken.effects] };
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
