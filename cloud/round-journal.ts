import type { Disk } from "@tributary/proto/host/disk.js";
import { type Journal, openJournal } from "@tributary/proto/host/journal.js";
import { salvageJournal } from "@tributary/proto/host/journal-salvage.js";
import type { Random } from "@tributary/proto/host/random.js";
import { identityText } from "@tributary/proto/tier/identity.js";
import { decodeCbor, encodeCbor } from "@tributary/proto/wire/cbor.js";
import { digestSchema, idSchema } from "@tributary/proto/wire/ids.js";
import { limits } from "@tributary/proto/wire/limits.js";
import { z } from "zod";

/**
 * What an open round keeps on disk: the Partials it accepted, as they came, and which gateways said
 * that they have nothing. One file per round, removed once the round's end is in the store.
 */

const partialSchema = z.strictObject({
  gateway: idSchema,
  incarnation: idSchema,
  sequence: z.number().int().min(0),
  digest: digestSchema,
  receivedAtMs: z.number().int(),
  /** Contributions to the round that its gateway had said it has; absent where it had said nothing. */
  expected: z.number().int().min(0).optional(),
});
const standingSchema = z.strictObject({
  gateway: idSchema,
  standing: z.enum(["empty", "refused"]),
});

export type PartialRecord = z.infer<typeof partialSchema>;
export type StandingRecord = z.infer<typeof standingSchema>;

export type RoundRecord =
  | { readonly kind: "partial"; readonly head: PartialRecord; readonly bytes: Uint8Array }
  | { readonly kind: "standing"; readonly head: StandingRecord };

/** What is wrong with a journal's file. */
export type JournalDamage = {
  readonly path: string;
  /** Where its bytes are kept. */
  readonly aside: string;
  /** Bytes that belong to no whole record. */
  readonly gaps: readonly { readonly offset: number; readonly bytes: number }[];
  /** Identities of Partials that seem to be in the gaps; others may be there, too. */
  readonly unread: readonly string[];
};

export type RoundJournal = {
  /** Resolves once the record is durable. */
  append(record: RoundRecord): Promise<void>;
  /** The records in the order they were appended, one in memory at a time. */
  read(visit: (record: RoundRecord) => Promise<void> | void): Promise<void>;
  /** As `read`, past whatever is damaged; a copy of the whole file is durable before that. */
  salvage(visit: (record: RoundRecord) => Promise<void> | void): Promise<JournalDamage>;
  close(): Promise<void>;
  remove(): Promise<void>;
};

const JOURNAL_LIMITS = {
  frameBytes: limits.partialBytes + 4096,
  pendingBytes: limits.partialBytes + 4096,
};
const KIND_PARTIAL = 1;
const KIND_STANDING = 2;
const LENGTH_BYTES = 4;

/** The file is made with the first record. A journal that failed once is opened again by the next. */
export function createRoundJournal(disk: Disk, random: Random, round: string): RoundJournal {
  const path = journalPath(round);
  let open: Journal | undefined;
  const opened = async () => {
    open ??= await openJournal(disk, path, { limits: JOURNAL_LIMITS, random });
    return open;
  };
  const close = async () => {
    const closing = open;
    open = undefined;
    await closing?.close();
  };
  return {
    async append(record) {
      const head = encodeCbor(record.head);
      const length = new Uint8Array(LENGTH_BYTES);
      new DataView(length.buffer).setUint32(0, head.length, true);
      const partial = record.kind === "partial";
      const parts = partial ? [length, head, record.bytes] : [length, head];
      const journal = await opened();
      try {
        await journal.append(partial ? KIND_PARTIAL : KIND_STANDING, parts);
      } catch (error) {
        await close().catch(() => undefined);
        throw error;
      }
    },
    async read(visit) {
      if (open === undefined && !(await disk.exists(path))) return;
      const journal = await opened();
      const { take } = eachOnce(visit);
      await journal.read(({ kind, body }) => take(readRecord(kind, body)));
    },
    async salvage(visit) {
      const aside = `${DAMAGED_FOLDER}/${round}${SUFFIX}.damaged`;
      await copyFile(disk, path, aside);
      const { seen, take } = eachOnce(visit);
      const { frameBytes } = JOURNAL_LIMITS;
      const salvaged = await salvageJournal(disk, path, frameBytes, ({ kind, body }) =>
        take(readRecord(kind, body)),
      );
      const broken = salvaged.gaps.flatMap((gap) => gap.broken).map(identityIn);
      const unread = new Set(broken.filter((of) => of !== undefined && !seen.has(of)));
      const gaps = salvaged.gaps.map(({ offset, bytes }) => ({ offset, bytes }));
      return { path, aside, gaps, unread: [...unread].filter((of) => of !== undefined) };
    },
    close,
    async remove() {
      await close();
      await disk.remove(path);
    },
  };
}

/** A record whose sync failed may be on disk all the same, before its repetition. */
function eachOnce(visit: (record: RoundRecord) => Promise<void> | void) {
  const seen = new Set<string>();
  const take = async (record: RoundRecord): Promise<void> => {
    if (record.kind === "partial") {
      const identity = identityText(record.head);
      if (seen.has(identity)) return;
      seen.add(identity);
    }
    await visit(record);
  };
  return { seen, take };
}

/** Whose Partial a record seems to be whose checksum fails. */
function identityIn({ kind, body }: { readonly kind: number; readonly body: Uint8Array }) {
  try {
    const record = readRecord(kind, body);
    return record.kind === "partial" ? identityText(record.head) : undefined;
  } catch {
    return undefined;
  }
}

const COPY_BYTES = 1 << 20;

/** Durable when it resolves. */
async function copyFile(disk: Disk, from: string, to: string): Promise<void> {
  const reader = await disk.openRead(from);
  try {
    const file = await disk.openAppend(to);
    try {
      await file.truncate(0);
      for (let at = 0; at < reader.size; at += COPY_BYTES)
        await file.append([await reader.read(at, COPY_BYTES)]);
      await file.sync();
    } finally {
      await file.close();
    }
  } finally {
    await reader.close();
  }
}

export const JOURNAL_FOLDER = "rounds";
/** Damaged journals of rounds that ended all the same. */
const DAMAGED_FOLDER = "damaged";

const SUFFIX = ".journal";

function journalPath(round: string): string {
  return `${JOURNAL_FOLDER}/${round}${SUFFIX}`;
}

/** The round whose journal a file in the folder is. */
export function roundOfJournal(file: string): string | undefined {
  return file.endsWith(SUFFIX) ? file.slice(0, -SUFFIX.length) : undefined;
}

function readRecord(kind: number, payload: Uint8Array): RoundRecord {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const end = LENGTH_BYTES + view.getUint32(0, true);
  const cbor = decodeCbor(payload.subarray(LENGTH_BYTES, end), { depth: 2, items: 32 });
  if (!cbor.ok) throw new Error(`a record of a round's journal is unreadable: ${cbor.message}`);
  if (kind === KIND_STANDING) return { kind: "standing", head: standingSchema.parse(cbor.value) };
  if (kind !== KIND_PARTIAL) throw new Error(`a round's journal holds a record of kind ${kind}`);
  return { kind: "partial", head: partialSchema.parse(cbor.value), bytes: payload.subarray(end) };
}
