import { checkHeadroom } from "@tributary/proto/algebra/grid.js";
import {
  idSchema,
  isReservedName,
  metricNameSchema,
  modelIdSchema,
  numberedIdSchema,
} from "@tributary/proto/wire/ids.js";
import { limits } from "@tributary/proto/wire/limits.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import { aggregationSchema } from "./aggregation.js";

const DAY_MS = 24 * 60 * 60 * 1000;

const count = (max: number) => z.number().int().min(1).max(max);
const durationMs = z
  .number()
  .int()
  .min(1)
  .max(7 * DAY_MS);
const decay = z.number().min(0).lt(1);
const step = z.number().positive().finite();

/**
 * The server's optimiser. FedAvgM: Hsu et al. 2019; FedAdam, FedYogi and FedAdagrad: Reddi et al.,
 * "Adaptive Federated Optimization", 2021, algorithm 2 (no bias correction).
 */
export const optimizerSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("fedavg"), learningRate: step.default(1) }),
  z.strictObject({
    kind: z.literal("fedavgm"),
    learningRate: step.default(1),
    momentum: decay.default(0.9),
  }),
  z.strictObject({
    kind: z.enum(["fedadam", "fedyogi"]),
    eta: step.default(0.1),
    beta1: decay.default(0.9),
    beta2: decay.default(0.99),
    tau: step.default(1e-3),
  }),
  z.strictObject({
    kind: z.literal("fedadagrad"),
    eta: step.default(0.1),
    beta1: decay.default(0),
    tau: step.default(1e-3),
  }),
]);
export type OptimizerParams = z.infer<typeof optimizerSchema>;

const fractionBits = z.number().int().min(0).max(40);

/** One f for every tensor, or one for each named tensor and a default for the others. */
const fractionBitsSchema = z.union(
  [
    fractionBits,
    z.strictObject({
      default: fractionBits,
      tensors: z.record(z.string().min(1).max(256), fractionBits),
    }),
  ],
  { error: "must be a whole number from 0 to 40, or { default, tensors: { name: number } }" },
);

const gridParamsSchema = z.strictObject({
  fractionBits: fractionBitsSchema.default(20),
  /** R: no value of an update is larger in magnitude. */
  range: z.number().positive().finite().default(4),
});
export type GridParams = z.infer<typeof gridParamsSchema>;

/** Handed to the trainer as it is; the three named ones are conventional. */
const trainingParamsSchema = z
  .object({
    epochs: count(10_000).default(1),
    learningRate: step.default(0.05),
    batchSize: count(1_000_000).default(32),
  })
  .catchall(z.union([z.number(), z.boolean(), z.string().max(1024)]))
  .refine((training) => Object.keys(training).length <= 64, { message: "at most 64 parameters" })
  .refine((training) => !Object.keys(training).some(isReservedName), {
    message: "names a parameter by a reserved name",
  });

export const gateSchema = z.strictObject({
  /** Metric of the federated evaluation that is compared. */
  metric: metricNameSchema.default("accuracy"),
  /** Whether a higher or a lower value is better. */
  direction: z.enum(["higher", "lower"]).default("higher"),
  /** A candidate may be worse by so much, in the metric's unit. */
  tolerance: z.number().min(0).finite().default(0.02),
});
export type GateParams = z.infer<typeof gateSchema>;

