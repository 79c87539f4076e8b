import type { Clock } from "./clock.js";

/** Field values of an event: flat, so that a line of text or JSON shows all of it. */
export type EventFields = Readonly<Record<string, string | number | boolean | undefined>>;

/** What happened, in a tier's closed vocabulary (its `events.ts`). */
export type TierEvent = {
  readonly level: "debug" | "info" | "warn" | "error";
  readonly name: string;
} & EventFields;

/** Where events go. Never throws and never waits: an event may not delay what it reports. */
export type EventSink<E extends TierEvent = TierEvent> = (event: E) => void;

/** Writes each event as one JSON line with its wall-clock time (RFC 3339). */
function jsonLines(clock: Clock, write: (line: string) => void): EventSink {
  return (event) =>
    write(`${JSON.stringify({ time: new Date(clock.nowMs()).toISOString(), ...event })}\n`);
}

/** Writes each event as one readable line: time, level, name, then `field=value`. */
function textLines(clock: Clock, write: (line: string) => void): EventSink {
  return ({ level, name, ...fields }) => {
    const shown = Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(
        ([field, value]) =>
          `${field}=${typeof value === "string" && /\s/.test(value) ? JSON.stringify(value) : value}`,
      );
    const time = new Date(clock.nowMs()).toISOString();
    write(`${[time, level.toUpperCase().padEnd(5), name, ...shown].join(" ")}\n`);
  };
}

/** A tier's event log: JSON or text lines; debug events are for listeners, not for the log. */
export function eventLog(
  format: "text" | "json",
  clock: Clock,
  write: (line: string) => void,
): EventSink {
  const log = format === "json" ? jsonLines(clock, write) : textLines(clock, write);
  return (event) => {
    if (event.level !== "debug") log(event);
  };
}
