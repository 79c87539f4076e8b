import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { StorageFacts, StorageState } from "./admit.js";
import type { Ballast } from "./ballast.js";
import type { BufferBudgets, BufferClass } from "./budgets.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import type { Outbox } from "./outbox.js";
import type { Store } from "./store.js";
import type { Telemetry } from "./telemetry.js";

/** What a class of the buffer takes up, and what it had to give up for room, in entries. */
export type ClassUse = {
  readonly name: BufferClass;
  readonly bytes: number;
  readonly budgetBytes: number;
  readonly evicted: number;
};

/** What the gateway keeps, as far as storage has to know. */
export type StorageUse = {
  /** Journals of open rounds, state of site rounds, and Partials in the outbox, in bytes. */
  usedBytes(): number;
  /** What the open rounds' Partials will take once sealed, in bytes. */
  promisedBytes(): number;
};

export type Storage = StorageFacts & {
  /** Free space of the disk at the last reading, in bytes. */
  readonly freeBytes: number;
  classes(): ClassUse[];
  /** Reads the free space anew when the last reading is too old. Never rejects. */
  refresh(): Promise<void>;
  /** A write failed, anywhere. What it says of the disk holds until a write succeeds. */
  writeFailed(cause: unknown): void;
  close(): void;
};

export type StorageOptions = {
  readonly disk: Pick<Disk, "freeBytes" | "list" | "openRead" | "remove" | "writeFileAtomic">;
  readonly store: Pick<Store, "putNote">;
  readonly outbox: Pick<Outbox, "count" | "condense" | "sweep">;
  readonly telemetry: Pick<Telemetry, "use" | "makeRoom">;
  readonly clock: Clock;
  readonly use: StorageUse;
  readonly budgets: BufferBudgets;
  /** Free space of the disk that is left to others, in bytes. */
  readonly reserveDiskBytes: number;
  readonly ballast: Pick<Ballast, "held" | "bytes" | "make" | "release">;
  readonly events: GatewayEvents;
};

/** Where the index is: all of it is of class `control`. */
const INDEX_DIR = "index";
/** Written to learn whether the disk takes writes again, then removed. */
const PROBE = "probe";

/**
 * Says whether something still fits: within the results' budget, and without touching the reserve,
 * which is what keeps the index writable on a disk that others fill. A result that does not fit is
 * refused at the door; none that was taken is ever given up. Logs, then metrics, make way for them.
 */
