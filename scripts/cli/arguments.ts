import { InvalidArgumentError } from "commander";

/** Parses an option's value that must be a whole number from 0. */
export function wholeNumber(value: string): number {
  if (/^\d{1,9}$/.test(value)) return Number(value);
  throw new InvalidArgumentError("It must be a whole number.");
}
