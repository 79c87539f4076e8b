import { roundSeed } from "@tributary/proto/host/seed.js";
import { siteRoundId, splitNumberedId } from "@tributary/proto/wire/ids.js";
import { additions, type Manifest, type Plan } from "@tributary/proto/wire/plan.js";

/** Whether a plan is run in site rounds. An evaluation has no deltas to compose. */
export function inSiteRounds({ task, siteRounds, offlineSiteRounds }: Plan): boolean {
  return task === "train" && (siteRounds > 1 || offlineSiteRounds > 0);
}

/** Whether a round or a model is a gateway's own, and not the cloud's. */
export function isSiteId(id: string): boolean {
  return splitNumberedId(id)?.site !== undefined;
}

/**
 * The plan of site round `number`, as devices get it: an ordinary plan on the site's model. The
 * first one is the cloud's but for its name; the others have a seed of their own.
 */
export function sitePlan(plan: Plan, number: number, base: Manifest): Plan {
  const round = siteRoundId(plan.round, number);
  const { seed } = plan.training;
  const training =
    number > 1 && typeof seed === "number"
      ? { ...plan.training, seed: roundSeed(seed, round) }
      : plan.training;
  return { ...plan, ...additions, round, base, training };
}
