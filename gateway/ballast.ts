import type { Disk } from "@tributary/proto/host/disk.js";
import type { Random } from "@tributary/proto/host/random.js";
import { limits } from "./limits.js";

/**
 * A file that is worth only its place. On a disk that is full to the last byte not even a delete
 * can be written down; letting the ballast go makes room for that, for a start, and for what is
 * shipped and forgotten afterwards. It is made again once space is back.
 */
export type Ballast = {
  readonly bytes: number;
  /** Whether it is there, as far as this process knows. */
  readonly held: boolean;
  /** Lets it go; whether that made room. Never rejects. */
  release(): Promise<boolean>;
  /** Makes it, unless it is there; stays without on a disk that has no room for it. Never rejects. */
  make(): Promise<void>;
};

const PATH = "ballast";
const PIECE_BYTES = 1024 * 1024;

/**
 * Finds the ballast, and lets it go at once on a disk on which a start could write nothing.
 * @param bytes 0: there is none
 */
export async function openBallast(
  disk: Pick<Disk, "exists" | "openAppend" | "remove" | "freeBytes">,
  random: Random,
  bytes: number,
): Promise<Ballast> {
  let held = bytes > 0 && (await disk.exists(PATH));
  let making: Promise<void> | undefined;

  async function write(): Promise<void> {
    const file = await disk.openAppend(PATH);
    try {
      if (file.size !== bytes) await file.truncate(Math.min(file.size, bytes));
      // Bytes that no file system folds into nothing, as it may with zeros.
      const piece = random.bytes(Math.min(PIECE_BYTES, bytes));
      while (file.size < bytes) {
        await file.append([piece.subarray(0, Math.min(piece.length, bytes - file.size))]);
      }
      await file.sync();
      held = true;
    } finally {
      await file.close();
    }
  }

  async function letGo(): Promise<boolean> {
    const found = await disk.exists(PATH);
    await disk.remove(PATH);
    held = false;
    return found;
  }

  const free = await disk.freeBytes().catch(() => 0);
  if (held && free < limits.startBytes) await letGo().catch(() => {});

  return {
    bytes,
    get held() {
      return held;
    },
    async release() {
      await making?.catch(() => {});
      return letGo().catch(() => false);
    },
    async make() {
      if (held || bytes === 0) return;
      making ??= write()
        // Half of it is of no use to anybody.
        .catch(() => letGo().then(() => {}))
        .catch(() => {})
        .finally(() => {
          making = undefined;
        });
      await making;
    },
  };
}
