import type { Plan } from "@tributary/proto/wire/plan.js";
import type { CycleState } from "./site-cycle.js";

/**
 * Why no device of this site is asked for anything. `unasked`: no round was opened here. `next-round`:
 * it waits for the session's next. Of a site that is cut off from the cloud: `reconnecting`, it gives
 * the link a moment before it trains on; `absent`, none of the round's devices is here; `unanswered`,
 * nobody contributed to its last site round, and it asks again after a while; `allowance`, it ran all
 * site rounds that the plan allows without a link; `not-allowed`, the plan allows none; `link`, the
 * rounds that it knows of are over here, and the next one comes with the link.
 */
export type Idle = {
  readonly why: (typeof idleReasons)[number];
  /** The newest round that it knows of. */
  readonly round: string | null;
};

export const idleReasons = [
  "unasked",
  "next-round",
  "reconnecting",
  "absent",
  "unanswered",
  "allowance",
  "not-allowed",
  "link",
] as const;

/** The site rounds of a round. */
export type CycleStanding = {
  readonly round: string;
  readonly phase: CycleState["phase"];
  /** Site rounds in a row that nobody contributed to. */
  readonly empty: number;
};

export type EndedRound = Pick<Plan, "session" | "round" | "offlineSiteRounds">;

export type IdleSources = {
  /** Whether some round asks devices here. */
  readonly asking: boolean;
  /** Whether the way to the cloud is there. */
  readonly attached: boolean;
  readonly cycles: readonly CycleStanding[];
  /** The training round that ended here last, for good. */
  readonly ended: EndedRound | undefined;
};

/** Undefined while some devices are asked. */
export function idleOf({ asking, attached, cycles, ended }: IdleSources): Idle | undefined {
  if (asking) return undefined;
  const cycle = cycles.at(-1);
  if (cycle !== undefined && cycle.phase !== "ended") {
    const { round, phase, empty } = cycle;
    if (phase === "running") return undefined;
    if (attached || phase === "handed") return { why: "next-round", round };
    if (phase === "absent") return { why: "absent", round };
    return { why: empty > 0 ? "unanswered" : "reconnecting", round };
  }
  if (ended === undefined) return { why: "unasked", round: null };
  const { round, offlineSiteRounds } = ended;
  if (attached) return { why: "next-round", round };
  return { why: offlineSiteRounds > 0 ? "allowance" : "not-allowed", round };
}

export type FullIdleSources = {
  /** Of the devices here. */
  readonly own: Idle | undefined;
  /** As the status lists them. */
  readonly rounds: readonly { readonly sealed: boolean; readonly atWork: readonly string[] }[];
  /** All that are known of, the newest last. */
  readonly known: readonly string[];
  readonly attached: boolean;
};

/** Of the gateway with all that is below it: one that has others at work is not idle. */
export function fullIdleOf({ own, rounds, known, attached }: FullIdleSources): Idle | undefined {
  if (rounds.some(({ sealed, atWork }) => !sealed || atWork.length > 0)) return undefined;
  const round = known.at(-1);
  // Its own devices may never have been asked, or so long ago that only results tell of it.
  if (own?.why !== "unasked" || round === undefined) return own;
  return { why: attached ? "next-round" : "link", round };
}
