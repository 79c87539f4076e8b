import { sha256 } from "./digest.js";

/**
 * The trainer's seed in a round: the first 32 bits of a SHA-256 over a seed and the round's id. The
 * cloud derives it from the session's seed, a gateway from the plan's for each further site round.
 */
export function roundSeed(seed: number, round: string): number {
  return Number.parseInt(sha256(`tributary-seed/1\n${seed}\n${round}\n`).slice(0, 8), 16);
}
