import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { z } from "zod";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";

/**
 * Time on a site whose wall clock may be anything: at 1970 after a power cut, a year ahead, or
 * stepped while a round runs. Three times, each for one use:
 *
 * - `logicalMs` for ages and for what is left of a deadline. It advances with the monotonic clock
 *   and is kept over a restart. While the gateway is down it stands still, and catches up as soon
 *   as the upstream has said how long that was. Only its differences mean something. After a
 *   SIGKILL it repeats at most as much as had not been written: half of a short run, and never
 *   more than `limits.timeWriteMs`.
 * - `floorMs`, before which the true time cannot lie: the latest of the build date, the last time
 *   that the upstream said, and both advanced by the monotonic clock, so it is as exact as that
 *   clock's rate. The wall clock never moves it.
 * - `nowMs`, the wall clock, but never before the floor: for what people read.
 */
export type SiteTime = {
  logicalMs(): number;
  floorMs(): number;
  nowMs(): number;
  /** The upstream's time, advanced since it was heard; undefined until it was heard in this run. */
  upstreamMs(): number | undefined;
  /** Whether the wall clock agrees, within `limits.clockSkewMs`, with a time heard in this run. */
  readonly trusted: boolean;
  /**
   * How far the wall clock is ahead of what is known, in milliseconds. Before the upstream's time
   * was heard in this run only a clock before the floor is known to be wrong: then it is negative.
   */
  readonly offsetMs: number;
  /** The upstream said what time it is, in milliseconds since 1970. */
  hear(upstreamMs: number): void;
  /** Writes what is to outlive this process. */
  close(): Promise<void>;
};

/** Where the time is kept. */
export type TimeStore = {
  readNote<S extends z.ZodType>(name: string, schema: S): Promise<z.infer<S> | undefined>;
  putNote(name: string, value: unknown, options: { readonly sync: boolean }): Promise<void>;
};

export type SiteTimeOptions = {
  readonly store: TimeStore;
  readonly clock: Clock;
  readonly events: GatewayEvents;
  /** See `build-date.ts`. */
  readonly buildDateMs: number;
};

const NOTE = "time";
/** Past the last date that there is (ECMA-262, 21.4.1.1). */
const LAST_DATE_MS = 8.64e15;

const noteSchema = z.object({
  logicalMs: z.number().min(0),
  floorMs: z.number().min(0),
  /** The upstream's time, advanced to this moment; null when it was never heard. */
  upstreamMs: z.number().nullable(),
});

type Judgement = "unconfirmed" | "behind" | "skewed" | "agrees";

export async function openSiteTime(options: SiteTimeOptions): Promise<SiteTime> {
  const { store, clock, events, buildDateMs } = options;
  const note = await store.readNote(NOTE, noteSchema);
  const startMs = clock.monotonicMs();
  const sinceStartMs = () => clock.monotonicMs() - startMs;

  // Each is a time at `startMs`, so that adding what has passed since then gives it now.
  let logicalBaseMs = note?.logicalMs ?? Math.max(clock.nowMs(), buildDateMs);
  let floorBaseMs = Math.max(note?.floorMs ?? 0, buildDateMs);
  let latestBaseMs = note?.upstreamMs ?? undefined;
  let heardBaseMs: number | undefined;
  let judged: Judgement = "unconfirmed";

  const floorMs = () => floorBaseMs + sinceStartMs();
  const logicalMs = () => logicalBaseMs + sinceStartMs();
  const upstreamMs = () => (heardBaseMs === undefined ? undefined : heardBaseMs + sinceStartMs());
  const offsetMs = () => clock.nowMs() - (upstreamMs() ?? Math.max(clock.nowMs(), floorMs()));

  function judge(): Judgement {
    const most = limits.clockSkewMs;
    if (heardBaseMs === undefined) return offsetMs() < -most ? "behind" : "unconfirmed";
    return Math.abs(offsetMs()) > most ? "skewed" : "agrees";
  }

  function report(): void {
    const before = judged;
    judged = judge();
    if (judged === before) return;
    const skewMs = Math.round(offsetMs());
    const floor = new Date(Math.min(floorMs(), LAST_DATE_MS)).toISOString();
    if (judged === "behind") {
      events({ level: "warn", name: "clock-untrusted", floor, offsetMs: skewMs });
    } else if (judged === "skewed") {
      events({ level: "warn", name: "clock-skew", offsetMs: skewMs });
    } else if (before !== "unconfirmed") {
      events({ level: "info", name: "clock-agrees", offsetMs: skewMs });
    }
  }

  let closed = false;
  let timer: Timer | undefined;
  let writing: Promise<void> = Promise.resolve();
  // A run that ends soon still moves the time on; a long one writes rarely.
  let waitMs: number = limits.timeFirstWriteMs;

  function write(sync: boolean): Promise<void> {
    const latestMs = latestBaseMs === undefined ? null : latestBaseMs + sinceStartMs();
    const value = { logicalMs: logicalMs(), floorMs: floorMs(), upstreamMs: latestMs };
    writing = writing
      .then(() => store.putNote(NOTE, value, { sync }))
      .catch((cause: unknown) => {
        // The next one tries again; until then a restart would repeat this time.
        const message = cause instanceof Error ? cause.message : String(cause);
        events({ level: "error", name: "storage-failed", what: "time", message });
      });
    return writing;
  }

  function tick(): void {
    report();
    void write(false);
    schedule();
  }

  function schedule(): void {
    timer = clock.setTimer(waitMs, tick);
    waitMs = Math.min(2 * waitMs, limits.timeWriteMs);
  }

  report();
  schedule();
  return {
    logicalMs,
    floorMs,
    nowMs: () => Math.max(clock.nowMs(), floorMs()),
    upstreamMs,
    get trusted() {
      return judge() === "agrees";
    },
    get offsetMs() {
      return offsetMs();
    },
    hear(heardMs) {
      if (closed || !(heardMs > 0 && heardMs <= LAST_DATE_MS)) return;
      const baseMs = heardMs - sinceStartMs();
      // What the upstream's time is ahead of the last one, advanced, has passed unseen: the gateway
      // was down, or its machine slept.
      if (latestBaseMs !== undefined) logicalBaseMs += Math.max(0, baseMs - latestBaseMs);
      latestBaseMs = Math.max(baseMs, latestBaseMs ?? baseMs);
      floorBaseMs = Math.max(baseMs, floorBaseMs);
      const first = heardBaseMs === undefined;
      heardBaseMs = baseMs;
      report();
      // The first one is worth a write at once; what later ones add goes with the next.
      if (first) void write(false);
    },
    async close() {
      if (closed) return;
      closed = true;
      timer?.cancel();
      await write(true);
    },
  };
}
