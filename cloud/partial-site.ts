import { cloudRound } from "@tributary/proto/wire/ids.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { HeldPartial } from "./held-partial.js";
import type { OpenRound } from "./store/rows.js";

type Rosters = Pick<OpenRound, "id" | "rosters" | "siteRosters">;

/**
 * Whether the site that a Partial is of is that of all its contributors: where the device was when
 * the round opened, or where it is now. One that has moved in between, below one gateway, may have
 * been at any of the sites that the gateway had devices at. A round that no sites are on record of
 * says nothing.
 *
 * @param rounds the rounds of its contributors
 * @param siteOf where a device was last connected
 */
export function checkSite(
  rounds: Iterable<Rosters>,
  siteOf: (device: string) => string | undefined,
  { site, contributors }: Pick<HeldPartial, "site" | "contributors">,
): Verdict<object, "site-mismatch"> {
  for (const { id, rosters, siteRosters } of rounds) {
    const sites = new Map(Object.entries(siteRosters));
    if (site === null || sites.size === 0) continue;
    const there = new Set(sites.get(site));
    const near = new Set(
      Object.values(rosters)
        .filter((roster) => roster.some((device) => there.has(device)))
        .flat(),
    );
    const stray = contributors.find(
      ({ round, device }) =>
        cloudRound(round) === id && !near.has(device) && siteOf(device) !== site,
    );
    if (stray !== undefined)
      return refuse("site-mismatch", `${stray.round}/${stray.device} is not of site ${site}`);
  }
  return { ok: true };
}
