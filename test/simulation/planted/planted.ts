import type { Checker } from "../failures.js";
import { nothingPlanted, type Plant } from "../plant.js";
import type { Settings } from "../settings.js";

/** A part that is wrong, and the checker that must see it. */
export type Planted = {
  /** What is wrong, in words. */
  readonly what: string;
  readonly checker: Checker;
  /** Some seed from 1 to this one must show it. */
  readonly seeds: number;
  plant(): Plant;
  /** Makes the seeds' worlds such that what is wrong matters more often. */
  change(settings: Settings): Settings;
};

export function planted(
  what: string,
  checker: Checker,
  seeds: number,
  wrong: () => Partial<Plant>,
  change: (settings: Settings) => Settings = (settings) => settings,
): Planted {
  return { what, checker, seeds, plant: () => ({ ...nothingPlanted, ...wrong() }), change };
}

/** A world in which whoever reports an event may lose power right after it. */
export function oftenDark(settings: Settings): Settings {
  return { ...settings, hitRate: 0.1, hitWithinMs: 100 };
}
