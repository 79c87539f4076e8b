import { idSchema } from "@tributary/proto/wire/ids.js";
import { z } from "zod";

/**
 * How an update is discounted by its staleness tau, the number of model versions between its base
 * and the head. Xie et al., "Asynchronous Federated Optimization", 2019, section 5.2: polynomial
 * (1 + tau)^-exponent; hinge 1 up to tau = b, then 1 / (a (tau - b) + 1); constant 1.
 */
const stalenessSchema = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("polynomial"),
    exponent: z.number().min(0).max(16).default(0.5),
  }),
  z.strictObject({
    kind: z.literal("hinge"),
    a: z.number().positive().max(1e6).default(10),
    b: z.number().min(0).max(1e6).default(4),
  }),
  z.strictObject({ kind: z.literal("constant") }),
]);
export type Staleness = z.infer<typeof stalenessSchema>;

const bounds = {
  /** Versions that a Partial's base may lie behind the head and still count. */
  maxStaleness: 1_000,
  /** Versions after which a slot of site memory counts half; it expires at five times as many. */
  halfLife: 200,
  /** Sites whose population is named. */
  populations: 10_000,
  /** What they add up to, and each alone: beyond it float64 has no exact sum. */
  population: Number.MAX_SAFE_INTEGER,
} as const;

const WHOLE = `must be a whole number from 1 to ${bounds.population}`;

function sumOf(counts: readonly number[]): number {
  return counts.reduce((sum, count) => sum + count, 0);
}

const staleness = stalenessSchema.default({ kind: "polynomial", exponent: 0.5 });
const maxStaleness = z.number().int().min(0).max(bounds.maxStaleness).default(20);

/** What becomes of Partials that come late, and when a round makes a model. */
export const aggregationSchema = z.discriminatedUnion("kind", [
  /** Rounds with a quorum and a deadline. A late Partial goes into the next model, discounted. */
  z.strictObject({ kind: z.literal("sync"), staleness, maxStaleness }),
  /** A model for every `contributors` contributions, on whatever base. Nguyen et al., FedBuff, 2022. */
  z.strictObject({
    kind: z.literal("buffered"),
    /** K. */
    contributors: z.number().int().min(1).max(100_000),
    staleness,
    maxStaleness,
  }),
  /** Every model counts each site's newest delta, discounted by its age. */
  z.strictObject({
    kind: z.literal("site-memory"),
    /** H, in model versions. */
    halfLife: z.number().positive().max(bounds.halfLife).default(10),
    /** Population of each site; without it each registered site counts as its devices. */
    populations: z
      .record(idSchema, z.number(WHOLE).int(WHOLE).min(1, WHOLE))
      .refine((sites) => Object.keys(sites).length <= bounds.populations, {
        message: `at most ${bounds.populations} sites`,
      })
      .refine((sites) => sumOf(Object.values(sites)) <= bounds.population, {
        message: `must add up to ${bounds.population} at most`,
      })
      .optional(),
  }),
]);
export type Aggregation = z.infer<typeof aggregationSchema>;

/** Half-lives after which site memory gives a delta up. */
const HALF_LIVES_MAX = 5;

/** Model versions that a Partial's base may lie behind the head and still count. */
export function ageMax(aggregation: Aggregation): number {
  return aggregation.kind === "site-memory"
    ? HALF_LIVES_MAX * aggregation.halfLife
    : aggregation.maxStaleness;
}
