import type { Disk } from "@tributary/proto/host/disk.js";
import { type Journal, openJournal } from "@tributary/proto/host/journal.js";
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

export type RoundJournal = {
  /** Resolves once the record is durable. */
  append(record: RoundRecord): Promise<void>;
  /** The records in the order they were appended, one in memory at a time. */
  read(visit: (record: RoundRecord) => Promise<void> | void): Promise<void>;
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
      const seen = new Set<string>();
      await journal.read(async ({ kind, body }) => {
        const record = readRecord(kind, body);
        if (record.kind === "partial") {
          // A record whose sync failed may be on disk all the same, before its repetition.
          const identity = identityText(record.head);
          if (seen.has(identity)) return;
          seen.add(identity);
        }
        await visit(record);
      });
    },
    close,
    async remove() {
      await close();
      await disk.remove(path);
    },
  };
}

export const JOURNAL_FOLDER = "rounds";

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
