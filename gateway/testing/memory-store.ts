import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type Database, openStore, type Store, type StoreOptions } from "../store.js";

type Batch = Parameters<Database["batch"]>[0];

/**
 * A LevelDB in memory, for tests and simulation: the store above it is the real one. It keeps apart
 * what is written and what is durable: `crash` throws away batches that no synced one followed.
 */
export type MemoryIndex = {
  /** In place of LevelDB; what it opens sees what was written before. */
  readonly database: (path: string) => Database;
  /** Loses unsynced batches, from a point on that `kept` (in [0, 1)) picks, as a power cut does. */
  crash(kept: number): void;
  /** From now on writes fail with `disk-full`, or no more. */
  fail(how: "none" | "full"): void;
  readonly syncs: number;
};

export function memoryIndex(): MemoryIndex {
  let written = new Map<string, Uint8Array>();
  const durable = new Map<string, Uint8Array>();
  /** Batches in `written` and not in `durable`, in order. */
  let unsynced: Batch[] = [];
  let failing: "none" | "full" = "none";
  let syncs = 0;

  const apply = (to: Map<string, Uint8Array>, operations: Batch): void => {
    for (const operation of operations) {
      if (operation.type === "put") to.set(operation.key, operation.value.slice());
      else to.delete(operation.key);
    }
  };

  return {
    database() {
      let open = false;
      const live = () => {
        if (!open) throw new Error("the database is not open");
        return written;
      };
      const within = ({ gte, lt }: { readonly gte: string; readonly lt: string }) =>
        [...live().keys()].filter((key) => key >= gte && key < lt).sort();
      return {
        async open() {
          open = true;
        },
        get: async (key) => live().get(key)?.slice(),
        iterator: (range) => ({
          all: async () =>
            within(range).map((key): [string, Uint8Array] => [
              key,
              (written.get(key) as Uint8Array).slice(),
            ]),
        }),
        keys: (range) => ({ all: async () => within(range) }),
        async batch(operations, { sync }) {
          const now = live();
          if (failing === "full")
            throw new TributaryError("disk-full", "no space for the index", { retryable: true });
          apply(now, operations);
          unsynced.push(operations);
          if (!sync) return;
          syncs++;
          for (const batch of unsynced) apply(durable, batch);
          unsynced = [];
        },
        async close() {
          open = false;
        },
      };
    },
    crash(kept) {
      for (const batch of unsynced.slice(0, Math.floor(kept * (unsynced.length + 1))))
        apply(durable, batch);
      written = new Map(durable);
      unsynced = [];
    },
    fail(how) {
      failing = how;
    },
    get syncs() {
      return syncs;
    },
  };
}

/** The real store on an index in memory. */
export function openMemoryStore(
  index: MemoryIndex,
  options: Omit<StoreOptions, "path" | "database">,
): Promise<Store> {
  return openStore({ ...options, path: "memory", database: index.database });
}
