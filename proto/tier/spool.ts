import type { Disk } from "../host/disk.js";
import { limits } from "./limits.js";

/**
 * Where the bytes of an unfinished upload wait: in memory when there are few, else in a file. Not
 * durable: after a restart the sender is told that nothing arrived.
 */
export type Spool = {
  append(bytes: Uint8Array): Promise<void>;
  /** Everything appended, in one piece. */
  read(): Promise<Uint8Array>;
  clear(): Promise<void>;
  discard(): Promise<void>;
};

export const SPOOL_FOLDER = "inbox";

export async function createSpool(disk: Disk, name: string, totalBytes: number): Promise<Spool> {
  if (totalBytes <= limits.spoolInMemoryBytes) return memorySpool();
  const path = `${SPOOL_FOLDER}/${name}.part`;
  await disk.remove(path);
  const file = await disk.openAppend(path);
  return {
    append: (bytes) => file.append([bytes]),
    read: () => disk.readFile(path),
    clear: () => file.truncate(0),
    async discard() {
      await file.close();
      await disk.remove(path);
    },
  };
}

function memorySpool(): Spool {
  let pieces: Uint8Array[] = [];
  return {
    async append(bytes) {
      pieces.push(bytes.slice());
    },
    async read() {
      return new Uint8Array(Buffer.concat(pieces));
    },
    async clear() {
      pieces = [];
    },
    async discard() {
      pieces = [];
    },
  };
}
