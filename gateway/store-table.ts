import { decodeCbor, encodeCbor } from "@tributary/proto/wire/cbor.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { Level } from "level";
import type { z } from "zod";

type Put = { type: "put"; key: string; value: Uint8Array };
type Del = { type: "del"; key: string };
type Range = { readonly gte: string; readonly lt: string };

/** What the store needs of LevelDB: keys in ascending order, batches that are written whole or not at all. */
export type Database = {
  open(): Promise<void>;
  get(key: string): Promise<Uint8Array | undefined>;
  iterator(range: Range): { all(): Promise<[string, Uint8Array][]> };
  keys(range: Range): { all(): Promise<string[]> };
  /** With `sync` durable when it resolves; without, with the next one that is. */
  batch(operations: (Put | Del)[], options: { readonly sync: boolean }): Promise<void>;
  close(): Promise<void>;
};

export type Operation = Put | Del;

/** Records by key: CBOR on a database that is opened anew when it fails. */
export type Table = {
  get<S extends z.ZodType>(key: string, schema: S): Promise<z.infer<S> | undefined>;
  entries<S extends z.ZodType>(prefix: string, schema: S): Promise<[string, z.infer<S>][]>;
  scan<S extends z.ZodType>(prefix: string, schema: S): Promise<z.infer<S>[]>;
  keys(prefix: string): Promise<string[]>;
  /** All of it or nothing; after a failure either may be true. */
  write(operations: Operation[], sync: boolean): Promise<void>;
  close(): Promise<void>;
};

const recordBounds = { depth: wire.headerDepth + 2, items: 4 * wire.contributors };

export function put(key: string, value: unknown): Operation {
  return { type: "put", key, value: encodeCbor(value) };
}

export function del(key: string): Operation {
  return { type: "del", key };
}

/** A whole number as part of a key, so that keys are in its order. */
export function padded(number: number): string {
  return String(number).padStart(16, "0");
}

function read<S extends z.ZodType>(schema: S, key: string, bytes: Uint8Array): z.infer<S> {
  const cbor = decodeCbor(bytes, recordBounds);
  const record = schema.safeParse(cbor.ok ? cbor.value : undefined);
  if (record.success) return record.data;
  throw new TributaryError("store-failed", `the record ${key} cannot be read`, {
    retryable: false,
    cause: record.error,
  });
}

export const levelDatabase = (path: string): Database =>
  new Level<string, Uint8Array>(path, { keyEncoding: "utf8", valueEncoding: "view" });

/** Who is told when the database fails, before it is tried again. */
export type Rescue = {
  /** @param cause `disk-full`, `disk-read-only` or `store-failed` */
  failed(cause: TributaryError): void;
  /** Frees some of a full disk; whether it could. */
  makeRoom(): Promise<boolean>;
};

/**
 * LevelDB answers every call with an error once a write has failed on a full disk, even after space
 * is free again, until it is opened anew: so a call that fails reopens it and is tried once more.
 */
export async function openTable(
  path: string,
  createDatabase: (path: string) => Database,
  rescue?: Rescue,
): Promise<Table> {
  let database: Database | undefined;
  let reopening: Promise<Database> | undefined;
  let closed = false;

  async function open(): Promise<Database> {
    const fresh = createDatabase(path);
    await fresh.open().catch((cause: unknown) => {
      // LevelDB's own error says only that it is not open; what stopped it is the cause.
      const why = describe(cause instanceof Error ? (cause.cause ?? cause) : cause);
      const message = `the store ${path} cannot be opened: ${why}`;
      throw new TributaryError("store-failed", message, { retryable: true, cause });
    });
    database = fresh;
    return fresh;
  }
  async function reopen(failed: Database): Promise<Database> {
    if (database !== undefined && database !== failed) return database;
    reopening ??= (async () => {
      await failed.close().catch(() => {});
      return open();
    })().finally(() => {
      reopening = undefined;
    });
    return reopening;
  }
  async function report(cause: unknown): Promise<boolean> {
    const code = codeOf(cause);
    const message = `${path}: ${describe(cause)}`;
    rescue?.failed(new TributaryError(code, message, { retryable: true, cause }));
    return code === "disk-full" && ((await rescue?.makeRoom()) ?? false);
  }
  async function openFirst(): Promise<Database> {
    try {
      return await open();
    } catch (cause) {
      if (!(await report(cause))) throw cause;
      return open();
    }
  }
  async function attempt<T>(work: (database: Database) => Promise<T>): Promise<T> {
    if (closed) throw new TributaryError("store-failed", `${path} is closed`);
    const current = database ?? (await openFirst());
    try {
      return await work(current);
    } catch (first) {
      await report(first);
      try {
        return await work(await reopen(current));
      } catch (cause) {
        throw new TributaryError("store-failed", `${path}: ${describe(cause)}`, {
          retryable: true,
          cause,
        });
      }
    }
  }
  const range = (prefix: string) => ({ gte: prefix, lt: `${prefix}\u007f` });

  await attempt(async () => {});
  return {
    async get(key, schema) {
      const bytes = await attempt((db) => db.get(key));
      return bytes === undefined ? undefined : read(schema, key, bytes);
    },
    async entries(prefix, schema) {
      const found = await attempt((db) => db.iterator(range(prefix)).all());
      return found.map(([key, bytes]) => [key, read(schema, key, bytes)]);
    },
    async scan(prefix, schema) {
      const found = await attempt((db) => db.iterator(range(prefix)).all());
      return found.map(([key, bytes]) => read(schema, key, bytes));
    },
    keys: (prefix) => attempt((db) => db.keys(range(prefix)).all()),
    write: (operations, sync) => attempt((db) => db.batch(operations, { sync })),
    async close() {
      closed = true;
      await reopening?.catch(() => {});
      await database?.close();
    },
  };
}

function describe(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** LevelDB gives the system's error only in words. */
function codeOf(cause: unknown): "disk-full" | "disk-read-only" | "store-failed" {
  for (let at = cause; at instanceof Error; at = at.cause) {
    if (/no space left|disk quota/i.test(at.message)) return "disk-full";
    if (/read-only file system|permission denied/i.test(at.message)) return "disk-read-only";
    if (at instanceof TributaryError && at.code === "disk-full") return "disk-full";
    if (at instanceof TributaryError && at.code === "disk-read-only") return "disk-read-only";
  }
  return "store-failed";
}
