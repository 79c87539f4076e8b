import { type Aggregation, ageMax } from "./aggregation.js";
import { memoryCoefficients, stalenessCoefficients } from "./staleness.js";

/**
 * What a model holds, as a pure function of what its round brought and what was kept for it. Partials
 * on one base are one group, which is summed exactly; groups are in ascending order of their base's
 * version. Under site memory a group is a site's slot: its Partials on the newest base it delivered.
 */

export type PoolEntry = {
  /** The text of (gateway, incarnation, sequence). */
  readonly identity: string;
  readonly site: string;
  readonly base: string;
  readonly samples: number;
  readonly contributors: number;
  /** Whether a model holds it already, and it is only carried on. */
  readonly applied: boolean;
};

export type PoolRule =
  /** Its base is further behind the head than the session allows. */
  | "max-staleness"
  /** Its base is not on the head's trail, since the head was moved by hand. */
  | "off-trail"
  /** Its site delivered on a newer base before a model held it. */
  | "superseded"
  /** Older than five half-lives. */
  | "site-memory-age";

export type PoolGroup = {
  readonly base: string;
  readonly age: number;
  readonly site: string | null;
  readonly coefficient: number;
  readonly samples: number;
  readonly contributors: number;
  /** Contributors of entries that were applied before. */
  readonly carried: number;
  readonly entries: readonly PoolEntry[];
};

export type PoolDecision = {
  /** What the model holds, in the order in which it is to be summed. */
  readonly groups: readonly PoolGroup[];
  /** Entries that no model is to hold any more: they expire, unless they were applied. */
  readonly dropped: readonly { readonly entry: PoolEntry; readonly rule: PoolRule }[];
  /** Entries that wait on, since their group has no room for them. */
  readonly waiting: readonly PoolEntry[];
};

export type PoolWorld = {
  readonly aggregation: Aggregation;
  /** NMax: samples of one group at most. */
  readonly totalMax: number;
  /** Model versions between a base and the head; undefined for a base that is not on its trail. */
  readonly ageOf: (base: string) => number | undefined;
  /** Of every registered site, and at least of those that have an entry. */
  readonly populations: ReadonlyMap<string, number>;
};

/** @param entries those that have precedence in a group first; each is in the answer once */
export function decidePool(world: PoolWorld, entries: readonly PoolEntry[]): PoolDecision {
  const { aggregation, ageOf } = world;
  const memory = aggregation.kind === "site-memory";
  const dropped: { entry: PoolEntry; rule: PoolRule }[] = [];
  const young: Aged[] = [];
  for (const entry of entries) {
    const age = ageOf(entry.base);
    if (age === undefined) dropped.push({ entry, rule: "off-trail" });
    else if (age > ageMax(aggregation))
      dropped.push({ entry, rule: memory ? "site-memory-age" : "max-staleness" });
    else young.push({ entry, age });
  }
  const newest = memory ? newestBySite(young) : undefined;
  const live = young.filter(({ entry, age }) => {
    if (newest === undefined || newest.get(entry.site) === age) return true;
    dropped.push({ entry, rule: "superseded" });
    return false;
  });
  const { groups, waiting } = groupEntries(live, world.totalMax, memory);
  const coefficients =
    aggregation.kind === "site-memory"
      ? memoryCoefficients(
          aggregation.halfLife,
          [...world.populations.values()].reduce((sum, population) => sum + population, 0),
          groups.map(({ site, age }) => ({
            population: world.populations.get(site ?? "") ?? 0,
            age,
          })),
        )
      : stalenessCoefficients(aggregation.staleness, groups);
  return {
    groups: groups.map((group, i) => ({ ...group, coefficient: coefficients[i] as number })),
    dropped,
    waiting,
  };
}

type Aged = { readonly entry: PoolEntry; readonly age: number };

function newestBySite(aged: readonly Aged[]): ReadonlyMap<string, number> {
  const newest = new Map<string, number>();
  for (const { entry, age } of aged)
    newest.set(entry.site, Math.min(age, newest.get(entry.site) ?? age));
  return newest;
}

function groupEntries(aged: readonly Aged[], totalMax: number, bySite: boolean) {
  type Group = Omit<PoolGroup, "coefficient"> & { readonly entries: PoolEntry[] };
  const groups = new Map<string, Group>();
  const waiting: PoolEntry[] = [];
  // What a model holds already stays in its slot, whatever comes on the same base.
  const ordered = [...aged].sort((x, y) => Number(y.entry.applied) - Number(x.entry.applied));
  for (const { entry, age } of ordered) {
    const { base, contributors } = entry;
    const site = bySite ? entry.site : null;
    const key = bySite ? entry.site : base;
    const group = groups.get(key) ?? {
      base,
      age,
      site,
      samples: 0,
      contributors: 0,
      carried: 0,
      entries: [],
    };
    const samples = group.samples + entry.samples;
    if (samples > totalMax) {
      waiting.push(entry);
      continue;
    }
    groups.set(key, {
      ...group,
      samples,
      contributors: group.contributors + contributors,
      carried: group.carried + (entry.applied ? contributors : 0),
      entries: [...group.entries, entry],
    });
  }
  const sorted = [...groups.values()].sort(
    (x, y) => y.age - x.age || ((x.site ?? "") < (y.site ?? "") ? -1 : 1),
  );
  return { groups: sorted, waiting };
}
