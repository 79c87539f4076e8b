import type { ContributionRow } from "@tributary/cloud/store/rows.js";
import type { ContributionKey, Settlement, Store } from "@tributary/cloud/store/store.js";
import { planted } from "./planted.js";

/** A store without keys: what is on record stays as it is, and nobody is told that it is there. */
function withoutKeys(store: Store): Store {
  const fresh = async (rows: readonly ContributionRow[]): Promise<ContributionRow[]> => {
    const [first] = rows;
    if (first === undefined) return [];
    const known = await store.knownContributions(first.session, rows);
    const [some] = known;
    const { updates: _, ...key } = some ?? {};
    const fields = Object.keys(key) as (keyof ContributionKey)[];
    const nameOf = (key: ContributionKey) => JSON.stringify(fields.map((field) => key[field]));
    const names = new Set(known.map(nameOf));
    return rows.filter((row) => !names.has(nameOf(row)));
  };
  const undecided = async (settled: readonly Settlement[] = []): Promise<Settlement[]> => {
    const rows = await Promise.all(settled.map((settlement) => store.partial(settlement)));
    return settled.filter(({ fate }, at) => fate === null || rows[at]?.outcome === "kept");
  };
  return {
    ...store,
    partial: async () => undefined,
    knownContributions: async () => [],
    recordPartial: async (partial, contributions) =>
      store.recordPartial(partial, await fresh(contributions)),
    async endRound(end) {
      const before = await Promise.all(end.partials.map((partial) => store.partial(partial)));
      return store.endRound({
        ...end,
        partials: end.partials.filter((_, at) => before[at] === undefined),
        contributions: await fresh(end.contributions),
        settled: await undecided(end.settled),
      });
    },
    saveProgress: async (session, progress, atMs, settled) =>
      store.saveProgress(session, progress, atMs, await undecided(settled)),
  };
}

export const countedAgain = planted(
  "the cloud's store has no keys: a Partial whose receipt was lost counts again",
  "fold",
  120,
  () => ({ cloudStore: withoutKeys }),
);
