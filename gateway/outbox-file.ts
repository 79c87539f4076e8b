import { decodePartial, encodePartial } from "@tributary/proto/algebra/frame.js";
import type { Partial } from "@tributary/proto/algebra/partial.js";
import { createHasher, sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";

/** What names the bytes of an entry. */
export type Named = { readonly sequence: number; readonly digest: string; readonly bytes: number };

/** The Partials of the outbox as files, each named by its sequence. */
export type OutboxFiles = {
  sequences(): Promise<number[]>;
  /** Makes a Partial durable; resolves with its digest and length. */
  write(sequence: number, partial: Partial): Promise<Omit<Named, "sequence">>;
  /** Its bytes from an offset, in chunks fit for the tier link. */
  stream(entry: Named, offset: number): AsyncIterable<Uint8Array>;
  /** Whether the bytes are still those that were written. */
  intact(entry: Named): Promise<boolean>;
  /** The Partial itself; undefined when its bytes are not those that were written. */
  load(entry: Named): Promise<Partial | undefined>;
  /** Never rejects: a file that cannot be removed now is tried again by each later call. */
  remove(sequence: number): Promise<void>;
  /** Tries again to remove what could not be removed. Never rejects. */
  sweep(): Promise<void>;
};

const DIR = "outbox";
const SUFFIX = ".partial";

const fileOf = (sequence: number) => `${DIR}/${String(sequence).padStart(16, "0")}${SUFFIX}`;

export async function openOutboxFiles(disk: Disk): Promise<OutboxFiles> {
  await disk.makeDir(DIR);
  const doomed = new Set<number>();

  async function sweep(): Promise<void> {
    for (const sequence of [...doomed]) {
      try {
        await disk.remove(fileOf(sequence));
        doomed.delete(sequence);
      } catch {
        // It stays doomed, and no entry of the index names it: the next start removes it at the latest.
      }
    }
  }

  async function* stream({ sequence, bytes }: Named, offset: number) {
    const file = await disk.openRead(fileOf(sequence));
    try {
      for (let at = offset; at < bytes; ) {
        const chunk = await file.read(at, Math.min(wire.tierChunkBytes, bytes - at));
        if (chunk.length === 0) {
          const message = `${fileOf(sequence)} ends at byte ${at} of ${bytes}`;
          throw new TributaryError("disk-failed", message);
        }
        yield chunk;
        at += chunk.length;
      }
    } finally {
      await file.close();
    }
  }

  async function sizeOf({ sequence }: Named): Promise<number> {
    if (!(await disk.exists(fileOf(sequence)))) return 0;
    const file = await disk.openRead(fileOf(sequence));
    await file.close();
    return file.size;
  }

  return {
    async sequences() {
      const names = await disk.list(DIR);
      return names.filter((name) => name.endsWith(SUFFIX)).map((name) => Number.parseInt(name, 10));
    },
    async write(sequence, partial) {
      const parts = encodePartial(partial);
      // Only what reached the index uses its sequence up.
      doomed.delete(sequence);
      await disk.writeFileAtomic(fileOf(sequence), parts);
      const bytes = parts.reduce((sum, part) => sum + part.length, 0);
      return { digest: sha256(parts), bytes };
    },
    stream,
    async intact(entry) {
      if ((await sizeOf(entry)) !== entry.bytes) return false;
      const hasher = createHasher();
      for await (const chunk of stream(entry, 0)) hasher.update(chunk);
      return hasher.digest() === entry.digest;
    },
    async load(entry) {
      if ((await sizeOf(entry)) !== entry.bytes) return undefined;
      const bytes = await disk.readFile(fileOf(entry.sequence));
      if (sha256(bytes) !== entry.digest) return undefined;
      const decoded = decodePartial(bytes);
      return decoded.ok ? decoded.partial : undefined;
    },
    remove(sequence) {
      doomed.add(sequence);
      return sweep();
    },
    sweep,
  };
}
