import type { RoundOpened } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import type { Plan } from "@tributary/proto/wire/plan.js";

type Next = { readonly plan: Plan; readonly opened: RoundOpened };
type Waiting = Next & { readonly sinceMs: number };

/**
 * Openings that wait for their session's present round to end here, or for their base, the newest of
 * each session. In memory only: the upstream opens an open round again whenever the gateway attaches.
 */
export type WaitingRounds = {
  /** Takes the place of an older one; the plan of the one that does not wait any more. */
  add(plan: Plan, opened: RoundOpened): Plan | undefined;
  /** The session's next, and what is left of its time. */
  take(session: string): Next | undefined;
  /** Sessions whose next starts from this model. */
  onBase(digest: string): string[];
  /** The upstream closed it; whether it was here. */
  forget(round: string): boolean;
};

export function createWaitingRounds(clock: Clock): WaitingRounds {
  const waiting = new Map<string, Waiting>();
  return {
    add(plan, opened) {
      const before = waiting.get(plan.session)?.plan;
      waiting.set(plan.session, { plan, opened, sinceMs: clock.monotonicMs() });
      return before?.round === plan.round ? undefined : before;
    },
    take(session) {
      const next = waiting.get(session);
      if (next === undefined) return undefined;
      waiting.delete(session);
      const waitedMs = Math.round(clock.monotonicMs() - next.sinceMs);
      const remainingMs = Math.max(0, next.opened.remainingMs - waitedMs);
      return { plan: next.plan, opened: { ...next.opened, remainingMs } };
    },
    onBase: (digest) =>
      [...waiting]
        .filter(([, { plan }]) => plan.base.digest === digest)
        .map(([session]) => session),
    forget(round) {
      for (const [session, { plan }] of waiting) {
        if (plan.round === round) return waiting.delete(session);
      }
      return false;
    },
  };
}
