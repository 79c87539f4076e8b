import { parameterCount } from "@tributary/proto/algebra/layout.js";
import {
  checkComparable,
  contributionKey,
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
 * Whether a decoded Partial may count in a session. What `decodePartial` checked (contributors sorted
 * and unique, weight the sum of the samples, sums within the weight's reach) is not checked again.
 *
 * @param plan of a round on the Partial's base
 * @param rosters by round: devices whose contribution to it may be in this Partial
 * @param counted contributions on record, as `contributionKey` gives them
 */
export function admitPartial(
  plan: Plan,
  rosters: ReadonlyMap<string, ReadonlySet<string>>,
  counted: ReadonlySet<string>,
  partial: Partial,
): Verdict<object, AdmissionCode> {
  const coordinates = plan.task === "evaluate" ? 0 : parameterCount(plan.layout);
  const comparable = checkComparable(
    {
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
  const strangers = partial.contributors.filter(
    ({ round, device }) => rosters.get(round)?.has(device) !== true,
  );
  if (strangers.length > 0) {
    const named = strangers.slice(0, 5).map(contributionKey);
    return refuse("not-in-roster", `not assigned: ${named.join(", ")}`);
  }
  const heavy = partial.contributors.find(({ samples }) => samples > plan.nMax);
  if (heavy !== undefined)
    return refuse("bad-sample-count", `${heavy.device}: ${heavy.samples} samples, past nMax`);
  const overlap = partial.contributors.map(contributionKey).filter((key) => counted.has(key));
  return overlap.length > 0 ? refuseOverlap(overlap) : { ok: true };
}
