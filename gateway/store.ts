import { decodeCbor, encodeCbor } from "@tributary/proto/wire/cbor.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { digestSchema, idSchema, numberedIdSchema } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { layoutSchema, manifestSchema } from "@tributary/proto/wire/plan.js";
import { Level } from "level";
import { z } from "zod";

/** Version of the keys and records below. A store of a newer one is refused, not guessed at. */
const FORMAT = 1;

const bytesSchema = z.custom<Uint8Array>((value) => value instanceof Uint8Array);
const count = z.number().int().min(0);

const roundSchema = z.strictObject({
  round: numberedIdSchema,
  /** The plan's CBOR, as the cloud wrote it. */
  plan: bytesSchema,
  roster: z.array(idSchema),
  /** Wall-clock time of the site deadline: it goes on while the gateway is down. */
  deadlineAtMs: z.number(),
});
export type RoundRecord = z.infer<typeof roundSchema>;

const askSchema = z.enum(["offered", "declined"]);
export type AskRecord = z.infer<typeof askSchema>;

const sealedSchema = z.strictObject({
  round: numberedIdSchema,
  /** Counts up over all sealed rounds, so that the oldest are forgotten first. */
  order: count,
  offered: count,
  folded: count,
  declined: count,
});
export type SealedRecord = z.infer<typeof sealedSchema>;

const outboxSchema = z.strictObject({
  sequence: count,
  round: numberedIdSchema,
  digest: digestSchema,
  bytes: count,
  sealedAtMs: z.number(),
});
export type OutboxRecord = z.infer<typeof outboxSchema>;

const modelSchema = z.strictObject({
  manifest: manifestSchema,
  usedAtMs: z.number(),
  /** Whether the whole file is on disk and has its digest. */
  complete: z.boolean(),
});
export type ModelRecord = z.infer<typeof modelSchema>;

const publishedSchema = z.strictObject({ manifest: manifestSchema, layout: layoutSchema });
export type PublishedRecord = z.infer<typeof publishedSchema>;

/**
 * The gateway's small facts, in LevelDB. Payloads are files; what names them is here. Every write
 * but `noteAsks` and `touchModel` is durable when it resolves.
 */
export type Store = {
  /** Names this data directory; made with it. */
  readonly incarnation: string;
  openRounds(): Promise<RoundRecord[]>;
  asks(round: string): Promise<Map<string, AskRecord>>;
  putRound(record: RoundRecord): Promise<void>;
  /** Not synced: after a power cut a device may be asked again, which is harmless. */
  noteAsks(round: string, asks: Iterable<readonly [string, AskRecord]>): Promise<void>;
  nextSequence(): Promise<number>;
  /**
   * In one step: the round is no longer open, its contributors are in the ledger, and its Partial,
   * if there is one, is in the outbox under the next sequence.
   */
  seal(
    sealed: Omit<SealedRecord, "order">,
    contributors: Iterable<readonly [string, string]>,
    partial: OutboxRecord | undefined,
  ): Promise<void>;
  sealed(): Promise<SealedRecord[]>;
  /** Digest of the update that a device contributed to a sealed round. */
  recall(round: string, device: string): Promise<string | undefined>;
  outbox(): Promise<OutboxRecord[]>;
  removePartial(sequence: number): Promise<void>;
  models(): Promise<ModelRecord[]>;
  putModel(record: ModelRecord): Promise<void>;
  touchModel(record: ModelRecord): Promise<void>;
  removeModel(digest: string): Promise<void>;
  published(): Promise<PublishedRecord[]>;
  putPublished(session: string, record: PublishedRecord): Promise<void>;
  removePublished(session: string): Promise<void>;
  /** A small record of a part that keeps one, by the part's name. */
  readNote<S extends z.ZodType>(name: string, schema: S): Promise<z.infer<S> | undefined>;
  /** Without `sync` a power cut may take it, a kill does not. */
  putNote(name: string, value: unknown, options: { readonly sync: boolean }): Promise<void>;
  close(): Promise<void>;
};

export type StoreOptions = {
  /** Directory of the LevelDB files; made when missing. */
  readonly path: string;
  /** Makes the incarnation's name, once for each data directory. */
  readonly newIncarnation: () => string;
  /** Sealed rounds whose contributors are remembered. */
  readonly ledgerRounds: number;
  /** In place of LevelDB. */
  readonly database?: (path: string) => Database;
};

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

const levelDatabase = (path: string): Database =>
  new Level<string, Uint8Array>(path, { keyEncoding: "utf8", valueEncoding: "view" });

const recordBounds = { depth: wire.headerDepth + 2, items: 4 * wire.contributors };

