import { limits as wire } from "@tributary/proto/wire/limits.js";

/**
 * The site rounds of one round of the cloud's, as a pure machine: after each site round it decides
 * whether another one follows, and when what there is goes up as one Partial.
 *
 * With the uplink there, `siteRounds` follow one another and the Partial goes. While it is away and
 * the plan allows offline site rounds the Partial grows in its place: it goes once the uplink is
 * back, or when the allowance is used up. A site round that nobody contributes to ends the cycle,
 * or, while it may grow, pauses it: a pause doubles with each such round in a row.
 */
export type CycleState = {
  /** kappa2. */
  readonly siteRounds: number;
  /** Further site rounds while the uplink is away. */
  readonly offlineSiteRounds: number;
  /** Whether neither the upstream's closing nor its return cuts a site round short. */
  readonly finishFirst: boolean;
  /** Site rounds that contributed, and whose work is durable. */
  readonly done: number;
  /** Number of the newest site round that was opened; 0 for none. Never used twice. */
  readonly number: number;
  /** Site rounds in a row that nobody contributed to. */
  readonly empty: number;
  readonly phase: "running" | "paused" | "absent" | "ended";
  /** Whether the uplink is there. */
  readonly attached: boolean;
  /** Whether the uplink has been away for longer than a reconnect takes. */
  readonly away: boolean;
  /** Whether the site deadline is over. */
  readonly due: boolean;
  /** Whether the upstream has closed the round. */
  readonly closed: boolean;
};

export type CycleEvent =
  /** A site round is over and what it brought is durable. `present`: some of the roster is here. */
  | { readonly type: "sealed"; readonly contributors: number; readonly present: boolean }
  | { readonly type: "attached"; readonly present: boolean }
  | { readonly type: "detached" }
  /** The site deadline of the cloud's round. */
  | { readonly type: "due" }
  /** The upstream closed the round. */
  | { readonly type: "closed" }
  /** A device of the roster has come. */
  | { readonly type: "connected" }
  /** The next site round has no base here, nor will it have one. */
  | { readonly type: "stuck" }
  /** A pause is over. */
  | { readonly type: "waited"; readonly present: boolean };

export type CycleEffect =
  /** Begin site round `number`. */
  | { readonly type: "open"; readonly number: number }
  /** Seal the running site round now. */
  | { readonly type: "cut" }
  /** Answer with `waited` after a while: a grace for the uplink, or a back-off, see `empty`. */
  | { readonly type: "pause"; readonly why: "grace" | "empty" }
  /** Hand over what there is. Once; nothing follows it. */
  | { readonly type: "compose" };

export type CycleStep = { readonly state: CycleState; readonly effects: readonly CycleEffect[] };

export type CycleOpening = Pick<
  CycleState,
  "siteRounds" | "offlineSiteRounds" | "finishFirst" | "attached" | "due"
> & {
  readonly present: boolean;
  /** What is known from before a restart; `running` when site round `number` goes on. */
  readonly done?: number;
  readonly number?: number;
  readonly running?: boolean;
};

export function openCycle(opening: CycleOpening): CycleStep {
  const { present, done = 0, number = 0, running = false, ...rest } = opening;
  const state: CycleState = {
    ...rest,
    done,
    number,
    empty: 0,
    phase: "running",
    away: false,
    closed: false,
  };
  return running ? { state, effects: [] } : goOn(state, present, false);
}

export function stepCycle(state: CycleState, event: CycleEvent): CycleStep {
  const still: CycleStep = { state, effects: [] };
  if (state.phase === "ended") return still;
  switch (event.type) {
    case "sealed": {
      if (state.phase !== "running") return still;
      const counted =
        event.contributors > 0
          ? { ...state, done: state.done + 1, empty: 0 }
          : { ...state, empty: state.empty + 1 };
      return goOn(counted, event.present, false);
    }
    case "attached": {
      const back = { ...state, attached: true, away: false };
      if (state.phase !== "running") return goOn(back, event.present, false);
      const over = state.due || state.done >= state.siteRounds;
      return over && !state.finishFirst ? cut(back) : { state: back, effects: [] };
    }
    case "detached":
      return { state: { ...state, attached: false }, effects: [] };
    case "due": {
      const late = { ...state, due: true };
      return state.phase === "running" && !mayGrow(state) ? cut(late) : { ...still, state: late };
    }
    case "closed": {
      if (state.finishFirst) return still;
      const closed = { ...state, closed: true };
      return state.phase === "running" ? cut(closed) : end(closed);
    }
    case "connected":
      return state.phase === "absent" ? goOn(state, true, false) : still;
    case "stuck":
      return end(state);
    case "waited":
      return state.phase === "paused" ? goOn({ ...state, away: true }, event.present, true) : still;
  }
}

/** Most site rounds that may contribute. */
export function siteRoundsMax(plan: {
  readonly siteRounds: number;
  readonly offlineSiteRounds: number;
}): number {
  return Math.min(plan.siteRounds + plan.offlineSiteRounds, wire.updatesMax);
}

/** Whether the Partial grows in place of going up. */
function mayGrow({ attached, offlineSiteRounds }: CycleState): boolean {
  return !attached && offlineSiteRounds > 0;
}

function cut(state: CycleState): CycleStep {
  return { state, effects: [{ type: "cut" }] };
}

function end(state: CycleState): CycleStep {
  return { state: { ...state, phase: "ended" }, effects: [{ type: "compose" }] };
}

function open(state: CycleState): CycleStep {
  const number = state.number + 1;
  return { state: { ...state, number, phase: "running" }, effects: [{ type: "open", number }] };
}

function pause(state: CycleState, why: "grace" | "empty"): CycleStep {
  return { state: { ...state, phase: "paused" }, effects: [{ type: "pause", why }] };
}

/** What follows when no site round runs. `waited`: a pause has just ended. */
function goOn(state: CycleState, present: boolean, waited: boolean): CycleStep {
  const enough = state.due || state.done >= state.siteRounds;
  if (state.closed || state.done >= siteRoundsMax(state)) return end(state);
  if (!mayGrow(state)) return enough || state.empty > 0 ? end(state) : open(state);
  if (!present) return { state: { ...state, phase: "absent" }, effects: [] };
  if (state.empty > 0 && !waited) return pause(state, "empty");
  // An uplink that is only reconnecting is no reason to train beyond the plan.
  if (enough && !state.away) return pause(state, "grace");
  return open(state);
}
