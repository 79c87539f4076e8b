import { z } from "zod";
import { limits } from "./limits.js";

/**
 * Identifiers of sites, gateways, devices and sessions: 1 to 64 of `a-z A-Z 0-9 - _`, first a
 * letter or digit. They stand in topics, paths and file names, so nothing else is let through.
 */
const idPattern = /^[A-Za-z0-9][A-Za-z0-9_-]*$/;

export const idSchema = z.string().max(limits.idChars).regex(idPattern, {
  message: "must be 1 to 64 letters, digits, - or _, starting with a letter or digit",
});

export function isId(value: string): boolean {
  return value.length <= limits.idChars && idPattern.test(value);
}

/**
 * A round or a model of a session: `<session>.<number>`. Model n is what round n published; 0 is the
 * initial model. A gateway that runs site rounds within a round numbers them, from 1:
 * `<session>.<number>.<site round>`. Site model k is what site round k made.
 */
const numberedPattern = /^[A-Za-z0-9][A-Za-z0-9_-]*\.(0|[1-9][0-9]{0,8})$/;
const sitePattern = /^[A-Za-z0-9][A-Za-z0-9_-]*\.(0|[1-9][0-9]{0,8})\.[1-9][0-9]{0,8}$/;

const numberedChars = limits.idChars + 10;
const siteChars = numberedChars + 10;

/** A round or a model that the cloud knows. */
export const numberedIdSchema = z
  .string()
  .max(numberedChars)
  .regex(numberedPattern, { message: "must be <session>.<number>" });

/** A round or a model as a device knows it: the cloud's, or one of its gateway's site rounds. */
const anyNumberedIdSchema = z
  .string()
  .max(siteChars)
  .refine((id) => numberedPattern.test(id) || sitePattern.test(id), {
    message: "must be <session>.<number> or <session>.<number>.<site round>",
  });

/** Also what a contribution's round is: a later stretch of site rounds is named by its first. */
export const roundIdSchema = anyNumberedIdSchema;
export const modelIdSchema = anyNumberedIdSchema;

export function numberedId(session: string, number: number): string {
  return `${session}.${number}`;
}

/** Site round k of a round, or the model that it makes. */
export function siteRoundId(round: string, k: number): string {
  return `${round}.${k}`;
}

export type NumberedId = {
  readonly session: string;
  readonly number: number;
  /** Which site round of it; absent in the cloud's own ids. */
  readonly site?: number;
};

/** Splits an id of a round or a model; undefined when it is not one. */
export function splitNumberedId(id: string): NumberedId | undefined {
  if (id.length > siteChars || !(numberedPattern.test(id) || sitePattern.test(id)))
    return undefined;
  const [session = "", number, site] = id.split(".");
  const split = { session, number: Number(number) };
  return site === undefined ? split : { ...split, site: Number(site) };
}

/** The cloud's round to which a round or a model belongs: itself, or the one of a site round. */
export function cloudRound(id: string): string {
  const { session, number } = splitNumberedId(id) ?? {};
  return `${session}.${number}`;
}

/** A SHA-256 digest in lower-case hexadecimal. */
export const digestSchema = z
  .string()
  .regex(/^[0-9a-f]{64}$/, { message: "must be a SHA-256 in hexadecimal" });