export async function createStorage(options: StorageOptions): Promise<Storage> {
  const { disk, store, outbox, telemetry, clock, use, budgets, ballast, events } = options;
  const { reserveDiskBytes } = options;
  let freeBytes = 0;
  let controlBytes = 0;
  let readMs = Number.NEGATIVE_INFINITY;
  let sizedMs = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;
  let state: StorageState = "ok";
  /** What a write that failed said; undefined once one has succeeded. */
  let broken: Exclude<StorageState, "ok" | "budget"> | undefined;
  /** The least that must fit before results are taken again. */
  let wantedBytes = 0;
  let timer: Timer | undefined;
  let closed = false;

  async function read(): Promise<void> {
    // A disk that cannot be asked is taken for full: refusing an update loses nothing.
    freeBytes = await disk.freeBytes().catch(() => 0);
    readMs = clock.monotonicMs();
    if (readMs - sizedMs >= limits.indexSizeTtlMs) {
      sizedMs = readMs;
      controlBytes = await sizeOf(disk, INDEX_DIR).catch(() => controlBytes);
    }
    reading = undefined;
    if (state === "ok" && roomFor(0) === "ok") void ballast.make();
  }
  const refresh = (): Promise<void> => {
    if (clock.monotonicMs() - readMs < limits.freeSpaceTtlMs) return Promise.resolve();
    reading ??= read();
    return reading;
  };

  /** Space that results may not take: others', and the place of a ballast that was let go. */
  const keptFree = () => reserveDiskBytes + (ballast.held ? 0 : ballast.bytes);

  /** What stands against so many bytes more. */
  function roomFor(bytes: number): StorageState {
    if (broken !== undefined) return broken;
    if (outbox.count >= limits.outboxPartials) return "budget";
    const promised = use.promisedBytes();
    // Control that outgrows its share takes from the results', never from the disk's reserve.
    const overgrown = Math.max(0, controlBytes - budgets.control);
    if (use.usedBytes() + promised + bytes > budgets.results - overgrown) return "budget";
    return freeBytes - keptFree() >= bytes + promised ? "ok" : "full";
  }

  function settle(next: StorageState): void {
    if (next === state) return;
    state = next;
    const level = state === "ok" ? "info" : "error";
    events({ level, name: "storage-state", state, freeBytes });
    if (state === "ok") {
      timer?.cancel();
      timer = undefined;
      outbox.sweep().catch(() => {}); // the next removal tries again
    } else if (!closed) timer ??= clock.setTimer(limits.storageTickMs, tick);
  }

  /** Looks whether the trouble is over; goes on until it is. */
  function tick(): void {
    timer = undefined;
    recover().then(
      () => {
        settle(roomFor(wantedBytes));
        if (state !== "ok" && !closed) timer ??= clock.setTimer(limits.storageTickMs, tick);
      },
      () => {},
    );
  }

  /** Writes something small to disk and index; rejects as any write would now. */
  async function probe(): Promise<void> {
    await disk.writeFileAtomic(PROBE, [new Uint8Array(512)]);
    await disk.remove(PROBE);
    await store.putNote("probe", clock.monotonicMs(), { sync: true });
  }

  async function recover(): Promise<void> {
    reading ??= read();
    await reading;
    if (broken === undefined || closed) return;
    try {
      await probe();
      broken = undefined;
    } catch (cause) {
      broken = troubleOf(cause) ?? broken;
    }
  }

  await disk.remove(PROBE).catch(() => {}); // a kill can leave it
  await refresh();
  settle(roomFor(0));
  return {
    get freeBytes() {
      return freeBytes;
    },
    get state() {
      return state;
    },
    classes() {
      const results = { name: "results" as const, bytes: use.usedBytes(), evicted: 0 };
      const control = { name: "control" as const, bytes: controlBytes, evicted: 0 };
      return [control, results, ...telemetry.use()].map((part) => ({
        ...part,
        budgetBytes: budgets[part.name],
      }));
    },
    refresh,
    fits(bytes) {
      void refresh();
      // Trouble is over when the tick says so, for all at once.
      const found = state === "ok" ? roomFor(bytes) : state;
      if (found === "ok") return true;
      if (state === "ok") wantedBytes = bytes;
      if (found === "budget" || found === "full") void outbox.condense();
      if (found === "full") {
        telemetry.makeRoom(bytes + use.promisedBytes() + keptFree() - freeBytes);
      }
      settle(found);
      return false;
    },
    writeFailed(cause) {
      const trouble = troubleOf(cause);
      if (trouble === undefined) return;
      broken = trouble;
      if (trouble === "full") void ballast.release();
      settle(trouble);
    },
    close() {
      closed = true;
      timer?.cancel();
    },
  };
}

/** What a failed write says of the disk. */
function troubleOf(cause: unknown): "full" | "read-only" | "failed" | undefined {
  if (!(cause instanceof TributaryError)) return undefined;
  if (cause.code === "disk-full") return "full";
  if (cause.code === "disk-read-only") return "read-only";
  return cause.code === "disk-failed" || cause.code === "store-failed" ? "failed" : undefined;
}

async function sizeOf(disk: Pick<Disk, "list" | "openRead">, dir: string): Promise<number> {
  let bytes = 0;
  for (const name of await disk.list(dir)) {
    // LevelDB takes files away at any time.
    const file = await disk.openRead(`${dir}/${name}`).catch(() => undefined);
    bytes += file?.size ?? 0;
    await file?.close();
  }
  return bytes;
}
