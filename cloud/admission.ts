import { parameterCount } from "@tributary/proto/algebra/layout.js";
import {
  checkComparable,
  type MergeCode,
  type Partial,
  refuseOverlap,
} from "@tributary/proto/algebra/partial.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";

export type AdmissionCode =
  | MergeCode
  | "not-in-roster"
  | "bad-sample-count"
  | "wrong-shape"
  | "partial-malformed";

/**
 * Whether a decoded Partial may count in a round. What `decodePartial` checked (contributors sorted
 * and unique, weight the sum of the samples, sums within the weight's reach) is not checked again.
 *
 * @param roster devices that the round assigned to the gateway that sent it
 * @param counted devices that Partials accepted before already count
 */
export function admitPartial(
  plan: Plan,
  roster: ReadonlySet<string>,
  counted: ReadonlySet<string>,
  partial: Partial,
): Verdict<object, AdmissionCode> {
  const coordinates = plan.task === "evaluate" ? 0 : parameterCount(plan.layout);
  const comparable = checkComparable(
    {
      round: plan.round,
      base: plan.base.model,
      baseDigest: plan.base.digest,
      grid: plan.grid,
      layout: plan.layout,
      sum: { length: coordinates },
    },
    partial,
  );
  if (!comparable.ok) return comparable;
  if (partial.contributors.length === 0)
    return refuse("partial-malformed", "a Partial without contributors");
  const strangers = partial.contributors.filter(({ device }) => !roster.has(device));
  if (strangers.length > 0) {
    const named = strangers.slice(0, 5).map(({ device }) => device);
    return refuse("not-in-roster", `${plan.round} did not assign ${named.join(", ")}`);
  }
  const heavy = partial.contributors.find(({ samples }) => samples > plan.nMax);
  if (heavy !== undefined)
    return refuse("bad-sample-count", `${heavy.device}: ${heavy.samples} samples, past nMax`);
  const overlap = partial.contributors
    .map(({ device }) => device)
    .filter((device) => counted.has(device));
  return overlap.length > 0 ? refuseOverlap(overlap) : { ok: true };
}
