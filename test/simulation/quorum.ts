import type { ContributionRow, PartialRow } from "@tributary/cloud/store/rows.js";

/** A Partial that a round received in time, with its contributions. */
export type Received = {
  readonly partial: PartialRow;
  readonly contributions: readonly ContributionRow[];
};

/** The sites of a round that have their quorum. */
export type Quorum = {
  /** Those that have it for certain, and those that may. */
  readonly certain: ReadonlySet<string>;
  readonly possible: ReadonlySet<string>;
  /** The sites that a Partial brings contributions of to the round; none where it is of earlier ones. */
  sitesOf(received: Received): ReadonlySet<string>;
};

/**
 * @param number of the round
 * @param siteQuorum contributions that a site needs
 * @param sitesOfDevice where a device may be
 * @param named whether the site on record of a Partial is that of all its contributions
 */
export function quorumOf(
  number: number,
  siteQuorum: number,
  received: readonly Received[],
  sitesOfDevice: (device: string, gateway: string) => ReadonlySet<string>,
  named: boolean,
): Quorum {
  const certain = new Map<string, number>();
  const possible = new Map<string, number>();
  const add = (counts: Map<string, number>, site: string) =>
    counts.set(site, (counts.get(site) ?? 0) + 1);
  const whereOf = ({ partial, contributions }: Received) =>
    contributions
      .filter(({ round, stretch }) => round === number && stretch === 0)
      .map(({ device, gateway }) =>
        named && partial.site !== null ? new Set([partial.site]) : sitesOfDevice(device, gateway),
      );
  for (const sites of received.flatMap(whereOf))
    for (const site of sites) {
      add(possible, site);
      if (sites.size === 1) add(certain, site);
    }
  const enough = (counts: ReadonlyMap<string, number>) =>
    new Set([...counts].filter(([, count]) => count >= siteQuorum).map(([site]) => site));
  return {
    certain: enough(certain),
    possible: enough(possible),
    sitesOf: (one) => new Set(whereOf(one).flatMap((sites) => [...sites])),
  };
}
