import type { ContributionRow } from "@tributary/cloud/store/rows.js";
import type { Account } from "./account.js";
import type { Holdings } from "./holdings.js";

/**
 * What devices gave to a gateway's site rounds in one of the cloud's rounds, as the devices saw it, and
 * the composed Partials that the trail has of them. Which updates are in which Partial follows: those
 * of a stretch's site rounds, of a device as many as its contribution counts.
 */
export type SiteHistory = {
  readonly gateway: string;
  /** The cloud's. */
  readonly round: string;
  readonly updates: readonly SiteUpdate[];
  /** In the order of their site rounds. */
  readonly stretches: readonly Stretch[];
};

/** What a device announced to a site round. */
export type SiteUpdate = {
  /** Number of the site round. */
  readonly number: number;
  readonly device: string;
  readonly samples: number;
  /** It has a receipt from hardware that is still there, so it must be on record. */
  readonly owed: boolean;
  readonly receipted: boolean;
};

/** One composed Partial. */
export type Stretch = {
  /** Its first site round. */
  readonly first: number;
  /** None where nobody contributed, or where it was lost with the hardware of a gateway. */
  readonly rows: readonly ContributionRow[];
};

export type SiteHistories = {
  readonly all: readonly SiteHistory[];
  /** The one that a contribution is of; undefined for one that is of no site round. */
  of(row: ContributionRow): SiteHistory | undefined;
  /** The gateway that took a contribution from its device. */
  gatewayOf(row: ContributionRow): string | undefined;
};

/** The round of a contribution: the cloud's, or the first site round of a later stretch. */
export function roundOf({ session, round, stretch }: ContributionRow): string {
  return stretch === 0 ? `${session}.${round}` : `${session}.${round}.${stretch}`;
}

/** The cloud's round of a round as a device knows it, and the number of its site round. */
export function splitRound(round: string): { readonly cloud: string; readonly site?: number } {
  const [session, number, site] = round.split(".");
  const cloud = `${session}.${number}`;
  return site === undefined ? { cloud } : { cloud, site: Number(site) };
}

export function siteHistories(
  account: Account,
  holdings: Pick<Holdings, "lost" | "stretches">,
  rows: readonly ContributionRow[],
): SiteHistories {
  const receipted = new Set(
    account.receipts.map(({ round, device, digest }) => `${round} ${device} ${digest}`),
  );
  /** By gateway and the cloud's round. */
  const updates = new Map<string, SiteUpdate[]>();
  /** By the cloud's round and device: the gateways that it gave updates to, those with a receipt first. */
  const gateways = new Map<string, string[]>();
  for (const [key, begins] of account.begun) {
    const [round = "", device = ""] = key.split(" ");
    const { cloud, site } = splitRound(round);
    for (const [digest, { gateway, samples }] of begins) {
      const known = receipted.has(`${key} ${digest}`);
      if (site !== undefined) {
        const owed = known && !holdings.lost(round, device);
        const of = `${gateway} ${cloud}`;
        const update = { number: site, device, samples, owed, receipted: known };
        updates.set(of, [...(updates.get(of) ?? []), update]);
      }
      const others = (gateways.get(`${cloud} ${device}`) ?? []).filter((at) => at !== gateway);
      const all = known ? [gateway, ...others] : [...others, gateway];
      gateways.set(`${cloud} ${device}`, all);
    }
  }
  const gatewayOf = (row: ContributionRow): string | undefined =>
    gateways.get(`${splitRound(roundOf(row)).cloud} ${row.device}`)?.[0];
  const keyOf = (row: ContributionRow): string | undefined => {
    const key = `${gatewayOf(row)} ${splitRound(roundOf(row)).cloud}`;
    return updates.has(key) ? key : undefined;
  };
  const stretches = new Map<string, Map<number, ContributionRow[]>>();
  for (const row of rows) {
    const key = keyOf(row);
    if (key === undefined) continue;
    const first = splitRound(roundOf(row)).site ?? 1;
    const byFirst = stretches.get(key) ?? new Map<number, ContributionRow[]>();
    stretches.set(key, byFirst.set(first, [...(byFirst.get(first) ?? []), row]));
  }
  const byKey = new Map(
    [...updates].map(([key, given]): [string, SiteHistory] => {
      const [gateway = "", round = ""] = key.split(" ");
      const recorded = stretches.get(key) ?? new Map<number, ContributionRow[]>();
      const firsts = new Set([...holdings.stretches(gateway, round), ...recorded.keys()]);
      const sorted = [...firsts].sort((a, b) => a - b);
      return [
        key,
        {
          gateway,
          round,
          updates: given,
          stretches: sorted.map((first) => ({ first, rows: recorded.get(first) ?? [] })),
        },
      ];
    }),
  );
  return {
    all: [...byKey.values()],
    gatewayOf,
    of(row) {
      const key = keyOf(row);
      return key === undefined ? undefined : byKey.get(key);
    },
  };
}

/** The stretch of a site round: the last that has begun by then. */
export function stretchOf({ stretches }: SiteHistory, number: number): Stretch | undefined {
  return stretches.findLast(({ first }) => first <= number);
}

/** What of a device's may be in a stretch. */
export function updatesIn(history: SiteHistory, stretch: Stretch, device: string): SiteUpdate[] {
  return history.updates.filter(
    (update) => update.device === device && stretchOf(history, update.number) === stretch,
  );
}

/** What is wrong with a history's contributions, in words. */
export function* wrongIn(history: SiteHistory): Generator<string> {
  const { gateway, round, updates, stretches } = history;
  for (const { number, device, owed } of updates) {
    const rows = stretchOf(history, number)?.rows ?? [];
    if (owed && !rows.some((row) => row.device === device))
      yield `${device} has a receipt for ${round}.${number}, which is nowhere on record`;
  }
  for (const stretch of stretches) {
    const fates = new Set(
      stretch.rows.map(({ outcome, model, rule }) => `${outcome} ${model ?? ""} ${rule ?? ""}`),
    );
    if (fates.size > 1)
      yield `what ${gateway} composed in ${round} from site round ${stretch.first} on ended in several ways: ${[...fates].join(", ")}`;
    for (const { device, samples, updates: counted } of stretch.rows) {
      const mine = updatesIn(history, stretch, device);
      const least = mine.filter(({ owed }) => owed).length;
      const who = `${device}'s contribution to ${round} from site round ${stretch.first} on`;
      if (counted < least || counted > mine.length)
        yield `${who} counts ${counted} updates; it announced ${mine.length} and has receipts for ${least}`;
      if (!mine.some((update) => update.samples === samples))
        yield `${who} is of ${samples} samples, which no update of it had`;
    }
  }
}
