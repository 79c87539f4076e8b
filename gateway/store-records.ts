import {
  digestSchema,
  idSchema,
  numberedIdSchema,
  roundIdSchema,
} from "@tributary/proto/wire/ids.js";
import { layoutSchema, manifestSchema } from "@tributary/proto/wire/plan.js";
import { z } from "zod";

/** What the store holds. Times are logical milliseconds (`site-time.ts`), so that only differences count. */

const bytesSchema = z.custom<Uint8Array>((value) => value instanceof Uint8Array);
const count = z.number().int().min(0);

export const roundSchema = z.strictObject({
  round: roundIdSchema,
  /** The plan's CBOR, as the cloud wrote it. */
  plan: bytesSchema,
  roster: z.array(idSchema),
  /** The site deadline. */
  deadlineAtMs: z.number(),
  /** Once its first Partial was handed over: how far its site rounds were, see `HandedRounds`. */
  handed: z.strictObject({ number: count, done: count }).optional(),
});
export type RoundRecord = z.infer<typeof roundSchema>;

export const askSchema = z.enum(["offered", "declined"]);
export type AskRecord = z.infer<typeof askSchema>;

export const sealedSchema = z.strictObject({
  round: roundIdSchema,
  /** Counts up over all sealed rounds, so that the oldest are forgotten first. */
  order: count,
  offered: count,
  folded: count,
  declined: count,
});
export type SealedRecord = z.infer<typeof sealedSchema>;

export const outboxSchema = z.strictObject({
  /** With the gateway and its incarnation, the Partial's identity. */
  sequence: count,
  /** Rounds of its contributors, in ascending order: the cloud's, and later stretches of them. */
  rounds: z.array(roundIdSchema),
  base: numberedIdSchema,
  /** Digest of all that must be equal for two sums to be added: base, grid, layout, coordinates. */
  shape: digestSchema,
  /** The site of all contributors; null when they are of several. */
  site: idSchema.nullable(),
  /** It is merged only with Partials of its own site. */
  perSite: z.boolean(),
  weight: count,
  contributors: count,
  /** NMax: the most weight that it may be merged to. */
  totalMax: count,
  digest: digestSchema,
  bytes: count,
  /** Of the oldest of what was merged into it. */
  sealedAtMs: z.number(),
  /** The upstream may have heard of it: identity, digest and bytes stay as they are. */
  opened: z.boolean(),
  /** The round of a branch that is not complete yet: until then it is not sent. */
  held: numberedIdSchema.optional(),
});
export type OutboxRecord = z.infer<typeof outboxSchema>;

/** An entry as format 1 kept it, under another prefix. */
export const formerOutboxSchema = z.strictObject({
  sequence: count,
  round: numberedIdSchema,
  digest: digestSchema,
  bytes: count,
  sealedAtMs: z.number(),
});
export type FormerOutboxRecord = z.infer<typeof formerOutboxSchema>;

/** Identity of a Partial that a gateway below has sent. */
export type Origin = {
  readonly gateway: string;
  readonly incarnation: string;
  readonly sequence: number;
};

export const receivedSchema = z.strictObject({
  digest: digestSchema,
  /** Counts up, so that the oldest of a gateway are forgotten first. */
  order: count,
});

/** A round that a regional gateway runs with gateways below it. */
export const branchSchema = z.strictObject({
  round: numberedIdSchema,
  /** Counts up, so that the oldest are forgotten first. */
  order: count,
  /** The plan's CBOR, as the cloud wrote it. */
  plan: bytesSchema,
  /** Gateways below, each with the incarnation that the round is bound to and its part of the roster. */
  members: z.array(
    z.strictObject({ gateway: idSchema, incarnation: idSchema, roster: z.array(idSchema) }),
  ),
  /** Devices of this gateway's own site. */
  own: z.array(idSchema),
  deadlineAt: z.number(),
  complete: z.boolean(),
  /** How the upstream closed it. */
  outcome: z.string().optional(),
});
export type BranchRecord = z.infer<typeof branchSchema>;

/** Contributions to a round that a Partial from below brings, noted before it is received. */
export const takingSchema = z.strictObject({
  round: numberedIdSchema,
  gateway: idSchema,
  incarnation: idSchema,
  sequence: count,
  /** With a later stretch of site rounds: the first of them. */
  stretch: count.optional(),
  devices: z.array(idSchema),
});
export type TakingRecord = z.infer<typeof takingSchema>;

/** A Partial that ended here, without a receipt: what was in it, and why. */
export const expirySchema = z.strictObject({
  sequence: count,
  rounds: z.array(roundIdSchema),
  /** The code under which the upstream refused it, or `partial-damaged`. */
  rule: z.string(),
  message: z.string(),
  /** Its contributions, `round/device`; none where its file cannot be read. */
  contributors: z.array(z.string()),
  expiredAtMs: z.number(),
});
export type ExpiryRecord = z.infer<typeof expirySchema>;

export const modelSchema = z.strictObject({
  manifest: manifestSchema,
  usedAtMs: z.number(),
  /** Whether the whole file is on disk and has its digest. */
  complete: z.boolean(),
});
export type ModelRecord = z.infer<typeof modelSchema>;

export const publishedSchema = z.strictObject({ manifest: manifestSchema, layout: layoutSchema });
export type PublishedRecord = z.infer<typeof publishedSchema>;
