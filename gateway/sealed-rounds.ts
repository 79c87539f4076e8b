import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import { limits } from "./limits.js";
import { type RoundState, stepRound } from "./round.js";
import { isSiteId } from "./site-plan.js";
import type { SealedRecord } from "./store.js";

type Sealed = Omit<SealedRecord, "order">;

/**
 * What is still known of rounds that have sealed, the cloud's and the site's. Bounded by the ledger,
 * which keeps as many of each: the oldest are forgotten.
 */
export type SealedRounds = {
  add(record: Sealed): void;
  get(round: string): Sealed | undefined;
  /** The highest number of a site round of this round; 0 for none. */
  newestSiteRound(round: string): number;
  /** Keeps the end state of a round whose devices may still be at work on it. */
  keepState(state: RoundState): void;
  /** Rounds that this device was offered, did not answer, and that are over. */
  dismissing(device: string): string[];
  closeUpstream(round: string): void;
  /** The upstream asks for a round anew: it did not hear how it ended. */
  reopenUpstream(round: string): void;
  /** Those of the cloud that the upstream has not closed. */
  awaited(): Sealed[];
};

/** @param known oldest first */
export function createSealedRounds(known: readonly Sealed[]): SealedRounds {
  // The many site rounds of a long outage must not push out the cloud's rounds.
  const [site, cloud] = [true, false].map(
    (ofSite) =>
      new Map(
        known.filter(({ round }) => isSiteId(round) === ofSite).map((r) => [r.round, r] as const),
      ),
  ) as [Map<string, Sealed>, Map<string, Sealed>];
  const recordsOf = (round: string) => (isSiteId(round) ? site : cloud);
  const states = new Map<string, RoundState>();
  const closed = new Set<string>();

  /** Drops the oldest of a map or set that has grown past its bound. */
  function shrink(
    kept: { keys(): Iterable<string>; readonly size: number; delete(key: string): boolean },
    most: number,
  ): void {
    for (const oldest of kept.keys()) {
      if (kept.size <= most) break;
      kept.delete(oldest);
    }
  }
  return {
    add(record) {
      const records = recordsOf(record.round);
      records.set(record.round, record);
      shrink(records, limits.ledgerRounds);
    },
    get: (round) => recordsOf(round).get(round),
    newestSiteRound(round) {
      const numbers = [...site.keys()].map((id) => {
        const { session, number, site: k = 0 } = splitNumberedId(id) ?? {};
        return `${session}.${number}` === round ? k : 0;
      });
      return Math.max(0, ...numbers);
    },
    keepState(state) {
      states.set(state.round, state);
      shrink(states, limits.openRounds);
    },
    dismissing(device) {
      const over = [...states.values()].filter(
        (state) => stepRound(state, { type: "connected", device }).effects.length > 0,
      );
      return over.map(({ round }) => round);
    },
    closeUpstream(round) {
      closed.add(round);
      // Open rounds may be closed upstream before they have sealed here.
      shrink(closed, limits.ledgerRounds + limits.openRounds);
    },
    reopenUpstream(round) {
      closed.delete(round);
    },
    awaited: () => [...cloud.values()].filter(({ round }) => !closed.has(round)),
  };
}
