import type { Clock } from "@tributary/proto/host/clock.js";
import type { GatewayEvent } from "./events.js";
import { limits } from "./limits.js";
import { isSiteId } from "./site-plan.js";

type End = {
  readonly atMs: number; // on the monotonic clock
  readonly outcome: string;
  readonly rule: string;
  readonly round: string;
  readonly bytes: number | null;
};

/** What a gateway's own events tell of its link and of what became of its Partials. */
export type StatusRecord = {
  note(event: GatewayEvent): void;
  link(): {
    readonly attached: boolean;
    readonly sinceMs: number;
    readonly upstream: string | null;
    readonly reason: string | null;
  };
  /** Newest first. */
  ends(): readonly (Omit<End, "atMs"> & { readonly agoMs: number })[];
  /** Whether a round ended here since the start; of the newest. */
  ended(round: string): boolean;
  /** Bytes a second of the last deliveries, while there was something to send; undefined before any. */
  deliveryRate(): number | undefined;
};

export function createStatusRecord(clock: Clock): StatusRecord {
  let attached = false;
  let sinceMs = clock.monotonicMs();
  let upstream: string | null = null;
  let reason: string | null = null;
  const ends: End[] = [];
  const rounds = new Set<string>();
  const deliveries: { readonly bytes: number; readonly ms: number }[] = [];
  /** When sending what was delivered last can have begun. */
  let sendingMs = sinceMs;

  function end(outcome: string, rule: string, round: string, bytes: number | null): void {
    ends.unshift({ atMs: clock.monotonicMs(), outcome, rule, round, bytes });
    ends.length = Math.min(ends.length, limits.statusEnds);
  }

  function endRound(round: string): void {
    rounds.add(round);
    const [oldest] = rounds;
    if (rounds.size > limits.ledgerRounds && oldest !== undefined) rounds.delete(oldest);
  }

  return {
    note(event) {
      const nowMs = clock.monotonicMs();
      switch (event.name) {
        case "uplink-attached":
          attached = true;
          sinceMs = nowMs;
          sendingMs = nowMs;
          upstream = event.upstream;
          return;
        case "uplink-lost":
          if (attached) sinceMs = nowMs;
          attached = false;
          reason = event.reason;
          return;
        case "round-sealed":
          if (!isSiteId(event.round)) endRound(event.round);
          sendingMs = nowMs;
          return;
        case "site-rounds-composed":
        case "branch-complete":
          return endRound(event.round);
        case "partial-delivered": {
          end(event.outcome, event.rule, event.round, event.bytes);
          deliveries.push({ bytes: event.bytes, ms: nowMs - sendingMs });
          if (deliveries.length > limits.statusDeliveries) deliveries.shift();
          sendingMs = nowMs;
          return;
        }
        case "partial-refused":
          return end("refused", event.code, event.round, null);
        default: // the rest says nothing about them
      }
    },
    link: () => ({
      attached,
      sinceMs: Math.round(clock.monotonicMs() - sinceMs),
      upstream,
      reason,
    }),
    ends: () =>
      ends.map(({ atMs, ...rest }) => ({ ...rest, agoMs: Math.round(clock.monotonicMs() - atMs) })),
    ended: (round) => rounds.has(round),
    deliveryRate() {
      const ms = deliveries.reduce((sum, delivery) => sum + delivery.ms, 0);
      const bytes = deliveries.reduce((sum, delivery) => sum + delivery.bytes, 0);
      return ms > 0 && bytes > 0 ? (1_000 * bytes) / ms : undefined;
    },
  };
}
