import type { Clock } from "@tributary/proto/host/clock.js";
import type { GatewayConfig } from "./config.js";
import type { SiteTime } from "./site-time.js";
import type { FillRate } from "./status-rate.js";
import type { StatusRecord } from "./status-record.js";
import type { StatusView } from "./status-view.js";

/** Where what a gateway says about itself comes from. */
export type StatusSources = {
  readonly config: Pick<
    GatewayConfig,
    "gateway" | "site" | "upstream" | "budgetBytes" | "reserveDiskBytes"
  >;
  readonly incarnation: string;
  readonly softwareVersion: string;
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly time: SiteTime;
  readonly record: StatusRecord;
  readonly rate: Pick<FillRate, "view">;
  readonly outbox: { readonly count: number; readonly bytes: number; oldestAgeMs(): number };
  /** What of those bytes is upstream already. */
  readonly sentBytes?: () => number;
  /** What the budget counts as used, and as promised to open rounds, in bytes. */
  readonly used: () => { readonly usedBytes: number; readonly promisedBytes: number };
  /** Where there are classes with budgets of their own. */
  readonly classes?: () => StatusView["waiting"]["classes"];
  readonly roundTripMs: () => number | undefined;
  /** See `StatusView.link.nextWindowMs`. */
  readonly nextWindowMs?: () => number | null;
  /** See `StatusView.link.brokenAbove`. */
  readonly brokenAbove?: () => StatusView["link"]["brokenAbove"];
  readonly idle?: () => StatusView["idle"] | undefined;
  /** The byte rate that an operator has set. */
  readonly bytesPerSecondMax?: number | undefined;
  readonly rounds: () => StatusView["rounds"];
  readonly devices: () => number;
  readonly gatewaysBelow: () => readonly string[];
  readonly denylist?: () => StatusView["denylist"];
  readonly security?: () => StatusView["security"];
  readonly replies: () => {
    readonly refusals: ReadonlyMap<string, number>;
    readonly duplicates: number;
  };
  readonly freeBytes: () => number;
};

const LAST_DATE_MS = 8.64e15;

/** The view of this moment. */
export function viewStatus(sources: StatusSources, startedMs: number): StatusView {
  const { config, time, record, outbox } = sources;
  const { budgetBytes, reserveDiskBytes } = config;
  const { refusals, duplicates } = sources.replies();
  const { usedBytes, promisedBytes } = sources.used();
  const waitingBytes = outbox.bytes;
  return {
    gateway: config.gateway,
    site: config.site,
    incarnation: sources.incarnation,
    softwareVersion: sources.softwareVersion,
    upMs: Math.round(sources.clock.monotonicMs() - startedMs),
    link: {
      ...record.link(),
      address: config.upstream,
      roundTripMs: sources.roundTripMs() ?? null,
      nextWindowMs: sources.nextWindowMs?.() ?? null,
      brokenAbove: sources.brokenAbove?.() ?? null,
    },
    waiting: {
      partials: outbox.count,
      bytes: waitingBytes,
      oldestAgeMs: Math.round(outbox.oldestAgeMs()),
      classes: sources.classes?.() ?? [],
    },
    budget: { bytes: budgetBytes, usedBytes, promisedBytes },
    rate: viewRate(sources, budgetBytes - usedBytes - promisedBytes),
    drain: viewDrain(sources, Math.max(0, waitingBytes - (sources.sentBytes?.() ?? 0))),
    rounds: sources.rounds(),
    idle: sources.idle?.() ?? null,
    devices: sources.devices(),
    gatewaysBelow: [...sources.gatewaysBelow()],
    refusals: Object.fromEntries(refusals),
    duplicates,
    disk: { freeBytes: sources.freeBytes(), reserveBytes: reserveDiskBytes },
    clock: {
      trusted: time.trusted,
      now: dateOf(time.nowMs()),
      floor: dateOf(time.floorMs()),
      offsetMs: Math.round(time.offsetMs),
    },
    denylist: sources.denylist?.() ?? null,
    security: sources.security?.() ?? { mode: "plain", certificateEnds: null },
    ends: [...record.ends()],
  };
}

function viewRate({ rate }: StatusSources, roomBytes: number): StatusView["rate"] {
  const { measuredMs, bytesPerHour } = rate.view();
  const known = bytesPerHour !== undefined && bytesPerHour > 0;
  return {
    measuredMs,
    bytesPerHour: bytesPerHour === undefined ? null : Math.round(bytesPerHour),
    hoursUntilFull: known ? Math.max(0, roomBytes) / bytesPerHour : null,
  };
}

/** A rate that was set bounds one that was measured. */
function viewDrain(sources: StatusSources, bytes: number): StatusView["drain"] {
  const measured = sources.record.deliveryRate();
  const set = sources.bytesPerSecondMax;
  const bytesPerSecond = set === undefined ? measured : Math.min(set, measured ?? set);
  if (bytesPerSecond === undefined) {
    return { bytesPerSecond: null, basis: "unknown", ms: bytes === 0 ? 0 : null };
  }
  const basis = measured === undefined || bytesPerSecond < measured ? "configured" : "measured";
  const ms = Math.round((1_000 * bytes) / bytesPerSecond);
  return { bytesPerSecond: Math.max(1, Math.round(bytesPerSecond)), basis, ms };
}

function dateOf(ms: number): string {
  return new Date(Math.min(ms, LAST_DATE_MS)).toISOString();
}
