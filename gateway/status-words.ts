import type { Idle } from "./idle.js";

/** Figures as a person reads them, standing before the gateway. */

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** `4 s`, `12 min`, `3 h 5 min`, `6 d 2 h`: two units at most, rounded down. */
export function spanOf(ms: number): string {
  const two = (large: number, name: string, small: number, smallName: string): string => {
    const rest = Math.floor((ms % large) / small);
    return `${Math.floor(ms / large)} ${name}${rest === 0 ? "" : ` ${rest} ${smallName}`}`;
  };
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min`;
  if (ms < DAY) return two(HOUR, "h", MINUTE, "min");
  return two(DAY, "d", HOUR, "h");
}

/** `512 B`, `1.5 MB`: powers of 1000. */
export function bytesOf(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let at = 0;
  while (value >= 999.5 && at < units.length - 1) {
    value /= 1_000;
    at++;
  }
  return `${at === 0 || value >= 100 ? Math.round(value) : Number(value.toPrecision(3))} ${units[at]}`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** What has become of a round here. */
export function roundStateOf(round: {
  readonly sealed: boolean;
  readonly folded: number;
  readonly atWork: readonly string[];
}): string {
  const { sealed, folded, atWork } = round;
  if (!sealed) return "running";
  const made = folded === 0 ? "over, nothing came" : "result made";
  return atWork.length === 0 ? made : `${made}, ${plural(atWork.length, "gateway")} still at it`;
}

/** Why a site has its devices do nothing. */
export function idleWords({ why, round }: Idle): string {
  const after = round === null ? "" : ` after ${round}`;
  switch (why) {
    case "unasked":
      return "no round was opened here";
    case "next-round":
      return `waits for the next round${after}`;
    case "reconnecting":
      return `trains on${after} if the link stays away`;
    case "absent":
      return `none of the devices of ${round} is here`;
    case "unanswered":
      return `nobody contributed to the last site round of ${round}; it asks again`;
    case "allowance":
      return `has run all site rounds of ${round} that its plan allows without a link`;
    case "not-allowed":
      return `the plan of ${round} allows no site rounds without a link`;
    case "link":
      return `waits for the link: no round after ${round} has come`;
  }
}
