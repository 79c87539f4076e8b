import { limits as wire } from "@tributary/proto/wire/limits.js";

/**
 * The site rounds of one round of the cloud's, as a pure machine: after each site round it decides
 * whether another one follows, and when what there is goes up as one Partial.
 *
 * With the uplink there, `siteRounds` follow one another and the Partial goes. While it is away and
 * the plan allows offline site rounds the Partial grows in its place: it goes once the uplink is
 * back, or when the allowance is used up. A site round that nobody contributes to ends that, or,
 * while it may grow, pauses it: a pause doubles with each such round in a row.
 *
 * What is handed over is the first stretch. As long as the allowance lasts and the session has not
 * gone on here, the cycle stays: when the uplink goes away it begins a further stretch, on the site
 * model that there is, which goes up when the uplink is back.
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
  /** Of them, those that were handed over; undefined before the first stretch was. */
  readonly handed: number | undefined;
  /** Number of the newest site round that was opened; 0 for none. Never used twice. */
  readonly number: number;
  /** Site rounds in a row that nobody contributed to. */
  readonly empty: number;
  /** `handed`: all there is was handed over, and the uplink is there. */
  readonly phase: "running" | "paused" | "absent" | "handed" | "ended";
  /** Whether the uplink is there. */
  readonly attached: boolean;
  /** Whether the uplink has been away for longer than a reconnect takes. */
  readonly away: boolean;
  /** Whether the site deadline is over. */
  readonly due: boolean;
  /** Whether the upstream has closed the round. */
  readonly closed: boolean;
  /** Whether the session has gone on here, or will not: no further stretch begins. */
  readonly over: boolean;
};

export type CycleEvent =
  /** A site round is over and what it brought is durable. `present`: some of the roster is here. */
  | { readonly type: "sealed"; readonly contributors: number; readonly present: boolean }
  | { readonly type: "attached"; readonly present: boolean }
  | { readonly type: "detached"; readonly present: boolean }
  /** The site deadline of the cloud's round. */
  | { readonly type: "due" }
  /** The upstream closed the round. */
  | { readonly type: "closed"; readonly present: boolean }
  /** The session's next training round is to open here, or there will be none. */
  | { readonly type: "over" }
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
  /**
   * Hand over the stretch that there is, up to site round `number`; of all site rounds `done` have
   * contributed. `last`: nothing follows it.
   */
  | {
      readonly type: "compose";
      readonly number: number;
      readonly done: number;
      readonly last: boolean;
    }
  /** All was handed over, and nothing follows. */
  | { readonly type: "end" };

export type CycleStep = { readonly state: CycleState; readonly effects: readonly CycleEffect[] };

export type CycleOpening = Pick<
  CycleState,
  "siteRounds" | "offlineSiteRounds" | "finishFirst" | "attached" | "due"
> & {
  readonly present: boolean;
  /** What is known from before a restart; `running` when site round `number` goes on. */
  readonly done?: number;
  readonly handed?: number | undefined;
  readonly number?: number;
  readonly running?: boolean;
};

export function openCycle(opening: CycleOpening): CycleStep {
  const { present, done = 0, handed, number = 0, running = false, ...rest } = opening;
  const state: CycleState = {
    ...rest,
    done,
    handed,
    number,
    empty: 0,
    phase: "running",
    away: false,
    closed: false,
    over: false,
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
      const done = state.handed !== undefined || state.due || state.done >= state.siteRounds;
      return done && !state.finishFirst ? cut(back) : { state: back, effects: [] };
    }
    case "detached": {
      const gone = { ...state, attached: false };
      return state.phase === "handed"
        ? goOn(gone, event.present, false)
        : { ...still, state: gone };
    }
    case "due": {
      const late = { ...state, due: true };
      const cuts = state.phase === "running" && state.handed === undefined && !mayGrow(state);
      return cuts ? cut(late) : { ...still, state: late };
    }
    case "closed": {
      // What goes up after the first stretch is late anyway.
      if (state.finishFirst || state.handed !== undefined) return still;
      const closed = { ...state, closed: true };
      return state.phase === "running" ? cut(closed) : handOver(closed, event.present);
    }
    case "over": {
      const over = { ...state, over: true };
      const running = state.phase === "running";
      // Where a round is finished first, what comes after it waits.
      if (state.finishFirst && (running || state.handed === undefined))
        return { ...still, state: over };
      return running ? cut(over) : handOver(over, false);
    }
    case "connected":
      return state.phase === "absent" ? goOn(state, true, false) : still;
    case "stuck":
      return handOver({ ...state, over: true }, false);
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

function open(state: CycleState): CycleStep {
  const number = state.number + 1;
  return { state: { ...state, number, phase: "running" }, effects: [{ type: "open", number }] };
}

function pause(state: CycleState, why: "grace" | "empty"): CycleStep {
  return { state: { ...state, phase: "paused" }, effects: [{ type: "pause", why }] };
}

/** The first stretch is handed over empty, too; of a later one then nothing is said. */
function handOver(state: CycleState, present: boolean): CycleStep {
  const { number, done } = state;
  const last = state.over || state.offlineSiteRounds === 0 || done >= siteRoundsMax(state);
  const given = done > (state.handed ?? -1);
  const compose = given ? [{ type: "compose", number, done, last } as const] : [];
  const after: CycleState = { ...state, handed: done, empty: 0, phase: last ? "ended" : "handed" };
  if (last) return { state: after, effects: given ? compose : [{ type: "end" }] };
  const next = state.attached ? { state: after, effects: [] } : goOnOffline(after, present, false);
  return { state: next.state, effects: [...compose, ...next.effects] };
}

/** What follows when no site round runs. `waited`: a pause has just ended. */
function goOn(state: CycleState, present: boolean, waited: boolean): CycleStep {
  const used = state.done >= siteRoundsMax(state);
  if (state.handed !== undefined) {
    const ends = state.over || used || state.attached;
    return ends ? handOver(state, present) : goOnOffline(state, present, waited);
  }
  if (state.closed || (state.over && !state.finishFirst) || used) return handOver(state, present);
  if (mayGrow(state)) return goOnOffline(state, present, waited);
  const enough = state.due || state.done >= state.siteRounds;
  return enough || state.empty > 0 ? handOver(state, present) : open(state);
}

/** The uplink is away, and the allowance not used up. */
function goOnOffline(state: CycleState, present: boolean, waited: boolean): CycleStep {
  if (!present) return { state: { ...state, phase: "absent" }, effects: [] };
  if (state.empty > 0 && !waited) return pause(state, "empty");
  const enough = state.handed !== undefined || state.due || state.done >= state.siteRounds;
  // An uplink that is only reconnecting is no reason to train beyond the plan.
  if (enough && !state.away) return pause(state, "grace");
  return open(state);
}
