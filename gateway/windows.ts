import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { createTask, type ScheduledTask } from "node-cron";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import type { SiteTime } from "./site-time.js";
import type { UplinkWindow } from "./window-settings.js";

const MINUTE_MS = 60_000;

/** Whether the uplink may be used now. */
export type Windows = {
  readonly open: boolean;
  /** Until the next one begins, by the computer's clock; 0 in one, null where none is set. */
  nextMs(): number | null;
  start(): void;
  close(): void;
};

export type WindowsOptions = {
  readonly windows: readonly UplinkWindow[];
  readonly timezone?: string | undefined;
  readonly clock: Pick<Clock, "setTimer">;
  /** Wall-clock time as far as it can be trusted; undefined while it cannot. */
  readonly trustedMs: () => number | undefined;
  readonly onChange: (open: boolean) => void;
  readonly events: GatewayEvents;
};

/**
 * Opens and shuts the uplink by its windows. Several that overlap are one. While no time can be
 * trusted they do not apply: the uplink is open, which is also how a gateway learns the time. When
 * a window begins is node-cron's to say, minute by minute: it has no question for the beginning
 * before a moment. So a window that would begin in the hour that spring leaves out does not open
 * that day, and one in the hour that autumn repeats opens in both.
 */
export function createWindows(options: WindowsOptions): Windows {
  const { windows, timezone, clock, trustedMs, events } = options;
  const seen = windows.map(({ cron, durationMs }) => {
    const task = createTask(cron, () => {}, timezone === undefined ? {} : { timezone });
    return { durationMs, task, begun: lastBeginning(task, durationMs) };
  });
  let open = true;
  let timer: Timer | undefined;

  function openUntilMs(nowMs: number): number {
    return seen.reduce((latest, { durationMs, begun }) => {
      const atMs = begun(nowMs);
      return atMs === undefined ? latest : Math.max(latest, atMs + durationMs);
    }, Number.NEGATIVE_INFINITY);
  }

  function tick(): void {
    const nowMs = trustedMs();
    const untilMs = nowMs === undefined ? Number.POSITIVE_INFINITY : openUntilMs(nowMs);
    const isOpen = nowMs === undefined || nowMs < untilMs;
    // A window ends anywhere in a minute; a step of the clock shows at the next one.
    const toMinuteMs = nowMs === undefined ? MINUTE_MS : MINUTE_MS - (nowMs % MINUTE_MS);
    const toEndMs = nowMs === undefined || !isOpen ? MINUTE_MS : untilMs - nowMs;
    timer = clock.setTimer(Math.max(1, Math.min(toMinuteMs, toEndMs)), tick);
    if (isOpen === open) return;
    open = isOpen;
    events({ level: "info", name: "uplink-window", open, trusted: nowMs !== undefined });
    options.onChange(open);
  }

  return {
    get open() {
      return open;
    },
    nextMs() {
      if (seen.length === 0) return null;
      if (open) return 0;
      const next = seen.flatMap(({ task }) => task.getNextRuns(1).map((date) => date.getTime()));
      return Math.max(0, Math.min(...next) - Date.now());
    },
    start() {
      if (seen.length > 0) tick();
    },
    close() {
      timer?.cancel();
      for (const { task } of seen) void task.destroy();
    },
  };
}

/** What comes down while the uplink may be used; it breaks off in the middle when that ends. */
export async function* whileOpen<T>(
  messages: AsyncIterable<T>,
  open: () => boolean,
): AsyncGenerator<T> {
  for await (const message of messages) {
    if (!open()) throw new TributaryError("link-failed", "the uplink is shut", { retryable: true });
    yield message;
  }
}

/**
 * The time that windows go by: the upstream's, advanced, where it was heard since the start, else
 * the wall clock; undefined while that shows a time before the floor, and so cannot be right.
 */
export function windowTimeMs(
  time: Pick<SiteTime, "upstreamMs" | "floorMs">,
  clock: Pick<Clock, "nowMs">,
): number | undefined {
  const heardMs = time.upstreamMs();
  if (heardMs !== undefined) return heardMs;
  const wallMs = clock.nowMs();
  return wallMs < time.floorMs() - limits.clockSkewMs ? undefined : wallMs;
}

/**
 * The newest beginning at most `durationMs` before a moment; looks only at minutes that it has not
 * seen, as long as time goes on.
 */
function lastBeginning(task: ScheduledTask, durationMs: number) {
  let seenToMs = Number.NEGATIVE_INFINITY;
  let begunMs: number | undefined;
  return (nowMs: number): number | undefined => {
    const minuteMs = Math.floor(nowMs / MINUTE_MS) * MINUTE_MS;
    if (minuteMs < seenToMs) {
      seenToMs = Number.NEGATIVE_INFINITY;
      begunMs = undefined;
    }
    const oldestMs = Math.max(seenToMs, nowMs - durationMs);
    for (let atMs = minuteMs; atMs > oldestMs; atMs -= MINUTE_MS) {
      if (!task.match(new Date(atMs))) continue;
      begunMs = atMs;
      break;
    }
    seenToMs = minuteMs;
    return begunMs;
  };
}
