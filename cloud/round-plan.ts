import { checkHeadroom, encodingFor } from "@tributary/proto/algebra/grid.js";
import { roundSeed } from "@tributary/proto/host/seed.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { numberedId } from "@tributary/proto/wire/ids.js";
import { limits } from "@tributary/proto/wire/limits.js";
import {
  encodePlan,
  type Manifest,
  type Plan,
  type PlanPackage,
  planSchema,
} from "@tributary/proto/wire/plan.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { fractionBitsOf, type SessionParams, siteDeadlineMs } from "./params.js";
import type { Task } from "./session.js";

export type PlanBase = { readonly manifest: Manifest; readonly layout: Plan["layout"] };

/**
 * The plan of one round, and its bytes: written once here and sent on unchanged. The trainer's
 * `seed` follows from the session's seed and the round, so that a repeated session repeats it.
 */
export function makePlan(
  params: SessionParams,
  number: number,
  task: Task,
  base: PlanBase,
  offered?: PlanPackage,
): Verdict<{ readonly plan: Plan; readonly bytes: Uint8Array }, "plan-invalid" | "plan-headroom"> {
  const bits = fractionBitsOf(params.grid, base.layout);
  if (!bits.ok) return bits;
  const grid = { fractionBits: bits.fractionBits, range: params.grid.range };
  const headroom = checkHeadroom(grid, params.nMax, BigInt(params.totalMax));
  if (!headroom.ok) return headroom;
  const round = numberedId(params.name, number);
  const parsed = planSchema.safeParse({
    version: 1,
    round,
    session: params.name,
    task,
    base: base.manifest,
    layout: base.layout,
    grid,
    encoding: encodingFor(grid),
    saturate: params.saturate,
    nMax: params.nMax,
    totalMax: params.totalMax,
    training: { ...params.training, seed: roundSeed(params.seed, round) },
    ...(offered !== undefined && { package: offered }),
    fraction: params.fraction,
    overSelection: params.overSelection,
    siteQuorum: params.siteQuorum,
    siteDeadlineMs: siteDeadlineMs(params),
    deadlineMs: params.deadlineMs,
    ...(task === "train" && aggregationFlags(params)),
    ...(task === "train" && params.clipNorm !== undefined && { clipNorm: params.clipNorm }),
  });
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    return refuse("plan-invalid", `${issue?.path.join(".")}: ${issue?.message}`);
  }
  return { ok: true, plan: parsed.data, bytes: encodePlan(parsed.data) };
}

/** What the gateways do otherwise for the session's aggregation; an evaluation has nothing of it. */
function aggregationFlags({ aggregation, siteRounds, offlineSiteRounds }: SessionParams) {
  return {
    siteRounds,
    offlineSiteRounds,
    perSite: aggregation.kind === "site-memory",
    finishFirst: aggregation.kind === "buffered",
  };
}

/** Reads a plan that `makePlan` wrote. */
export function readPlan(bytes: Uint8Array): Plan {
  const cbor = decodeCbor(bytes, { depth: limits.headerDepth, items: limits.headerItems });
  if (!cbor.ok) throw new Error(`a stored plan is unreadable: ${cbor.message}`);
  return planSchema.parse(cbor.value);
}
