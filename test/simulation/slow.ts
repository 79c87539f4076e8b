import type { Database } from "@tributary/gateway/store.js";
import type { AppendFile, Disk, ReadFile } from "@tributary/proto/host/disk.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Agenda } from "./agenda.js";
import type { Life } from "./node.js";

/** How long a call to a disk or a database takes. */
export type Pace = { readonly leastMs: number; readonly mostMs: number };

export type SlowWorld = {
  readonly agenda: Agenda;
  readonly life: Life;
  readonly random: Random;
  readonly pace: Pace;
};

type Call = (...given: never[]) => Promise<unknown>;

/**
 * A part whose calls take time: each does its work at the start of its time or at the end, so that a
 * crash in between finds it done, or not, and its caller never told. A call of a life that is over
 * does nothing and never comes back.
 *
 * @param names the calls; of the others nothing is seen
 * @param inOrder whether a call begins only when the ones before it have done their work
 */
export function slowly<T extends object>(
  part: T,
  names: readonly (keyof T & string)[],
  { agenda, life, random, pace }: SlowWorld,
  inOrder: boolean,
): T {
  let tail: Promise<unknown> = Promise.resolve();
  const pause = (ms: number) => new Promise<void>((resolve) => agenda.after(ms, resolve));
  const wrapped: Record<string, unknown> = {};
  for (const name of names) {
    const call = part[name] as unknown as Call;
    wrapped[name] = async (...given: never[]) => {
      const delayMs = pace.leastMs + random.next() * (pace.mostMs - pace.leastMs);
      const early = random.next() < 0.5;
      const before = inOrder ? tail : undefined;
      const run = async () => {
        if (before !== undefined) await before;
        if (!early) await pause(delayMs);
        if (!life.alive) return never();
        return call.apply(part, given);
      };
      const done = run();
      if (inOrder) tail = done.catch(() => {});
      try {
        const result = await done;
        if (early) await pause(delayMs);
        return life.alive ? result : await never();
      } catch (error) {
        if (!life.alive) return never();
        throw error;
      }
    };
  }
  return Object.assign(Object.create(part) as T, wrapped);
}

/** A new one each time: one that all shared would hold on to whoever waits for it. */
function never(): Promise<never> {
  return new Promise(() => {});
}

/** A machine's disk as one life of it sees it. */
export function slowDisk(disk: Disk, world: SlowWorld): Disk {
  const calls = slowly(
    {
      ...disk,
      openAppend: async (path: string): Promise<AppendFile> => {
        const file = await disk.openAppend(path);
        return slowly(file, ["append", "sync", "truncate", "close"], world, true);
      },
      openRead: async (path: string): Promise<ReadFile> =>
        slowly(await disk.openRead(path), ["read", "close"], world, false),
    },
    [
      "readFile",
      "writeFileAtomic",
      "openAppend",
      "openRead",
      "list",
      "remove",
      "exists",
      "makeDir",
      "freeBytes",
      "syncDir",
    ],
    world,
    false,
  );
  return calls;
}

/** A gateway's index as one life of it sees it: calls one after the other. */
export function slowDatabase(database: Database, world: SlowWorld): Database {
  const calls = slowly(
    {
      get: (key: string) => database.get(key),
      batch: (...given: Parameters<Database["batch"]>) => database.batch(...given),
      entriesOf: (range: Range) => database.iterator(range).all(),
      keysOf: (range: Range) => database.keys(range).all(),
    },
    ["get", "batch", "entriesOf", "keysOf"],
    world,
    true,
  );
  return {
    open: () => database.open(),
    get: (key) => calls.get(key),
    batch: (operations, options) => calls.batch(operations, options),
    iterator: (range) => ({ all: () => calls.entriesOf(range) }),
    keys: (range) => ({ all: () => calls.keysOf(range) }),
    close: () => database.close(),
  };
}

type Range = Parameters<Database["keys"]>[0];
