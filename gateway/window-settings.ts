import { createTask, validateDetailed } from "node-cron";
import { z } from "zod";
import { limits } from "./limits.js";

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;

const windowSchema = z.strictObject({
  /** When it begins: five cron fields, so at whole minutes. */
  cron: z.string().superRefine((cron, context) => {
    const problem = cronProblem(cron);
    if (problem !== undefined) context.addIssue({ code: "custom", message: problem });
  }),
  /** How long it lasts, in milliseconds. */
  durationMs: z
    .number()
    .int()
    .min(MINUTE_MS)
    .max(7 * DAY_MS),
});

export type UplinkWindow = z.infer<typeof windowSchema>;

const ALWAYS = "always open: leave windows out";

/** When a gateway may use its uplink; always, where no window is set. */
export const windowsSchema = {
  windows: z
    .array(windowSchema)
    .max(limits.uplinkWindows)
    .default([])
    .superRefine((windows, context) => {
      if (windows.some(({ cron }) => cronProblem(cron) !== undefined)) return; // said already
      const alone = windows.findIndex((window) => isAlwaysOpen([window]));
      if (alone >= 0) {
        const message = `it begins again before it is over, so the uplink is ${ALWAYS}`;
        context.addIssue({ code: "custom", message, path: [alone, "durationMs"] });
      } else if (windows.length > 1 && isAlwaysOpen(windows)) {
        const message = `one begins before the others are over, so the uplink is ${ALWAYS}`;
        context.addIssue({ code: "custom", message });
      }
    }),
  /** Time zone of the cron fields, as IANA names it; the computer's own when left out. */
  timezone: z.string().refine(isTimezone, { message: "must be an IANA time zone" }).optional(),
};

function cronProblem(cron: string): string | undefined {
  const { valid, errors } = validateDetailed(cron);
  if (!valid) return errors.map(({ message }) => message).join("; ");
  // node-cron takes a sixth field, for seconds, in front.
  if (cron.trim().split(/\s+/).length !== 5) return "must have five fields, for whole minutes";
  return beginsEver(cron) ? undefined : "never begins";
}

function beginsEver(cron: string): boolean {
  const task = createTask(cron, () => {});
  try {
    return task.getNextRuns(1).length > 0;
  } catch {
    return false; // no such day in a hundred years
  } finally {
    void task.destroy();
  }
}

function isTimezone(name: string): boolean {
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

/** Four years have every day that a year can have: 1 January 2028 is the first of a leap year. */
const LOOK_FROM_MS = Date.UTC(2028, 0, 1);
const LOOK_DAYS = 4 * 365 + 1;

/**
 * Whether the windows together are never shut once the first has begun. Judged by the calendar,
 * with days of 24 hours: a day that a change of the clock makes longer opens no gap that counts.
 */
function isAlwaysOpen(windows: readonly UplinkWindow[]): boolean {
  const starts = windows.map(({ cron, durationMs }) => ({ durationMs, ofDay: startsOfDay(cron) }));
  let untilMs: number | undefined;
  for (let day = 0; day < LOOK_DAYS; day++) {
    const dayMs = LOOK_FROM_MS + day * DAY_MS;
    const begun = starts
      .flatMap(({ durationMs, ofDay }) => ofDay(dayMs).map((atMs) => ({ atMs, durationMs })))
      .sort((a, b) => a.atMs - b.atMs);
    for (const { atMs, durationMs } of begun) {
      if (untilMs !== undefined && atMs > untilMs) return false;
      untilMs = Math.max(untilMs ?? 0, atMs + durationMs);
    }
  }
  return untilMs !== undefined && untilMs >= LOOK_FROM_MS + LOOK_DAYS * DAY_MS;
}

/** When a window begins on a day, in milliseconds of UTC as if that were its time zone. */
function startsOfDay(cron: string): (dayMs: number) => number[] {
  const { hour = [], minute = [] } = validateDetailed(cron).fields ?? {};
  const offsets = hour.flatMap((h) => minute.map((m) => (h * 60 + m) * MINUTE_MS));
  const task = createTask(cron, () => {}, { timezone: "UTC" });
  void task.destroy();
  return (dayMs) =>
    task.match(new Date(dayMs + (offsets[0] ?? 0))) ? offsets.map((ms) => dayMs + ms) : [];
}
