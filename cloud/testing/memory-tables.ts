import { TributaryError } from "@tributary/proto/wire/errors.js";

/** Rows by key, in the order in which they were added. */
export type MemoryTable<T extends object> = {
  /** Throws `store-conflict` when the key is taken. */
  insert(row: T): void;
  /** False, and nothing changes, when the key is taken. */
  insertNew(row: T): boolean;
  replace(key: string, row: T): void;
  remove(key: string): void;
  get(key: string): T | undefined;
  /** Copies of the rows that match. */
  where(matches: (row: T) => boolean): T[];
};

/** Tables that change together or not at all. Rows go in and come out as copies. */
export type MemoryTables = {
  table<T extends object>(name: string, keyOf: (row: T) => string): MemoryTable<T>;
  /** Undoes what `body` changed when it throws. */
  transaction<R>(body: () => R): R;
};

export function memoryTables(): MemoryTables {
  let undo: (() => void)[] = [];

  function table<T extends object>(name: string, keyOf: (row: T) => string): MemoryTable<T> {
    const rows = new Map<string, T>();
    const set = (key: string, row: T) => {
      const before = rows.get(key);
      undo.push(() => (before === undefined ? rows.delete(key) : rows.set(key, before)));
      rows.set(key, copyOf(row));
    };
    const insertNew = (row: T) => {
      const key = keyOf(row);
      if (rows.has(key)) return false;
      set(key, row);
      return true;
    };
    return {
      insertNew,
      insert(row) {
        if (!insertNew(row))
          throw new TributaryError("store-conflict", `the store has another ${name} ${keyOf(row)}`);
      },
      replace: set,
      remove(key) {
        const before = rows.get(key);
        if (before === undefined) return;
        undo.push(() => rows.set(key, before));
        rows.delete(key);
      },
      get(key) {
        const row = rows.get(key);
        return row && copyOf(row);
      },
      where(matches) {
        const found: T[] = [];
        for (const row of rows.values()) if (matches(row)) found.push(copyOf(row));
        return found;
      },
    };
  }

  return {
    table,
    transaction(body) {
      undo = [];
      try {
        return body();
      } catch (error) {
        for (const revert of undo.reverse()) revert();
        throw error;
      } finally {
        undo = [];
      }
    },
  };
}

/** What a row of a database is to its reader: his own. */
function copyOf<T>(value: T): T {
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof Uint8Array) return new Uint8Array(value) as T;
  if (Array.isArray(value)) return value.map(copyOf) as T;
  return Object.fromEntries(Object.entries(value).map(([field, own]) => [field, copyOf(own)])) as T;
}
