import type { Heartbeat, Hello } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { isCode } from "@tributary/proto/wire/codes.js";
import { isId } from "@tributary/proto/wire/ids.js";
import { limits } from "./limits.js";
import type { GatewayRow } from "./store/rows.js";

/** The gateways the cloud knows: which are attached now, and what they last said of themselves. */
export type Gateways = {
  /** False when too many are known. */
  attach(hello: Pick<Hello, "gateway" | "site" | "incarnation" | "softwareVersion">): boolean;
  detach(gateway: string): void;
  /** It sent something. */
  seen(gateway: string): void;
  heartbeat(gateway: string, figures: Heartbeat): void;
  attached(gateway: string): boolean;
  siteOf(gateway: string): string | undefined;
  incarnationOf(gateway: string): string | undefined;
  /** Ids of those attached. */
  attachedIds(): string[];
  rows(): GatewayRow[];
  /** Rows changed since the last call. */
  takeChanged(): GatewayRow[];
};

const silent = {
  connectedDevices: 0,
  outboxPartials: 0,
  outboxBytes: 0,
  oldestAgeMs: 0,
  freeDiskBytes: 0,
  refusals: {},
  duplicatesDropped: 0,
  budgetBytes: 0,
  roundTripMs: 0,
  clockOffsetMs: 0,
  classes: {},
};

/** @param known rows of an earlier run; they start detached. */
export function createGateways(clock: Clock, known: readonly GatewayRow[]): Gateways {
  const rows = new Map(known.map((row) => [row.id, { ...row, attached: false }]));
  const changed = new Set<string>();
  const update = (id: string, change: Partial<GatewayRow>) => {
    const row = rows.get(id);
    if (row === undefined) return;
    rows.set(id, { ...row, ...change, lastSeenMs: clock.nowMs() });
    changed.add(id);
  };
  return {
    attach({ gateway, site, incarnation, softwareVersion }) {
      if (!rows.has(gateway)) {
        if (rows.size >= limits.gateways) return false;
        const nowMs = clock.nowMs();
        rows.set(gateway, {
          id: gateway,
          site,
          incarnation,
          softwareVersion,
          attached: true,
          ...silent,
          firstSeenMs: nowMs,
          lastSeenMs: nowMs,
        });
      }
      update(gateway, { site, incarnation, softwareVersion, attached: true });
      return true;
    },
    detach(gateway) {
      update(gateway, { attached: false });
    },
    seen(gateway) {
      update(gateway, {});
    },
    heartbeat(gateway, figures) {
      const refusals = Object.entries(figures.refusals).filter(([code]) => isCode(code));
      update(gateway, {
        connectedDevices: figures.connectedDevices,
        outboxPartials: figures.outboxPartials,
        outboxBytes: whole(figures.outboxBytes),
        oldestAgeMs: whole(figures.oldestAgeMs),
        freeDiskBytes: whole(figures.freeDiskBytes),
        refusals: Object.fromEntries(refusals.map(([code, count]) => [code, whole(count)])),
        duplicatesDropped: whole(figures.duplicatesDropped),
        budgetBytes: whole(figures.budgetBytes),
        roundTripMs: figures.roundTripMs,
        clockOffsetMs: whole(figures.clockOffsetMs),
        classes: classesOf(figures),
      });
    },
    attached: (gateway) => rows.get(gateway)?.attached === true,
    siteOf: (gateway) => rows.get(gateway)?.site,
    incarnationOf: (gateway) => rows.get(gateway)?.incarnation,
    attachedIds: () => [...rows.values()].filter((row) => row.attached).map((row) => row.id),
    rows: () => [...rows.values()],
    takeChanged() {
      const taken = [...changed].map((id) => rows.get(id)).filter((row) => row !== undefined);
      changed.clear();
      return taken;
    },
  };
}

/** Of the names that a newer or a broken gateway makes up, only so many as there is room for. */
function classesOf({ classes }: Heartbeat): GatewayRow["classes"] {
  const known = classes.slice(0, limits.bufferClasses).filter(({ name }) => isId(name));
  return Object.fromEntries(
    known.map(({ name, bytes, budgetBytes, evicted }) => [
      name,
      { bytes: whole(bytes), budgetBytes: whole(budgetBytes), evicted: whole(evicted) },
    ]),
  );
}

/** A 64-bit integer of the wire as a number; what passes 2^53 - 1 is shown as that. */
function whole(value: bigint): number {
  const most = BigInt(Number.MAX_SAFE_INTEGER);
  return Number(value > most ? most : value < -most ? -most : value);
}
