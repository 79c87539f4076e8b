import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { z } from "zod";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import type { SiteTime, TimeStore } from "./site-time.js";

const HOUR_MS = 3_600_000;
const DAY_HOURS = 24;
const NOTE = "rate";

const noteSchema = z.object({
  /** The logical time from which hours were counted. */
  sinceMs: z.number(),
  /** What was buffered, by hour of logical time; negative where more was merged than came. */
  hours: z.array(z.object({ hour: z.number().int(), bytes: z.number() })).max(DAY_HOURS + 1),
});

/**
 * How fast the buffer fills: what it grew by and what left it for the upstream, by hour of the
 * site's time over the last 24, kept over a restart. Merging lowers it, as it lowers what waits.
 */
export type FillRate = {
  /** So much left the buffer for the upstream. */
  left(bytes: number): void;
  /** `bytesPerHour` is undefined before an hour was measured. */
  view(): { readonly measuredMs: number; readonly bytesPerHour: number | undefined };
  close(): Promise<void>;
};

export type FillRateOptions = {
  readonly store: TimeStore;
  readonly time: Pick<SiteTime, "logicalMs">;
  readonly clock: Clock;
  readonly usedBytes: () => number;
  readonly events: GatewayEvents;
};

export async function openFillRate(options: FillRateOptions): Promise<FillRate> {
  const { store, time, clock, usedBytes, events } = options;
  const note = await store.readNote(NOTE, noteSchema);
  const sinceMs = note?.sinceMs ?? time.logicalMs();
  const hours = new Map(note?.hours.map(({ hour, bytes }) => [hour, bytes]));
  let lastBytes = usedBytes();
  let timer: Timer | undefined;
  let closed = false;

  /** Counts what changed since the last time; sums telescope, so it matters little when. */
  function count(bytes: number): void {
    const now = Math.floor(time.logicalMs() / HOUR_MS);
    hours.set(now, (hours.get(now) ?? 0) + bytes);
    for (const hour of hours.keys()) if (hour <= now - DAY_HOURS) hours.delete(hour);
  }
  function look(): void {
    const bytes = usedBytes();
    count(bytes - lastBytes);
    lastBytes = bytes;
  }

  async function write(sync: boolean): Promise<void> {
    const kept = [...hours].map(([hour, bytes]) => ({ hour, bytes }));
    await store.putNote(NOTE, { sinceMs, hours: kept }, { sync }).catch((cause: unknown) => {
      const message = cause instanceof Error ? cause.message : String(cause);
      events({ level: "error", name: "storage-failed", what: "rate", message });
    });
  }

  function schedule(): void {
    timer = clock.setTimer(limits.rateWriteMs, () => {
      look();
      void write(false);
      schedule();
    });
  }

  schedule();
  return {
    left(bytes) {
      look();
      count(bytes);
    },
    view() {
      look();
      const nowMs = time.logicalMs();
      // The oldest hour counts whole, and the running one as far as it has come.
      const firstMs = (Math.floor(nowMs / HOUR_MS) - DAY_HOURS + 1) * HOUR_MS;
      const measuredMs = Math.max(0, nowMs - Math.max(firstMs, sinceMs));
      if (measuredMs < HOUR_MS) return { measuredMs, bytesPerHour: undefined };
      const sum = [...hours.values()].reduce((all, bytes) => all + bytes, 0);
      return { measuredMs, bytesPerHour: Math.max(0, (sum * HOUR_MS) / measuredMs) };
    },
    async close() {
      if (closed) return;
      closed = true;
      timer?.cancel();
      look();
      await write(true);
    },
  };
}
