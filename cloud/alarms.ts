import type { Clock } from "@tributary/proto/host/clock.js";
import type { CloudEvent } from "./events.js";
import { limits } from "./limits.js";
import type { EventRow } from "./store/rows.js";
import type { Store } from "./store/store.js";

/** Something that a person should look at, by the event that says so and whom it is about. */
export type Alarm = {
  readonly name: string;
  /** The gateway, the session or the part that it is about; null for the cloud itself. */
  readonly about: string | null;
  readonly firstAtMs: number;
  readonly lastAtMs: number;
  /** How often it was raised since the first time. */
  readonly times: number;
  /** The newest event's own fields. */
  readonly fields: EventRow["fields"];
};

export type Alarms = {
  note(event: CloudEvent): void;
  /** Those that last, the newest first. */
  list(): readonly Alarm[];
};

type Noted = Pick<EventRow, "level" | "name" | "fields">;

/** A warning that is an alarm, too: as long as it is away. */
const AWAY = "gateway-detached" satisfies CloudEvent["name"];

/** What ends an alarm, by the event that says so about the same. Others end by themselves. */
const ending: ReadonlyMap<string, readonly CloudEvent["name"][]> = new Map<
  CloudEvent["name"],
  readonly CloudEvent["name"][]
>([
  ["denylist-in-effect", ["denylist-late", "denylist-ahead"]],
  ["gateway-attached", ["gateway-detached"]],
  ["session-started", ["session-failed"]],
  ["session-resumed", ["session-failed"]],
  ["session-finished", ["session-failed"]],
  ["server-renewed", ["server-not-renewed"]],
]);

/**
 * Alarms: every event at the level `error`, and a gateway that is away. One ends when another event says that it is
 * over, or after `limits.alarmMs` without being raised again. They outlive a restart as far as the
 * newest events in the store tell of them.
 */
export async function openAlarms(
  store: Pick<Store, "listEvents">,
  clock: Pick<Clock, "nowMs">,
): Promise<Alarms> {
  const alarms = new Map<string, Alarm>();

  function note({ level, name, fields }: Noted, atMs: number): void {
    const about = aboutOf(fields);
    for (const over of ending.get(name) ?? []) alarms.delete(keyOf(over, about));
    if (level !== "error" && name !== AWAY) return;
    const key = keyOf(name, about);
    const before = alarms.get(key);
    alarms.delete(key);
    alarms.set(key, {
      ...{ name, about, fields, lastAtMs: atMs },
      firstAtMs: before?.firstAtMs ?? atMs,
      times: (before?.times ?? 0) + 1,
    });
    const [oldest] = alarms.keys();
    if (alarms.size > limits.alarms && oldest !== undefined) alarms.delete(oldest);
  }

  const { items } = await store.listEvents({ after: undefined, limit: limits.alarmEvents });
  for (const event of items) note(event, event.atMs);
  return {
    note({ level, name, ...fields }) {
      const shown: Record<string, string | number | boolean> = {};
      for (const [field, value] of Object.entries(fields))
        if (value !== undefined) shown[field] = value;
      note({ level, name, fields: shown }, clock.nowMs());
    },
    list() {
      const sinceMs = clock.nowMs() - limits.alarmMs;
      for (const [key, { lastAtMs }] of alarms) if (lastAtMs < sinceMs) alarms.delete(key);
      return [...alarms.values()].reverse();
    },
  };
}

function keyOf(name: string, about: string | null): string {
  return `${name} ${about}`;
}

function aboutOf({ gateway, session, what, site }: EventRow["fields"]): string | null {
  const about = gateway ?? session ?? what ?? site;
  return about === undefined ? null : String(about);
}
