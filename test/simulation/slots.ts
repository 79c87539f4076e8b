import type { SessionParams } from "@tributary/cloud/params.js";
import type { ContributionRow, ModelGroup } from "@tributary/cloud/store/rows.js";
import { discountOf, memoryShare } from "./oracle.js";
import type { Settings } from "./settings.js";

/** Contributions on one base that a model holds; under site memory those of one site. */
export type Group = {
  readonly base: string;
  /** Model versions between the base and the model's parent. */
  readonly age: number;
  readonly site: string | null;
  readonly rows: readonly ContributionRow[];
};

/** What each site delivered on the newest base that it delivered on, after a model. */
export type Slots = ReadonlyMap<string, Pick<Group, "base" | "rows">>;

export type Fresh = {
  readonly row: ContributionRow;
  readonly base: string;
  readonly site: string;
};

/** Half-lives after which a site's delta is given up. */
const HALF_LIVES = 5;

/**
 * The groups of a model, in the order in which they are added.
 *
 * @param trail the model's parent and its ancestors
 * @param fresh what no model before it holds
 * @param before the parent's slots
 */
export function groupsOf(
  { aggregation }: SessionParams,
  trail: readonly string[],
  fresh: readonly Fresh[],
  before: Slots,
): { readonly groups: readonly Group[]; readonly slots: Slots } | string {
  const memory = aggregation.kind === "site-memory";
  const most = memory ? HALF_LIVES * aggregation.halfLife : aggregation.maxStaleness;
  const groups = new Map<string, Group>();
  if (memory)
    for (const [site, { base, rows }] of before) {
      const age = trail.indexOf(base);
      if (age <= most) groups.set(site, { base, age, site, rows });
    }
  for (const { row, base, site } of fresh) {
    const age = trail.indexOf(base);
    if (age < 0) return `it holds contributions on ${base}, which is not on its trail`;
    if (age > most) return `it holds contributions that are ${age} versions old`;
    const key = memory ? site : base;
    const group = groups.get(key);
    if (memory && group !== undefined && group.age < age)
      return `it holds a delta of ${site} on ${base}, and a newer one on ${group.base}`;
    const rows = group?.base === base ? [...group.rows, row] : [row];
    if (memory && group !== undefined && group.base !== base)
      if (fresh.some((other) => group.rows.includes(other.row)))
        return `it holds deltas of ${site} on ${base} and on ${group.base}`;
    groups.set(key, { base, age, site: memory ? site : null, rows });
  }
  const sorted = [...groups.values()].sort(
    (a, b) => b.age - a.age || ((a.site ?? "") < (b.site ?? "") ? -1 : 1),
  );
  return { groups: sorted, slots: memory ? groups : new Map() };
}

/**
 * The coefficient of each group. Under site memory without named populations the registered devices
 * count: how many there were is not known here, so any that could be, one total for all groups, will do.
 */
export function sharesFor(
  { aggregation }: SessionParams,
  settings: Settings,
  groups: readonly { readonly group: Group; readonly samples: number }[],
  found: readonly Pick<ModelGroup, "coefficient">[],
): readonly number[] | string {
  if (aggregation.kind !== "site-memory") {
    const total = groups.reduce((sum, { samples }) => sum + samples, 0);
    return groups.map(
      ({ group, samples }) => (samples * discountOf(aggregation.staleness, group.age)) / total,
    );
  }
  const { halfLife, populations } = aggregation;
  if (populations !== undefined) {
    const total = Object.values(populations).reduce((sum, population) => sum + population, 0);
    return groups.map(({ group: { site, age } }) =>
      memoryShare((populations[site ?? ""] ?? 0) / total, halfLife, age),
    );
  }
  const devices = settings.gateways.flatMap((gateway) => gateway.devices).length;
  for (let total = 1; total <= devices; total++) {
    const counts = groups.map(({ group }, at) => {
      for (let count = 1; count <= total; count++)
        if (memoryShare(count / total, halfLife, group.age) === found[at]?.coefficient)
          return count;
      return total + 1;
    });
    if (counts.reduce((sum, count) => sum + count, 0) <= total)
      return found.map(({ coefficient }) => coefficient);
  }
  return `its coefficients ${found.map(({ coefficient }) => coefficient).join(", ")} are no shares of ${devices} devices`;
}
