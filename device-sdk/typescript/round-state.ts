import type { Code } from "@tributary/proto/wire/codes.js";
import type { Down } from "@tributary/proto/wire/device-link.js";
import type { Manifest, Plan, PlanPackage } from "@tributary/proto/wire/plan.js";
import type { DeviceEvent } from "./events.js";
import { limits } from "./limits.js";
import type { Update } from "./update.js";

/** The words of the device's machine (round.ts): its states, what comes in and what follows. */

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
      /** The package that the plan has its devices run: seen to first. */
      readonly wanted?: { readonly offered: PlanPackage; readonly session: string };
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

export const idle: Phase = { at: "idle" };

export function to(state: State, phase: Phase, ...effects: readonly Effect[]): Step {
  return { state: { ...state, phase }, effects };
}

export function same(state: State, ...effects: readonly Effect[]): Step {
  return { state, effects };
}

export function report(event: DeviceEvent): Effect {
  return { do: "report", event };
}

export function merge(first: Step, then: (state: State) => Step): Step {
  const second = then(first.state);
  return { state: second.state, effects: [...first.effects, ...second.effects] };
}

export function finish(state: State, round: string, declined?: Finished["declined"]): State {
  const others = state.finished.filter((entry) => entry.round !== round);
  const entry: Finished = declined ? { round, declined } : { round };
  return { ...state, finished: [...others, entry].slice(-limits.finishedRounds) };
}

export function decline(round: string, code: Code, message: string): readonly Effect[] {
  return [
    { do: "decline", round, code, message },
    report({ level: "info", name: "declined", round, code, message }),
  ];
}
