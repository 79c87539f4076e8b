import { TributaryError } from "@tributary/proto/wire/errors.js";
import { digestSchema, idSchema } from "@tributary/proto/wire/ids.js";
import { z } from "zod";
import { isSiteId } from "./site-plan.js";
import {
  type AskRecord,
  askSchema,
  type BranchRecord,
  branchSchema,
  type ExpiryRecord,
  expirySchema,
  type FormerOutboxRecord,
  formerOutboxSchema,
  type ModelRecord,
  modelSchema,
  type Origin,
  type OutboxRecord,
  outboxSchema,
  type PublishedRecord,
  publishedSchema,
  type RoundRecord,
  receivedSchema,
  roundSchema,
  type SealedRecord,
  sealedSchema,
  type TakingRecord,
  takingSchema,
} from "./store-records.js";
import {
  type Database,
  del,
  levelDatabase,
  type Operation,
  openTable,
  padded,
  put,
  type Rescue,
} from "./store-table.js";

export type {
  AskRecord,
  BranchRecord,
  ExpiryRecord,
  ModelRecord,
  Origin,
  OutboxRecord,
  PublishedRecord,
  RoundRecord,
  SealedRecord,
  TakingRecord,
} from "./store-records.js";
export type { Database } from "./store-table.js";

/**
 * Version of the keys and records. A store of a newer one is refused, not guessed at. Format 1 kept
 * the outbox under `outbox!`, in records without a base; they are adopted when the outbox opens.
 */
const FORMAT = 2;

/**
 * The gateway's small facts, in LevelDB. Payloads are files; what names them is here. Every write
 * is durable when it resolves, but for those that say otherwise.
 */