function put(key: string, value: unknown): Put {
  return { type: "put", key, value: encodeCbor(value) };
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

const padded = (sequence: number) => String(sequence).padStart(16, "0");

/** Opens the store, or makes it. Rejects with `store-failed` or `store-version`. */
export async function openStore(options: StoreOptions): Promise<Store> {
  const table = await openTable(options.path, options.database ?? levelDatabase);
  const { get, scan, write } = table;

  const format = await get("meta!format", z.number());
  if (format !== undefined && format !== FORMAT) {
    await table.close();
    throw new TributaryError(
      "store-version",
      `${options.path} has format ${format}; this build reads format ${FORMAT}`,
      { retryable: false },
    );
  }
  let incarnation = await get("meta!incarnation", idSchema);
  if (incarnation === undefined) {
    incarnation = options.newIncarnation();
    await write([put("meta!format", FORMAT), put("meta!incarnation", incarnation)], true);
  }
  let sealedCount =
    1 + (await scan("sealed!", sealedSchema)).reduce((n, s) => Math.max(n, s.order), 0);

  /** What makes room in the ledger for one more round. */
  async function forgetOldest(): Promise<Del[]> {
    const known = await scan("sealed!", sealedSchema);
    const excess = known.length + 1 - options.ledgerRounds;
    if (excess <= 0) return [];
    const dropped: Del[] = [];
    for (const { round } of known.sort((a, b) => a.order - b.order).slice(0, excess)) {
      dropped.push({ type: "del", key: `sealed!${round}` });
      for (const key of await table.keys(`ledger!${round}!`)) dropped.push({ type: "del", key });
    }
    return dropped;
  }

  const sequenceKey = "meta!sequence";
  return {
    incarnation,
    openRounds: () => scan("round!", roundSchema),
    async asks(round) {
      const prefix = `ask!${round}!`;
      const entries = await table.entries(prefix, askSchema);
      return new Map(entries.map(([key, ask]) => [key.slice(prefix.length), ask]));
    },
    putRound: (record) => write([put(`round!${record.round}`, record)], true),
    noteAsks: (round, asks) =>
      write(
        [...asks].map(([device, ask]) => put(`ask!${round}!${device}`, ask)),
        false,
      ),
    nextSequence: async () => (await get(sequenceKey, count)) ?? 1,
    async seal(sealed, contributors, partial) {
      const { round } = sealed;
      const operations: (Put | Del)[] = await forgetOldest();
      operations.push({ type: "del", key: `round!${round}` });
      for (const key of await table.keys(`ask!${round}!`)) operations.push({ type: "del", key });
      operations.push(put(`sealed!${round}`, { ...sealed, order: sealedCount++ }));
      for (const [device, digest] of contributors) {
        operations.push(put(`ledger!${round}!${device}`, digest));
      }
      if (partial !== undefined) {
        operations.push(put(`outbox!${padded(partial.sequence)}`, partial));
        operations.push(put(sequenceKey, partial.sequence + 1));
      }
      await write(operations, true);
    },
    sealed: async () => (await scan("sealed!", sealedSchema)).sort((a, b) => a.order - b.order),
    recall: (round, device) => get(`ledger!${round}!${device}`, digestSchema),
    outbox: () => scan("outbox!", outboxSchema),
    removePartial: (sequence) => write([{ type: "del", key: `outbox!${padded(sequence)}` }], true),
    models: () => scan("model!", modelSchema),
    putModel: (record) => write([put(`model!${record.manifest.digest}`, record)], true),
    touchModel: (record) => write([put(`model!${record.manifest.digest}`, record)], false),
    removeModel: (digest) => write([{ type: "del", key: `model!${digest}` }], true),
    published: () => scan("published!", publishedSchema),
    putPublished: (session, record) => write([put(`published!${session}`, record)], true),
    removePublished: (session) => write([{ type: "del", key: `published!${session}` }], true),
    readNote: (name, schema) => get(`note!${name}`, schema),
    putNote: (name, value, { sync }) => write([put(`note!${name}`, value)], sync),
    close: () => table.close(),
  };
}

/**
 * LevelDB answers every call with an error once a write has failed on a full disk, even after space
 * is free again, until it is opened anew: so a call that fails reopens it and is tried once more.
 */
async function openTable(path: string, createDatabase: (path: string) => Database) {
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
  async function attempt<T>(work: (database: Database) => Promise<T>): Promise<T> {
    if (closed) throw new TributaryError("store-failed", `${path} is closed`);
    const current = database ?? (await open());
    try {
      return await work(current);
    } catch {
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
    async get<S extends z.ZodType>(key: string, schema: S): Promise<z.infer<S> | undefined> {
      const bytes = await attempt((db) => db.get(key));
      return bytes === undefined ? undefined : read(schema, key, bytes);
    },
    async entries<S extends z.ZodType>(prefix: string, schema: S): Promise<[string, z.infer<S>][]> {
      const found = await attempt((db) => db.iterator(range(prefix)).all());
      return found.map(([key, bytes]) => [key, read(schema, key, bytes)]);
    },
    async scan<S extends z.ZodType>(prefix: string, schema: S): Promise<z.infer<S>[]> {
      const found = await attempt((db) => db.iterator(range(prefix)).all());
      return found.map(([key, bytes]) => read(schema, key, bytes));
    },
    keys: (prefix: string) => attempt((db) => db.keys(range(prefix)).all()),
    write: (operations: (Put | Del)[], sync: boolean) =>
      attempt((db) => db.batch(operations, { sync })),
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
