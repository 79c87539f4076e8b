import { z } from "zod";
import { limits } from "./limits.js";

/**
 * Identifiers of sites, gateways, devices and sessions: 1 to 64 of `a-z A-Z 0-9 - _`, first a
 * letter or digit. They stand in topics, paths and file names, so nothing else is let through.
 */
const idPattern = /^[A-Za-z0-9][A-Za-z0-9_-]*$/;

/**
 * Names that every JavaScript object has without being given them. Whatever is kept by name would
 * find a member under one of these that nobody put there, so nothing may be called so.
 */
const inherited: ReadonlySet<string> = new Set([
  "constructor",
  "hasOwnProperty",
  "isPrototypeOf",
  "propertyIsEnumerable",
  "prototype",
  "toLocaleString",
  "toString",
  "valueOf",
]);

/** Whether nothing may bear this name: it starts with `__`, or is one that objects inherit. */
export function isReservedName(name: string): boolean {
  return name.startsWith("__") || inherited.has(name);
}

const notReserved = {
  error: ({ input }: { readonly input?: unknown }) => `${input} is a reserved name`,
};
const isFree = (name: string): boolean => !isReservedName(name);

export const idSchema = z
  .string()
  .max(limits.idChars)
  .regex(idPattern, {
    message: "must be 1 to 64 letters, digits, - or _, starting with a letter or digit",
  })
  .refine(isFree, notReserved);

export function isId(value: string): boolean {
  return value.length <= limits.idChars && idPattern.test(value) && isFree(value);
}

/** Name of a metric. */
export const metricNameSchema = z
  .string()
  .regex(/^[a-z][a-zA-Z0-9_-]{0,63}$/, { message: "must be a metric name" })
  .refine(isFree, notReserved);

/** Name of a device's attribute: any text, see `limits.attributeChars`. */
export const attributeNameSchema = z
  .string()
  .min(1)
  .max(limits.attributeChars)
  .refine(isFree, notReserved);

/**
 * A round or a model of a session: `<session>.<number>`. Model n is what round n published; 0 is the
 * initial model. A gateway that runs site rounds within a round numbers them, from 1:
 * `<session>.<number>.<site round>`. Site model k is what site round k made.
 */
const numberedPattern = /^[A-Za-z0-9][A-Za-z0-9_-]*\.(0|[1-9][0-9]{0,8})$/;
const sitePattern = /^[A-Za-z0-9][A-Za-z0-9_-]*\.(0|[1-9][0-9]{0,8})\.[1-9][0-9]{0,8}$/;

const numberedChars = limits.idChars + 10;
const siteChars = numberedChars + 10;

function isNumbered(id: string): boolean {
  return numberedPattern.test(id) && isFree(id.slice(0, id.indexOf(".")));
}

function isSiteNumbered(id: string): boolean {
  return sitePattern.test(id) && isFree(id.slice(0, id.indexOf(".")));
}

/** A round or a model that the cloud knows. */
export const numberedIdSchema = z
  .string()
  .max(numberedChars)
  .refine(isNumbered, { message: "must be <session>.<number>" });

/** A round or a model as a device knows it: the cloud's, or one of its gateway's site rounds. */
const anyNumberedIdSchema = z
  .string()
  .max(siteChars)
  .refine((id) => isNumbered(id) || isSiteNumbered(id), {
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
  if (id.length > siteChars || !(isNumbered(id) || isSiteNumbered(id))) return undefined;
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
