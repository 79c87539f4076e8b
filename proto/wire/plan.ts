import { z } from "zod";
import { encodeCbor } from "./cbor.js";
import { digestSchema, idSchema, isReservedName, modelIdSchema, roundIdSchema } from "./ids.js";
import { limits } from "./limits.js";

/** How a model file is fetched and verified: whole-file digest, and one digest per chunk. */
export const manifestSchema = z
  .strictObject({
    model: modelIdSchema,
    digest: digestSchema,
    bytes: z.number().int().min(1).max(limits.modelBytes),
    /** Size of every chunk but the last. */
    chunkBytes: z.number().int().min(1024).max(limits.chunkBytes),
    /** SHA-256 of each chunk, 32 bytes each, concatenated. */
    chunks: z.instanceof(Uint8Array),
  })
  .refine((m) => m.chunks.length === Math.ceil(m.bytes / m.chunkBytes) * 32, {
    message: "chunks must hold 32 bytes for each chunk",
  });
export type Manifest = z.infer<typeof manifestSchema>;

export const layoutSchema = z
  .array(
    z.strictObject({
      name: z.string().min(1).max(256),
      shape: z.array(z.number().int().min(0).max(limits.modelBytes)).max(8),
    }),
  )
  .max(limits.tensors);

export const gridSchema = z.strictObject({
  /** Fraction bits f of each tensor's grid, in the layout's order. */
  fractionBits: z.array(z.number().int().min(0).max(40)).max(limits.tensors),
  /** R: no value of an update is larger in magnitude. */
  range: z.number().positive().finite(),
});

/** The compute package that devices run for a plan, in place of a trainer of their own. */
const planPackageSchema = z.strictObject({
  /** What the package is, signed by who made it; see package.ts. */
  statement: z.string().min(1).max(limits.packageStatementChars),
  /** Its archive as a file to fetch: `model` is the package's id, `<name>.<version>`. */
  manifest: manifestSchema.refine(({ bytes }) => bytes <= limits.packageBytes, {
    message: `must be of at most ${limits.packageBytes} bytes`,
  }),
});
export type PlanPackage = z.infer<typeof planPackageSchema>;

export const encodings = ["f32", "i32", "i16"] as const;
export const encodingSchema = z.enum(encodings);

/** Parameters handed to the trainer as they are; `epochs`, `learningRate` and `batchSize` are conventional. */
export const trainingSchema = z.record(
  z
    .string()
    .min(1)
    .max(64)
    .refine((name) => !isReservedName(name), { message: "is a reserved name" }),
  z.union([z.number(), z.boolean(), z.string().max(1024)]),
);
export type Training = z.infer<typeof trainingSchema>;

/**
 * The plan of one round: what every tier and device must agree on. It travels as the CBOR bytes
 * the cloud wrote, unchanged at every tier, so that a digest or a signature of it stays valid.
 */
export const planSchema = z
  .strictObject({
    version: z.literal(1),
    round: roundIdSchema,
    session: idSchema,
    /** `train` asks for an update; `evaluate` for metrics of `base` and no values. */
    task: z.enum(["train", "evaluate"]),
    base: manifestSchema,
    layout: layoutSchema,
    grid: gridSchema,
    encoding: encodingSchema,
    /** Whether a device may clamp values to the range, counting them, or must refuse. */
    saturate: z.boolean(),
    /** The most L2 norm of one update; a gateway scales down what is past it. Without it there is no bound. */
    clipNorm: z.number().positive().finite().optional(),
    /** nMax: samples behind one update. */
    nMax: z.number().int().min(1).max(limits.samplesMax),
    /** NMax: samples behind the whole round. */
    totalMax: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER),
    training: trainingSchema,
    /** Training code that is shipped; without it a device runs its own. */
    package: planPackageSchema.optional(),
    /** Share of a site's connected roster that is asked for an update, (0, 1]. */
    fraction: z.number().gt(0).max(1),
    /** Further devices asked, as a share of those wanted, [0, 4]; the round closes when enough came. */
    overSelection: z.number().min(0).max(4),
    /** Updates a site needs, or its Partial is recorded as expired. */
    siteQuorum: z.number().int().min(1).max(limits.roster),
    /** From the plan's arrival at a gateway until it seals, in milliseconds. */
    siteDeadlineMs: z.number().int().min(1),
    /** From the round's opening at the cloud until it closes, in milliseconds. */
    deadlineMs: z.number().int().min(1),
    /** kappa2: site rounds that a gateway runs on its own site model before it hands over one Partial. */
    siteRounds: z.number().int().min(1).max(limits.updatesMax).default(1),
    /** Further site rounds that a gateway may run while its uplink is away; 0 for none. */
    offlineSiteRounds: z.number().int().min(0).max(limits.updatesMax).default(0),
    /** Partials of different sites are not merged on their way. */
    perSite: z.boolean().default(false),
    /** A gateway brings the round that it runs to its end, whatever became of it upstream, before it begins the session's next. */
    finishFirst: z.boolean().default(false),
  })
  .refine((p) => p.saturate || (p.siteRounds === 1 && p.offlineSiteRounds === 0), {
    message: "saturate must be on where site rounds are: a site's delta can outgrow the range",
    path: ["saturate"],
  })
  .refine((p) => p.siteDeadlineMs < p.deadlineMs, {
    message: "siteDeadlineMs must be shorter than deadlineMs: a Partial needs time to travel",
  })
  .refine((p) => p.grid.fractionBits.length === p.layout.length, {
    message: "grid.fractionBits must have one entry per tensor",
  });
export type Plan = z.infer<typeof planSchema>;

/** Later additions to the plan, with what holds where they are missing. */
export const additions = {
  siteRounds: 1,
  offlineSiteRounds: 0,
  perSite: false,
  finishFirst: false,
};

/**
 * A plan as it travels: what does not ask for an addition is left out, so that gateways and devices
 * from before the addition still read every plan that they can run.
 */
export function leanPlan(plan: Plan): object {
  const asked = Object.entries(plan).filter(
    ([name, value]) => (additions as Record<string, unknown>)[name] !== value,
  );
  return Object.fromEntries(asked);
}

/** The bytes of a plan: CBOR. */
export function encodePlan(plan: Plan): Uint8Array {
  return new Uint8Array(encodeCbor(leanPlan(plan)));
}
