import { encodePartial } from "@tributary/proto/algebra/frame.js";
import type { Partial } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { GatewayEvents } from "./events.js";
import type { SiteTime } from "./site-time.js";
import type { OutboxRecord, SealedRecord, Store } from "./store.js";

/**
 * Sealed Partials that the upstream has not receipted: a file each, named by its sequence, and an
 * index in the store. An entry never changes: identity (gateway, incarnation, sequence) and digest
 * stay as they were sealed.
 */
export type Outbox = {
  readonly count: number;
  readonly bytes: number;
  /** Age of the oldest entry in milliseconds, 0 when empty. */
  oldestAgeMs(): number;
  /** The entry to ship next. */
  first(): OutboxRecord | undefined;
  rounds(): string[];
  /**
   * Makes a Partial and the end of its round durable, in that order; resolves with its entry. Safe
   * to repeat after a failure: only the index makes a file part of the outbox.
   */
  add(
    partial: Partial,
    sealed: Omit<SealedRecord, "order">,
    contributors: Iterable<readonly [string, string]>,
  ): Promise<OutboxRecord>;
  /** The entry's bytes from an offset, in chunks fit for the tier link. */
  read(entry: OutboxRecord, offset: number): AsyncIterable<Uint8Array>;
  /** The upstream has answered for good: forgets the entry. */
  remove(entry: OutboxRecord): Promise<void>;
};

const DIR = "outbox";

const fileOf = (sequence: number) => `${DIR}/${String(sequence).padStart(16, "0")}.partial`;

export async function openOutbox(
  disk: Disk,
  store: Store,
  time: Pick<SiteTime, "logicalMs">,
  events: GatewayEvents,
): Promise<Outbox> {
  await disk.makeDir(DIR);
  const entries = await keepWhole(disk, store, events);
  let adding: Promise<unknown> = Promise.resolve();

  async function write(
    partial: Partial,
    sealed: Omit<SealedRecord, "order">,
    contributors: Iterable<readonly [string, string]>,
  ): Promise<OutboxRecord> {
    const landed = (await store.outbox()).find((entry) => entry.round === sealed.round);
    if (landed !== undefined) {
      // An earlier attempt was written although it reported a failure.
      if (!entries.some((entry) => entry.sequence === landed.sequence)) entries.push(landed);
      return landed;
    }
    const sequence = await store.nextSequence();
    const parts = encodePartial(partial);
    const entry: OutboxRecord = {
      sequence,
      round: sealed.round,
      digest: sha256(parts),
      bytes: parts.reduce((sum, part) => sum + part.length, 0),
      sealedAtMs: time.logicalMs(),
    };
    await disk.writeFileAtomic(fileOf(sequence), parts);
    await store.seal(sealed, contributors, entry);
    entries.push(entry);
    return entry;
  }

  return {
    get count() {
      return entries.length;
    },
    get bytes() {
      return entries.reduce((sum, entry) => sum + entry.bytes, 0);
    },
    oldestAgeMs() {
      const oldest = entries[0];
      return oldest === undefined ? 0 : Math.max(0, time.logicalMs() - oldest.sealedAtMs);
    },
    first: () => entries[0],
    rounds: () => entries.map((entry) => entry.round),
    add(partial, sealed, contributors) {
      // One at a time: the next sequence is the stored one until the index is written.
      const added = adding.then(() => write(partial, sealed, contributors));
      adding = added.catch(() => {});
      return added;
    },
    async *read(entry, offset) {
      const file = await disk.openRead(fileOf(entry.sequence));
      try {
        for (let at = offset; at < entry.bytes; ) {
          const bytes = await file.read(at, Math.min(wire.tierChunkBytes, entry.bytes - at));
          if (bytes.length === 0) {
            const message = `${fileOf(entry.sequence)} ends at byte ${at} of ${entry.bytes}`;
            throw new TributaryError("disk-failed", message);
          }
          yield bytes;
          at += bytes.length;
        }
      } finally {
        await file.close();
      }
    },
    async remove(entry) {
      await store.removePartial(entry.sequence);
      const at = entries.findIndex(({ sequence }) => sequence === entry.sequence);
      if (at >= 0) entries.splice(at, 1);
      // A file that outlives its index entry is removed at the next start.
      await disk.remove(fileOf(entry.sequence)).catch(() => {});
    },
  };
}

/** The index against the files: what a crash left half done is put right. */
async function keepWhole(disk: Disk, store: Store, events: GatewayEvents): Promise<OutboxRecord[]> {
  const indexed = await store.outbox();
  const present = new Set((await disk.list(DIR)).map((name) => `${DIR}/${name}`));
  const whole: OutboxRecord[] = [];
  for (const entry of indexed) {
    const file = fileOf(entry.sequence);
    if (present.delete(file)) {
      whole.push(entry);
      continue;
    }
    // The file is durable before its entry, so this is damage from outside.
    events({ level: "error", name: "storage-failed", what: file, message: "the file is missing" });
    await store.removePartial(entry.sequence);
  }
  for (const orphan of present) await disk.remove(orphan);
  return whole;
}
