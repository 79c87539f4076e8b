import type { RoundProgress } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import type { LeafRound } from "./leaf-round.js";
import { countRound } from "./round.js";
import type { SiteRounds } from "./site-rounds.js";
import type { SealedRecord } from "./store.js";

/** A round of the cloud's that is open here: one round with the devices, or site rounds. */
export type OpenRound = {
  readonly plan: Plan;
  readonly leaf?: LeafRound;
  readonly cycle?: SiteRounds;
};

/** What a round ended with. */
export const countsOf = ({ round, offered, folded, declined }: Omit<SealedRecord, "order">) => ({
  round,
  offered,
  folded,
  declined,
});

/** Of a round that is open. */
export function progressOf({ plan, leaf, cycle }: OpenRound): RoundProgress {
  if (cycle !== undefined) return cycle.progress();
  const counts =
    leaf === undefined ? { offered: 0, folded: 0, declined: 0 } : countRound(leaf.state);
  return { round: plan.round, ...counts, sealed: leaf?.state.phase === "sealed" };
}
