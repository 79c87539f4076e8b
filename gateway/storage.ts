import type { Clock } from "@tributary/proto/host/clock.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import type { StorageFacts } from "./admit.js";
import { limits } from "./limits.js";

/** What the gateway's results take up on disk, for the budget it states. */
export type StorageUse = {
  /** Journals of open rounds and Partials in the outbox, in bytes. */
  usedBytes(): number;
  /** What the open rounds' Partials will take once sealed, in bytes. */
  promisedBytes(): number;
  outboxPartials(): number;
};

export type Storage = StorageFacts & {
  /** Free space of the disk at the last reading, in bytes. */
  readonly freeBytes: number;
  /** Reads the free space anew when the last reading is too old. Never rejects. */
  refresh(): Promise<void>;
};

/**
 * Says whether something still fits: within the budget, and without touching the reserve, which is
 * what keeps the index writable on a disk that others fill.
 */
export async function createStorage(
  disk: Pick<Disk, "freeBytes">,
  clock: Clock,
  use: StorageUse,
  bounds: { readonly budgetBytes: number; readonly reserveDiskBytes: number },
): Promise<Storage> {
  let freeBytes = 0;
  let readMs = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;

  async function read(): Promise<void> {
    // A disk that cannot be asked is taken for full: refusing an update loses nothing.
    freeBytes = await disk.freeBytes().catch(() => 0);
    readMs = clock.monotonicMs();
    reading = undefined;
  }
  const refresh = (): Promise<void> => {
    if (clock.monotonicMs() - readMs < limits.freeSpaceTtlMs) return Promise.resolve();
    reading ??= read();
    return reading;
  };

  await refresh();
  return {
    get freeBytes() {
      return freeBytes;
    },
    refresh,
    fits(bytes) {
      void refresh();
      if (use.outboxPartials() >= limits.outboxPartials) return false;
      const committed = use.usedBytes() + use.promisedBytes() + bytes;
      return (
        committed <= bounds.budgetBytes &&
        freeBytes - bounds.reserveDiskBytes >= bytes + use.promisedBytes()
      );
    },
  };
}
