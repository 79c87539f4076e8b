import { parameterCount } from "@tributary/proto/algebra/layout.js";
import {
  type Contributor,
  checkComparable,
  contributionKey,
  type MergeCode,
  type Partial,
  refuseOverlap,
} from "@tributary/proto/algebra/partial.js";
import { cloudRound, splitNumberedId } from "@tributary/proto/wire/ids.js";
import { limits } from "@tributary/proto/wire/limits.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";

export type AdmissionCode =
  | MergeCode
  | "not-in-roster"
  | "bad-sample-count"
  | "wrong-shape"
  | "partial-malformed";

/** A contribution on record, with the updates behind it. */
export type Counted = Pick<Contributor, "round" | "device" | "updates">;

/**
 * Whether a decoded Partial may count in a session. What `decodePartial` checked (contributors sorted
 * and unique, weight the sum of the samples, sums within the weight's reach) is not checked again.
 *
 * @param plan of a round on the Partial's base
 * @param rosters by round: devices whose contribution to it may be in this Partial
 * @param counted contributions on record, by `contributionKey`; with those to each stretch of the site
 *   rounds of a round that the Partial has one of
 */
export function admitPartial(
  plan: Plan,
  rosters: ReadonlyMap<string, ReadonlySet<string>>,
  counted: ReadonlyMap<string, Counted>,
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
  return overlap.length > 0 ? refuseOverlap(overlap) : admitSiteRounds(plan, counted, partial);
}

/** What the plan allows of site rounds: further stretches at all, and updates of a device. */
function admitSiteRounds(
  plan: Plan,
  counted: ReadonlyMap<string, Counted>,
  { contributors }: Partial,
): Verdict<object, AdmissionCode> {
  const malformed = (contributor: Counted, why: string) =>
    refuse("partial-malformed", `${contributionKey(contributor)}: ${why}`);
  for (const contributor of contributors) {
    const first = splitNumberedId(contributor.round)?.site;
    if (first === undefined) continue;
    if (plan.offlineSiteRounds === 0)
      return malformed(contributor, "the plan has no further stretches of site rounds");
    // With 1 where the first stretch was handed over before a site round had begun.
    if (first < 1 || first > limits.updatesMax)
      return malformed(contributor, `a further stretch begins with 1 to ${limits.updatesMax}`);
  }
  const most = plan.siteRounds + plan.offlineSiteRounds;
  const spent = new Map<string, number>();
  const spend = (contributor: Counted): boolean => {
    const key = contributionKey({ ...contributor, round: cloudRound(contributor.round) });
    const updates = (spent.get(key) ?? 0) + contributor.updates;
    spent.set(key, updates);
    return updates <= most;
  };
  // Where a device has one update, whatever is on record of it overlaps.
  if (most > 1) for (const contributor of counted.values()) spend(contributor);
  const greedy = contributors.find((contributor) => !spend(contributor));
  return greedy === undefined
    ? { ok: true }
    : malformed(greedy, `more updates of the device than the plan's ${most}`);
}
