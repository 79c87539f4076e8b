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

/** A round or a model of a session: `<session>.<number>`. Model n is what round n published; 0 is the initial model. */
const numberedPattern = /^[A-Za-z0-9][A-Za-z0-9_-]*\.(0|[1-9][0-9]{0,8})$/;

export const numberedIdSchema = z
  .string()
  .max(limits.idChars + 10)
  .regex(numberedPattern, { message: "must be <session>.<number>" });

export const roundIdSchema = numberedIdSchema;
export const modelIdSchema = numberedIdSchema;

export function numberedId(session: string, number: number): string {
  return `${session}.${number}`;
}

/** Splits `<session>.<number>`; undefined when it is not one. */
export function splitNumberedId(id: string): { session: string; number: number } | undefined {
  if (id.length > limits.idChars + 10 || !numberedPattern.test(id)) return undefined;
  const dot = id.lastIndexOf(".");
  return { session: id.slice(0, dot), number: Number(id.slice(dot + 1)) };
}

/** A SHA-256 digest in lower-case hexadecimal. */
export const digestSchema = z
  .string()
  .regex(/^[0-9a-f]{64}$/, { message: "must be a SHA-256 in hexadecimal" });
