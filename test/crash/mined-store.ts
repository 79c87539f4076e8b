import type { Store as CloudStore } from "@tributary/cloud/store/store.js";
import type { Database } from "@tributary/gateway/store.js";
import type { Operation } from "@tributary/gateway/store-table.js";
import type { Bomb } from "./bomb.js";
import type { PointName } from "./points.js";

/** A cloud's store that ends its process around its transactions. */
export function minedCloudStore(store: CloudStore, bomb: Bomb): CloudStore {
  /** Nobody has been told of what is durable with it. */
  async function committed<T>(transaction: Promise<T>): Promise<T> {
    const value = await transaction;
    bomb.hit("after-commit");
    return value;
  }
  return {
    ...store,
    saveProgress: (...args) => committed(store.saveProgress(...args)),
    openRound: (round) => committed(store.openRound(round)),
    endRound(end) {
      bomb.hit("mid-step");
      return committed(store.endRound(end));
    },
    async recordPartial(partial, contributions) {
      if (partial.outcome === "kept") bomb.hit("mid-late");
      await committed(store.recordPartial(partial, contributions));
      if (partial.outcome === "kept") bomb.hit("after-late");
    },
  };
}

/** A gateway's index that ends its process before and after the batches that swap or add Partials. */
export function minedIndex(database: Database, bomb: Bomb): Database {
  return {
    open: () => database.open(),
    get: (key) => database.get(key),
    iterator: (range) => database.iterator(range),
    keys: (range) => database.keys(range),
    async batch(operations, options) {
      const around = pointsAround(operations);
      if (around?.before !== undefined) bomb.hit(around.before);
      await database.batch(operations, options);
      if (around?.after !== undefined) bomb.hit(around.after);
    },
    close: () => database.close(),
  };
}

const ofIndex: ReadonlySet<PointName | undefined> = new Set<PointName>([
  "mid-merge",
  "after-merge",
  "mid-taking",
  "after-taking",
  "after-seal",
  "after-stretch",
]);

/** Whether a point is one of `minedIndex`. */
export function isOfIndex(point: PointName | undefined): boolean {
  return ofIndex.has(point);
}

/** What a batch does, by its keys: those of `gateway/store.ts`. */
function pointsAround(
  operations: readonly Operation[],
): { readonly before?: PointName; readonly after: PointName } | undefined {
  const does = (type: Operation["type"], prefix: string) =>
    operations.some((operation) => operation.type === type && operation.key.startsWith(prefix));
  if (!does("put", "entry!")) return undefined;
  if (does("del", "entry!")) return { before: "mid-merge", after: "after-merge" };
  if (does("put", "received!")) return { before: "mid-taking", after: "after-taking" };
  if (does("put", "sealed!")) return { after: "after-seal" };
  return does("put", "round!") ? { after: "after-stretch" } : undefined;
}