export type Store = {
  /** Names this data directory; made with it. */
  readonly incarnation: string;
  /**
   * @param onUnread is told of a record that cannot be read, which is then left out; without it the
   *   call rejects
   */
  openRounds(onUnread?: (round: string, message: string) => void): Promise<RoundRecord[]>;
  asks(round: string): Promise<Map<string, AskRecord>>;
  putRound(record: RoundRecord): Promise<void>;
  /** Not synced: after a power cut a device may be asked again, which is harmless. */
  noteAsks(round: string, asks: Iterable<readonly [string, AskRecord]>): Promise<void>;
  /**
   * In one step: the round is no longer open, its contributors are in the ledger, and its Partial,
   * if there is one, is in the outbox under the next sequence.
   */
  seal(
    sealed: Omit<SealedRecord, "order">,
    contributors: Iterable<readonly [string, string]>,
    partial: OutboxRecord | undefined,
  ): Promise<void>;
  /**
   * In one step: the round stays open as the record has it, the Partial, if there is one, is in the
   * outbox under the next sequence, and, the first time, the round's end and its contributors are in
   * the ledger.
   */
  handOver(
    round: RoundRecord,
    first: FirstEnd | undefined,
    partial: OutboxRecord | undefined,
  ): Promise<void>;
  /** The round is no longer open. */
  removeRound(round: string): Promise<void>;
  sealed(): Promise<SealedRecord[]>;
  /** Digest of the update that a device contributed to a sealed round. */
  recall(round: string, device: string): Promise<string | undefined>;
  /** Devices that contributed to a sealed round. */
  contributors(round: string): Promise<string[]>;

  nextSequence(): Promise<number>;
  /** In ascending order of sequence. */
  outbox(): Promise<OutboxRecord[]>;
  /** In one step: the Partial of a gateway below is in the outbox, and its identity is known. */
  receive(partial: OutboxRecord, origin: Origin, digest: string): Promise<void>;
  /** Digest of the Partial that came under an identity; of each gateway the newest are known. */
  received(origin: Origin): Promise<string | undefined>;
  /** In one step: an entry in place of those that it sums. */
  replacePartials(merged: OutboxRecord, replaced: readonly number[]): Promise<void>;
  /** Takes new marks of entries, in one step. */
  markPartials(marked: readonly OutboxRecord[]): Promise<void>;
  removePartial(sequence: number): Promise<void>;
  /** In one step: the entry is gone, and how it ended is on record. */
  expirePartial(expiry: ExpiryRecord): Promise<void>;
  /** What was no entry, and ended all the same: on record under the next sequence. */
  noteExpiry(expiry: Omit<ExpiryRecord, "sequence">): Promise<void>;
  /** The newest expiries, oldest first. */
  expiries(): Promise<ExpiryRecord[]>;
  /** Entries that format 1 wrote and that are not adopted yet. */
  formerOutbox(): Promise<FormerOutboxRecord[]>;
  /** In one step: no former entry any more, and the Partial, if there is one, in the outbox. */
  adoptFormer(sequence: number, partial: OutboxRecord | undefined): Promise<void>;

  /** Oldest first. */
  branches(): Promise<BranchRecord[]>;
  putBranch(record: BranchRecord): Promise<void>;
  /** In one step: the branch, and what was taken for it. */
  removeBranch(round: string): Promise<void>;
  takings(round: string): Promise<TakingRecord[]>;
  /** In one step. Repeating a record changes nothing. */
  putTakings(records: readonly TakingRecord[]): Promise<void>;

  models(): Promise<ModelRecord[]>;
  putModel(record: ModelRecord): Promise<void>;
  /** Not synced: when a model was used decides only which is evicted first. */
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

/** How a round ended, and the digest of each contributor's update. */
export type FirstEnd = {
  readonly sealed: Omit<SealedRecord, "order">;
  readonly contributors: Iterable<readonly [string, string]>;
};

export type StoreOptions = {
  /** Directory of the LevelDB files; made when missing. */
  readonly path: string;
  /** Makes the incarnation's name, once for each data directory. */
  readonly newIncarnation: () => string;
  /** Sealed rounds whose contributors are remembered: so many of the cloud's, so many of the site's. */
  readonly ledgerRounds: number;
  /** Partials of one gateway below whose identity is remembered. */
  readonly receivedPartials: number;
  /** Partials whose expiry is remembered. */
  readonly expiries: number;
  /** In place of LevelDB. */
  readonly database?: (path: string) => Database;
  readonly rescue?: Rescue;
};

const entryKey = (sequence: number) => `entry!${padded(sequence)}`;
const originText = ({ gateway, incarnation, sequence }: Origin) =>
  `${gateway}!${incarnation}!${padded(sequence)}`;
const receivedKey = (origin: Origin) => `received!${originText(origin)}`;
const takingKey = (record: TakingRecord) => {
  const ofStretch = record.stretch === undefined ? "" : `!${record.stretch}`;
  return `taking!${record.round}!${originText(record)}${ofStretch}`;
};
const sequenceKey = "meta!sequence";

/** Opens the store, or makes it. Rejects with `store-failed` or `store-version`. */
export async function openStore(options: StoreOptions): Promise<Store> {
  const table = await openTable(options.path, options.database ?? levelDatabase, options.rescue);
  const { get, scan, write } = table;

  const format = await get("meta!format", z.number());
  if (format !== undefined && format > FORMAT) {
    await table.close();
    throw new TributaryError(
      "store-version",
      `${options.path} has format ${format}; this build reads up to format ${FORMAT}`,
      { retryable: false },
    );
  }
  const known = await get("meta!incarnation", idSchema);
  const incarnation = known ?? options.newIncarnation();
  if (known === undefined || format !== FORMAT) {
    await write([put("meta!format", FORMAT), put("meta!incarnation", incarnation)], true);
  }
  let sealedCount =
    1 + (await scan("sealed!", sealedSchema)).reduce((n, s) => Math.max(n, s.order), 0);

  /** What makes room in the ledger for one more round. Site rounds push out none of the cloud's. */
  async function forgetRounds(added: string): Promise<Operation[]> {
    const ofSite = isSiteId(added);
    const all = await scan("sealed!", sealedSchema);
    const known = all.filter(({ round }) => isSiteId(round) === ofSite);
    const excess = known.length + 1 - options.ledgerRounds;
    if (excess <= 0) return [];
    const dropped: Operation[] = [];
    for (const { round } of known.sort((a, b) => a.order - b.order).slice(0, excess)) {
      dropped.push(del(`sealed!${round}`));
      for (const key of await table.keys(`ledger!${round}!`)) dropped.push(del(key));
      // Noted while the round ended, behind the look for what was noted of it.
      for (const key of await table.keys(`ask!${round}!`)) dropped.push(del(key));
    }
    return dropped;
  }

  /** The round's end is in the ledger, with its contributors; nobody needs to know who was asked. */
  async function newSealed({ sealed, contributors }: FirstEnd): Promise<Operation[]> {
    const { round } = sealed;
    const operations = await forgetRounds(round);
    for (const key of await table.keys(`ask!${round}!`)) operations.push(del(key));
    operations.push(put(`sealed!${round}`, { ...sealed, order: sealedCount++ }));
    for (const [device, digest] of contributors) {
      operations.push(put(`ledger!${round}!${device}`, digest));
    }
    return operations;
  }

  /** An entry under the next sequence, and the sequence after it. */
  const newEntry = (partial: OutboxRecord): Operation[] => [
    put(entryKey(partial.sequence), partial),
    put(sequenceKey, partial.sequence + 1),
  ];

  const nextSequence = async () => (await get(sequenceKey, z.number().int())) ?? 1;

  /** One more expiry, and the oldest let go. */
  async function newExpiry(expiry: ExpiryRecord): Promise<Operation[]> {
    const keys = await table.keys("expiry!");
    const excess = Math.max(0, keys.length + 1 - options.expiries);
    const dropped = keys.slice(0, excess).map(del);
    return [...dropped, put(`expiry!${padded(expiry.sequence)}`, expiry)];
  }

  /** What is known of a gateway's Partials: one more, and the oldest let go. */
  async function newReceived(origin: Origin, digest: string): Promise<Operation[]> {
    const known = await table.entries(`received!${origin.gateway}!`, receivedSchema);
    known.sort(([, a], [, b]) => a.order - b.order);
    const order = 1 + (known.at(-1)?.[1].order ?? 0);
    const excess = Math.max(0, known.length + 1 - options.receivedPartials);
    const dropped = known.slice(0, excess).map(([key]) => del(key));
    return [...dropped, put(receivedKey(origin), { digest, order })];
  }

  return {
    incarnation,
    async openRounds(onUnread) {
      if (onUnread === undefined) return scan("round!", roundSchema);
      const records: RoundRecord[] = [];
      for (const key of await table.keys("round!")) {
        try {
          const record = await get(key, roundSchema);
          if (record !== undefined) records.push(record);
        } catch (cause) {
          if (!(cause instanceof TributaryError) || cause.retryable) throw cause;
          onUnread(key.slice("round!".length), cause.message);
        }
      }
      return records;
    },
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
    async seal(sealed, contributors, partial) {
      const operations = await newSealed({ sealed, contributors });
      operations.push(del(`round!${sealed.round}`));
      if (partial !== undefined) operations.push(...newEntry(partial));
      await write(operations, true);
    },
    async handOver(round, first, partial) {
      const operations = first === undefined ? [] : await newSealed(first);
      operations.push(put(`round!${round.round}`, round));
      if (partial !== undefined) operations.push(...newEntry(partial));
      await write(operations, true);
    },
    removeRound: (round) => write([del(`round!${round}`)], true),
    sealed: async () => (await scan("sealed!", sealedSchema)).sort((a, b) => a.order - b.order),
    recall: (round, device) => get(`ledger!${round}!${device}`, digestSchema),
    async contributors(round) {
      const prefix = `ledger!${round}!`;
      return (await table.keys(prefix)).map((key) => key.slice(prefix.length));
    },

    nextSequence,
    outbox: () => scan("entry!", outboxSchema),
    async receive(partial, origin, digest) {
      await write([...newEntry(partial), ...(await newReceived(origin, digest))], true);
    },
    received: async (origin) => (await get(receivedKey(origin), receivedSchema))?.digest,
    replacePartials: (merged, replaced) =>
      write([...newEntry(merged), ...replaced.map((sequence) => del(entryKey(sequence)))], true),
    markPartials: (marked) =>
      write(
        marked.map((partial) => put(entryKey(partial.sequence), partial)),
        true,
      ),
    removePartial: (sequence) => write([del(entryKey(sequence))], true),
    async expirePartial(expiry) {
      await write([del(entryKey(expiry.sequence)), ...(await newExpiry(expiry))], true);
    },
    async noteExpiry(expiry) {
      const sequence = await nextSequence();
      const noted = await newExpiry({ ...expiry, sequence });
      await write([put(sequenceKey, sequence + 1), ...noted], true);
    },
    expiries: () => scan("expiry!", expirySchema),
    formerOutbox: () => scan("outbox!", formerOutboxSchema),
    async adoptFormer(sequence, partial) {
      const adopted = partial === undefined ? [] : [put(entryKey(sequence), partial)];
      await write([del(`outbox!${padded(sequence)}`), ...adopted], true);
    },

    branches: async () => (await scan("branch!", branchSchema)).sort((a, b) => a.order - b.order),
    putBranch: (record) => write([put(`branch!${record.round}`, record)], true),
    async removeBranch(round) {
      const takings = await table.keys(`taking!${round}!`);
      await write([del(`branch!${round}`), ...takings.map(del)], true);
    },
    takings: (round) => scan(`taking!${round}!`, takingSchema),
    putTakings: (records) =>
      write(
        records.map((record) => put(takingKey(record), record)),
        true,
      ),

    models: () => scan("model!", modelSchema),
    putModel: (record) => write([put(`model!${record.manifest.digest}`, record)], true),
    touchModel: (record) => write([put(`model!${record.manifest.digest}`, record)], false),
    removeModel: (digest) => write([del(`model!${digest}`)], true),
    published: () => scan("published!", publishedSchema),
    putPublished: (session, record) => write([put(`published!${session}`, record)], true),
    removePublished: (session) => write([del(`published!${session}`)], true),
    readNote: (name, schema) => get(`note!${name}`, schema),
    putNote: (name, value, { sync }) => write([put(`note!${name}`, value)], sync),
    close: () => table.close(),
  };
}
