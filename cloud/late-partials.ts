import { decodePartial } from "@tributary/proto/algebra/frame.js";
import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { identityText } from "@tributary/proto/tier/identity.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type HeldPartial, heldFrom } from "./held-partial.js";
import { limits } from "./limits.js";
import type { PartialRow } from "./store/rows.js";
import type { Store } from "./store/store.js";

/** A Partial whose file is kept for models to come. */
export type LatePartial = HeldPartial & {
  /** Whether a model holds it already, and it is only carried on. */
  readonly applied: boolean;
};

/**
 * The Partials that a session keeps for models to come, each in a file of its own: those that came
 * late, and under site memory each site's newest. The store's rows say which files count: a file
 * is written before its row, and removed after the row has let go of it; what a crash leaves between
 * the two is swept at the next start.
 */
export type LatePartials = {
  /** In the order in which they came. */
  list(): readonly LatePartial[];
  bytes(): number;
  get(identity: string): LatePartial | undefined;
  /** Writes the file of one whose row is to follow. Durable when it resolves. */
  write(held: HeldPartial, bytes: Uint8Array): Promise<void>;
  read(late: LatePartial): Promise<Sum>;
  /** The store may say otherwise: a write failed that may have come through all the same. */
  doubt(): void;
  trust(): void;
  /**
   * Reads the store's rows again, if they are in doubt or a file could not be read. A file that is missing
   * or damaged is a failure.
   */
  renew(): Promise<void>;
  /** Reads every file again; the list holds those that are whole. Gives the others. */
  examine(): Promise<readonly DamagedPartial[]>;
  /** Takes over what the store now says: `retained` replaces the list, and other files go. */
  adopt(retained: readonly LatePartial[]): Promise<void>;
};

/** A Partial that the store says is retained, and whose file is missing or cannot be read. */
export type DamagedPartial = {
  readonly path: string;
  readonly row: PartialRow;
  readonly failure: unknown;
};

/** Whether a session may keep these beside what it keeps already. */
export function hasRoom(
  late: Iterable<Pick<HeldPartial, "bytes">>,
  more: Iterable<Pick<HeldPartial, "bytes">>,
): boolean {
  let partials = 0;
  let bytes = 0;
  for (const held of [...late, ...more]) {
    partials++;
    bytes += held.bytes;
  }
  return partials <= limits.latePartials && bytes <= limits.latePartialBytes;
}

export const LATE_FOLDER = "late";

function pathOf(session: string, identity: string): string {
  return `${LATE_FOLDER}/${fileName(session, identity)}`;
}

/** Ids hold no dot, so names of sessions and Partials do not run into one another. */
function fileName(session: string, identity: string): string {
  return `${session}.${identity}.partial`;
}

/** Opens what the store says is retained. A file that is missing or damaged fails the first `renew`. */
export async function openLatePartials(
  disk: Disk,
  store: Store,
  session: string,
): Promise<LatePartials> {
  const read = async (identity: string, digest: string): Promise<[Sum, number]> => {
    const path = pathOf(session, identity);
    const bytes = await disk.readFile(path);
    const decoded = decodePartial(bytes);
    if (!decoded.ok || sha256(bytes) !== digest)
      throw new TributaryError("disk-failed", `a Partial that was kept is damaged: ${path}`);
    return [decoded.partial, bytes.length];
  };
  const load = async (): Promise<readonly LatePartial[]> => {
    const loaded: LatePartial[] = [];
    damaged = [];
    for (const row of await store.retainedPartials(session)) {
      const { gateway, incarnation, sequence, digest, site, receivedAtMs } = row;
      const identity = { gateway, incarnation, sequence };
      const applied = row.outcome === "merged";
      const known = held.find((late) => identityText(late.identity) === identityText(identity));
      if (known !== undefined) {
        loaded.push({ ...known, applied });
        continue;
      }
      const whole = await read(identityText(identity), digest).catch((failure: unknown) => {
        const path = pathOf(session, identityText(identity));
        damaged = [...damaged, { path, row, failure }];
      });
      if (whole === undefined) continue;
      const [sum, totalBytes] = whole;
      const of = { identity, digest, totalBytes };
      loaded.push({ ...heldFrom(of, sum, receivedAtMs), site, applied });
    }
    return loaded;
  };
  let held: readonly LatePartial[] = [];
  let damaged: readonly DamagedPartial[] = [];
  let doubtful = false;
  held = await load();
  return {
    list: () => held,
    bytes: () => held.reduce((sum, { bytes }) => sum + bytes, 0),
    get: (identity) => held.find((late) => identityText(late.identity) === identity),
    write: ({ identity }, bytes) =>
      disk.writeFileAtomic(pathOf(session, identityText(identity)), [bytes]),
    read: async ({ identity, digest }) => (await read(identityText(identity), digest))[0],
    doubt() {
      doubtful = true;
    },
    trust() {
      doubtful = false;
    },
    async renew() {
      if (!doubtful && damaged.length === 0) return;
      held = await load();
      const [first] = damaged;
      if (first !== undefined) throw first.failure;
      doubtful = false;
    },
    async examine() {
      held = [];
      held = await load();
      return damaged;
    },
    async adopt(retained) {
      const kept = new Set(retained.map(({ identity }) => identityText(identity)));
      const gone = held.filter(({ identity }) => !kept.has(identityText(identity)));
      held = retained;
      // What cannot be removed now is swept at the next start.
      for (const { identity } of gone)
        await disk.remove(pathOf(session, identityText(identity))).catch(() => undefined);
    },
  };
}

/** Removes the files that no row retains, before any session runs. */
export async function sweepLatePartials(
  disk: Disk,
  store: Store,
  sessions: readonly string[],
): Promise<void> {
  const names = await disk.list(LATE_FOLDER);
  if (names.length === 0) return;
  const retained = new Set<string>();
  for (const session of sessions)
    for (const row of await store.retainedPartials(session))
      retained.add(fileName(session, identityText(row)));
  for (const name of names) if (!retained.has(name)) await disk.remove(`${LATE_FOLDER}/${name}`);
}