/** Parameters of a session: all but `name` and `initialModel` have defaults. */
export const sessionParamsSchema = z
  .strictObject({
    /** The session's id. */
    name: idSchema,
    /** The workspace that it belongs to: it has its model from there, and its sites. */
    project: idSchema.default("default"),
    /** Model that the first round starts from, such as an import or another session's. */
    initialModel: modelIdSchema,
    /** Training rounds that the session runs. */
    rounds: count(1_000_000).default(10),
    /** From a round's opening until it closes with what it has. */
    deadlineMs: durationMs.default(60_000),
    /** Part of the deadline kept for the sites' Partials to travel. */
    uploadWindowMs: durationMs.default(10_000),
    /** A site that is detached for longer is not waited for once enough others delivered. */
    absentGraceMs: z
      .number()
      .int()
      .min(0)
      .max(7 * DAY_MS)
      .default(5_000),
    /** Updates a site needs, or its Partial is recorded as expired. */
    siteQuorum: count(limits.roster).default(1),
    /** Sites a round needs, or it fails. */
    sitesQuorum: count(10_000).default(1),
    /** Connected devices that a round waits for before it opens. */
    devicesMin: count(limits.contributors).default(1),
    /** Share of a site's connected devices whose update is wanted, (0, 1]. */
    fraction: z.number().gt(0).max(1).default(1),
    /** Further devices asked, as a share of those wanted, [0, 4]. */
    overSelection: z.number().min(0).max(4).default(0),
    optimizer: optimizerSchema.default({ kind: "fedavg", learningRate: 1 }),
    grid: gridParamsSchema.prefault({}),
    /** Whether a device may clamp values to the range, counting them, or must decline. */
    saturate: z.boolean().default(true),
    /**
     * The most L2 norm that one device's update has in the sum: its gateway scales down what is past it, and
     * counts it. Without it the range alone bounds what one device can do.
     */
    clipNorm: z.number().positive().finite().optional(),
    /** nMax: samples behind one update. */
    nMax: count(limits.samplesMax).default(1_000_000),
    /** NMax: samples behind a whole round. */
    totalMax: count(Number.MAX_SAFE_INTEGER).default(1_000_000_000),
    training: trainingParamsSchema.prefault({}),
    /** The compute package that devices run, `<name>.<version>`; without it each runs its own trainer. */
    package: numberedIdSchema.optional(),
    /** What becomes of Partials that come late, and when a round makes a model. */
    aggregation: aggregationSchema.prefault({ kind: "sync" }),
    /** kappa2: site rounds that a gateway runs on its own model before it hands over one Partial. */
    siteRounds: count(limits.updatesMax).default(1),
    /** Further site rounds that a gateway may run while its uplink is away; 0 for none. */
    offlineSiteRounds: z.number().int().min(0).max(limits.updatesMax).default(0),
    /** Federated evaluation of the candidate every so many training rounds; 0 for never. */
    evaluateEvery: z.number().int().min(0).max(1_000_000).default(5),
    gate: gateSchema.prefault({}),
    /** Rounds in a row that may fail before the session does. */
    failedRoundsMax: count(1_000_000).default(10),
    /** Of the choice of devices. */
    seed: z.number().int().min(0).max(0xffff_ffff).default(1),
  })
  .check(({ value: params, issues }) => {
    const broken = (path: string[], message: string) =>
      issues.push({ code: "custom", path, message, input: params });
    if (params.deadlineMs <= params.uploadWindowMs)
      broken(
        ["deadlineMs"],
        `must be longer than uploadWindowMs (${params.uploadWindowMs}): sites need time to train`,
      );
    if (params.absentGraceMs > params.deadlineMs)
      broken(["absentGraceMs"], `must not be longer than deadlineMs (${params.deadlineMs})`);
    if (params.totalMax < params.nMax)
      broken(["totalMax"], `must be at least nMax (${params.nMax})`);
    if (!params.saturate && (params.siteRounds > 1 || params.offlineSiteRounds > 0))
      broken(
        ["saturate"],
        "must be on with site rounds: what a site adds up over several can outgrow the range",
      );
    if (params.aggregation.kind === "buffered" && params.siteQuorum > 1)
      broken(
        ["siteQuorum"],
        "must be 1 with buffered aggregation, which counts contributors and not sites",
      );
    if (params.aggregation.kind === "buffered" && params.aggregation.contributors > params.totalMax)
      broken(
        ["aggregation", "contributors"],
        `${params.aggregation.contributors} contributions of a sample or more never fit totalMax ` +
          `(${params.totalMax}): ask for at most so many, or raise totalMax`,
      );
    const headroom = checkHeadroom(
      { range: params.grid.range, fractionBits: bitsInUse(params.grid) },
      params.nMax,
      BigInt(params.totalMax),
    );
    if (!headroom.ok)
      issues.push({
        code: "custom",
        path: ["grid"],
        message: `the exact sum could overflow: ${headroom.message}`,
        params: { code: headroom.code },
        input: params,
      });
  });
export type SessionParams = z.infer<typeof sessionParamsSchema>;
/** As a user writes them: what has a default may be left out. */
export type SessionParamsInput = z.input<typeof sessionParamsSchema>;

function bitsInUse({ fractionBits: bits }: GridParams): number[] {
  return typeof bits === "number" ? [bits] : [bits.default, ...Object.values(bits.tensors)];
}

/** From a plan's arrival at a site until it seals, in milliseconds. */
export function siteDeadlineMs(params: SessionParams): number {
  return params.deadlineMs - params.uploadWindowMs;
}

/** Fraction bits of each tensor in layout order; refuses names that the layout does not have. */
export function fractionBitsOf(
  grid: GridParams,
  layout: readonly { readonly name: string }[],
): Verdict<{ readonly fractionBits: number[] }, "plan-invalid"> {
  const bits = grid.fractionBits;
  if (typeof bits === "number") return { ok: true, fractionBits: layout.map(() => bits) };
  const names = new Set(layout.map(({ name }) => name));
  const alien = Object.keys(bits.tensors).find((name) => !names.has(name));
  if (alien !== undefined)
    return refuse("plan-invalid", `grid.fractionBits names "${alien}", which the model lacks`);
  const own = new Map(Object.entries(bits.tensors));
  return { ok: true, fractionBits: layout.map(({ name }) => own.get(name) ?? bits.default) };
}
