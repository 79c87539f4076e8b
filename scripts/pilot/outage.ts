import { InvalidArgumentError } from "commander";

const units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** An outage as it was asked for, and how long it lasts in the run. */
export type Outage = {
  /** As the user wrote it, such as `10m`. */
  readonly asked: string;
  readonly askedMs: number;
  readonly lastsMs: number;
  /** askedMs / lastsMs: how many times faster than the clock outages run. */
  readonly scale: number;
};

const ASKED_MAX_MS = 30 * units.d;
/**
 * An outage of so long is run as it is, and longer ones are no shorter: a gateway waits five seconds
 * for its uplink before it trains on its own, and a round of a site takes some seconds more.
 */
const UNSCALED_MS = 20_000;
/** The scale of most outages. */
const SCALE = 30;
/** No outage takes longer of a run, so longer ones run faster still. */
const LASTS_MAX_MS = 40_000;

/**
 * Reads a duration: a number and its unit, one of ms, s, m, h and d. Throws commander's
 * InvalidArgumentError.
 */
export function readOutage(text: string): Outage {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text) ?? [];
  const askedMs = Number(number) * units[unit as keyof typeof units];
  if (!(askedMs >= units.s && askedMs <= ASKED_MAX_MS))
    throw new InvalidArgumentError("It must be a duration from 1s to 30d, such as 10m or 6h.");
  const scaledMs = Math.min(LASTS_MAX_MS, Math.max(UNSCALED_MS, askedMs / SCALE));
  const lastsMs = Math.min(askedMs, scaledMs);
  return { asked: text, askedMs, lastsMs, scale: askedMs / lastsMs };
}

/** What the scale means, for whoever reads a report. */
export function outageNote({ asked, lastsMs, scale }: Outage): string {
  const seconds = `${Number((lastsMs / 1_000).toFixed(1))} s`;
  if (scale === 1) return `An outage of ${asked}, in real time.`;
  return (
    `An outage of ${asked}, run ${Number(scale.toPrecision(3))} times faster than the clock: the uplink is away for ` +
    `${seconds}. Only the outage is scaled. Training, deadlines, heartbeats and backoffs take their own ` +
    `time, so the site does in ${seconds} what ${seconds} allow, and not the work of ${asked}.`
  );
}
