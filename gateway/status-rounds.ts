import type { RoundProgress } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { StatusView } from "./status-view.js";

export type RoundSources = {
  /** Of all that the upstream has not closed, as far as this gateway has heard. */
  readonly progress: Iterable<RoundProgress>;
  /** Gateways below that may be at work on a round. */
  readonly atWork: (round: string) => readonly string[];
  /** Whether the round ended here since the start. */
  readonly ended: (round: string) => boolean;
  /** Rounds with contributions in the outbox. */
  readonly waiting: Iterable<string>;
};

/**
 * Rounds that concern somebody: those that run, and of those that are over the ones that ended since
 * the start or whose result is still here. A gateway keeps the ends of more, which it had before.
 */
export function viewRounds(sources: RoundSources): StatusView["rounds"] {
  const waiting = new Set(sources.waiting);
  return [...sources.progress]
    .filter(({ round, sealed }) => !sealed || sources.ended(round) || waiting.has(round))
    .map(({ round, offered, folded, declined, sealed }) => ({
      ...{ round, offered, folded, declined, sealed },
      atWork: sealed ? [...sources.atWork(round)] : [],
    }));
}
