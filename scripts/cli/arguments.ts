import type { Grant } from "@tributary/cloud/access/permissions.js";
import { roles } from "@tributary/proto/identity/tokens.js";
import { InvalidArgumentError } from "commander";

/** Parses an option's value that must be a whole number from 0. */
export function wholeNumber(value: string): number {
  if (/^\d{1,9}$/.test(value)) return Number(value);
  throw new InvalidArgumentError("It must be a whole number.");
}

/** Parses `PROJECT:ROLE`, and a role alone as one in all projects; each use of the option adds one. */
export function grants(value: string, former: readonly Grant[] = []): readonly Grant[] {
  const [project, role, ...rest] = value.includes(":") ? value.split(":") : ["*", value];
  const known = roles.find((one) => one === role);
  if (project === undefined || known === undefined || rest.length > 0)
    throw new InvalidArgumentError(`It must be PROJECT:ROLE; roles are ${roles.join(", ")}.`);
  return [...former, { project, role: known }];
}

const unitsMs = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** Parses an option's value that is a time, such as `90s`, `15m`, `24h` or `7d`, into milliseconds. */
export function lifetime(value: string): number {
  const [, number, unit] = /^(\d{1,6})([smhd])$/.exec(value) ?? [];
  if (number === undefined || unit === undefined)
    throw new InvalidArgumentError("It must be a time, as 90s, 15m, 24h or 7d.");
  return Number(number) * unitsMs[unit as keyof typeof unitsMs];
}
