import type { GateParams } from "./params.js";

/**
 * The gate a candidate model passes before it is published: every value finite, and, where it was
 * evaluated, not worse than the last evaluated ancestor by more than the session's tolerance.
 */

export type GateReason = "not-finite" | "worse" | "metric-missing";

export type GateVerdict =
  | { readonly pass: true }
  | { readonly pass: false; readonly reason: GateReason };

/**
 * @param candidate metrics of the candidate's federated evaluation, by name
 * @param baseline the metric of the last evaluated ancestor; undefined when there is none
 */
export function judge(
  rules: GateParams,
  candidate: Readonly<Record<string, number>>,
  baseline: number | undefined,
): GateVerdict {
  const value = candidate[rules.metric];
  if (value === undefined || !Number.isFinite(value))
    return { pass: false, reason: "metric-missing" };
  if (baseline === undefined) return { pass: true };
  const worse = rules.direction === "lower" ? value - baseline : baseline - value;
  return worse <= rules.tolerance ? { pass: true } : { pass: false, reason: "worse" };
}
