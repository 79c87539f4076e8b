import {
  contributionKey,
  merge,
  type Partial,
  roundsOf,
} from "@tributary/proto/algebra/partial.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { cloudRound } from "@tributary/proto/wire/ids.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import { expectedIn } from "./missing-files.js";
import { type OutboxFiles, openOutboxFiles } from "./outbox-file.js";
import { mergeGroup, shapeOf, waitingGroup } from "./outbox-merge.js";
import type { SiteTime } from "./site-time.js";
import type { FirstEnd, Origin, OutboxRecord, RoundRecord, SealedRecord, Store } from "./store.js";

/** Under which rules a Partial travels on. */
export type Forwarding = {
  /** NMax of its round's plan. */
  readonly totalMax: number;
  /** It is merged only with Partials of its own site. */
  readonly perSite: boolean;
  /** Keeps it here until this round is released. */
  readonly held?: string | undefined;
};

/**
 * Partials that the upstream has not receipted, of this site and of gateways below: a file each, and
 * an index in the store. Those on one base that the upstream has not heard of are merged exactly
 * into one, whose files and index entries take the place of theirs. From `next` on an entry never
 * changes: identity (gateway, incarnation, sequence), digest and bytes stay.
 */
export type Outbox = {
  readonly count: number;
  readonly bytes: number;
  /** Age of the oldest entry in milliseconds of the site's time, 0 when empty. */
  oldestAgeMs(): number;
  /** Oldest first. */
  entries(): readonly OutboxRecord[];
  /** Rounds of the cloud with contributions here. */
  rounds(): string[];
  /**
   * Makes a Partial and the end of its round durable, in that order; resolves with its entry. Safe
   * to repeat after a failure: only the index makes a file part of the outbox.
   */
  add(
    partial: Partial,
    sealed: Omit<SealedRecord, "order">,
    contributors: Iterable<readonly [string, string]>,
    forwarding: Forwarding,
  ): Promise<OutboxRecord>;
  /** As `add`, for a round that stays open, as `Store.handOver` says. */
  handOver(
    partial: Partial,
    round: RoundRecord,
    first: FirstEnd | undefined,
    forwarding: Forwarding,
  ): Promise<OutboxRecord>;
  /**
   * Makes a Partial from a gateway below durable together with the identity and digest under which
   * it came (`Store.received`). Safe to repeat after a failure.
   */
  receive(
    partial: Partial,
    origin: Origin,
    digest: string,
    forwarding: Forwarding,
  ): Promise<OutboxRecord>;
  /** Lets go what is held for a round. */
  release(round: string): Promise<void>;
  /**
   * What to ship now, whole and no longer to be changed: the entry that was begun, else the oldest
   * that is not held, with all that can be merged into it.
   */
  next(): Promise<OutboxRecord | undefined>;
  /** The entry's bytes from an offset, in chunks fit for the tier link. */
  read(entry: OutboxRecord, offset: number): AsyncIterable<Uint8Array>;
  /** Whether the entry's bytes are those that were written; a damaged one is taken out, on record. */
  check(entry: OutboxRecord): Promise<boolean>;
  /** Merges all that can be, to make room. */
  condense(): Promise<void>;
  /** Removes files that could not be removed when their entries went: the disk takes writes again. */
  sweep(): Promise<void>;
  /** The upstream has receipted it: forgets the entry. */
  remove(entry: OutboxRecord): Promise<void>;
  /** The upstream has refused it for good: forgets the entry, and keeps on record what was in it. */
  expire(entry: OutboxRecord, rule: string, message: string): Promise<void>;
  /** Ends what is under way. */
  close(): Promise<void>;
};

export async function openOutbox(
  disk: Disk,
  store: Store,
  time: Pick<SiteTime, "logicalMs">,
  events: GatewayEvents,
): Promise<Outbox> {
  const files = await openOutboxFiles(disk);
  await adoptFormer(files, store, time, events);
  const startMs = time.logicalMs();
  const found = await keepWhole(files, store, events);
  const newestFound = found.reduce((most, { sequence }) => Math.max(most, sequence), 0);
  /** What the site's time lost with a kill must not make one that was there younger than this run. */
  const sinceStart = (all: readonly OutboxRecord[]): OutboxRecord[] =>
    inAge(
      all.map((entry) =>
        entry.sequence > newestFound || entry.sealedAtMs <= startMs
          ? entry
          : { ...entry, sealedAtMs: startMs },
      ),
    );
  let entries = sinceStart(found);
  /** Entries that turned out not to merge: their contributors overlap. */
  const apart = new Set<number>();
  let queue: Promise<unknown> = Promise.resolve();
  /** Set after a write of the index failed: it may be there all the same. */
  let doubtful = false;
  let condensing: Promise<void> | undefined;
  let closed = false;

  /** One change at a time: the next sequence is the stored one until the index is written. */
  function inOrder<T>(task: () => Promise<T>): Promise<T> {
    const done = queue.then(async () => {
      if (doubtful) {
        const former = entries;
        entries = sinceStart(await store.outbox());
        doubtful = false;
        const left = new Set(entries.map(({ sequence }) => sequence));
        for (const { sequence } of former) if (!left.has(sequence)) await files.remove(sequence);
      }
      return task();
    });
    queue = done.catch(() => {});
    return done;
  }

  async function index(write: Promise<void>): Promise<void> {
    try {
      await write;
    } catch (cause) {
      doubtful = true;
      throw cause;
    }
  }

  async function addEntry(
    partial: Partial,
    forwarding: Forwarding,
    write: (entry: OutboxRecord) => Promise<void>,
  ): Promise<OutboxRecord> {
    const sequence = await store.nextSequence();
    const written = await files.write(sequence, partial);
    // An earlier attempt may have been written although it reported a failure.
    const landed = entries.find((entry) => entry.digest === written.digest);
    if (landed !== undefined) {
      await files.remove(sequence);
      return landed;
    }
    const facts = { ...describe(partial), ...rulesOf(forwarding), opened: false };
    const entry = { sequence, ...written, ...facts, sealedAtMs: time.logicalMs() };
    await index(write(entry));
    entries = inAge([...entries, entry]);
    return entry;
  }

  /** Merges what waits in numbers, after the change that made it so. */
  function tidy(least: number): Promise<void> {
    return inOrder(async () => {
      for (;;) {
        const group = closed ? undefined : waitingGroup(entries, apart, least);
        if (group === undefined) return;
        await mergeEntries(group);
      }
    }).catch((cause: unknown) => {
      const message = cause instanceof Error ? cause.message : String(cause);
      // They stay as they are; the next change, or the next shipment, tries again.
      events({ level: "warn", name: "merge-failed", sequence: entries[0]?.sequence ?? 0, message });
    });
  }

  /** One entry in place of a group; those that are damaged or do not add up stay out of it. */
  async function mergeEntries(group: readonly OutboxRecord[]): Promise<OutboxRecord | undefined> {
    let sum: Partial | undefined;
    const merged: OutboxRecord[] = [];
    const totalMax = group.reduce((most, entry) => Math.min(most, entry.totalMax), Infinity);
    for (const entry of group) {
      const partial = await files.load(entry);
      if (partial === undefined) {
        await dropDamaged(entry);
        continue;
      }
      const both = sum === undefined ? undefined : merge(sum, partial, BigInt(totalMax));
      if (both !== undefined && !both.ok) {
        apart.add(entry.sequence);
        const { sequence } = entry;
        events({ level: "warn", name: "merge-failed", sequence, message: both.message });
        continue;
      }
      sum = both?.partial ?? partial;
      merged.push(entry);
    }
    const [first] = merged;
    if (sum === undefined || first === undefined || merged.length < 2) return first;
    const sequence = await store.nextSequence();
    const written = await files.write(sequence, sum);
    const sealedAtMs = merged.reduce((least, entry) => Math.min(least, entry.sealedAtMs), Infinity);
    const facts = { ...describe(sum), ...rulesOf({ ...first, totalMax }), opened: false };
    const entry = { sequence, ...written, ...facts, sealedAtMs };
    const replaced = merged.map((old) => old.sequence);
    await index(store.replacePartials(entry, replaced));
    entries = inAge([...entries.filter((old) => !replaced.includes(old.sequence)), entry]);
    for (const old of replaced) await files.remove(old);
    const { base, rounds, contributors, bytes } = entry;
    const counts = { entries: merged.length, rounds: rounds.length, contributors, bytes };
    events({ level: "info", name: "partials-merged", sequence, base, ...counts });
    return entry;
  }

  async function takeOut(entry: OutboxRecord, write: Promise<void>): Promise<void> {
    await index(write);
    entries = entries.filter(({ sequence }) => sequence !== entry.sequence);
    apart.delete(entry.sequence);
    await files.remove(entry.sequence);
  }

  async function record(entry: OutboxRecord, rule: string, message: string): Promise<void> {
    const { sequence, rounds } = entry;
    const partial = await files.load(entry).catch(() => undefined);
    const contributors = partial?.contributors.map(contributionKey) ?? [];
    const expiredAtMs = time.logicalMs();
    const expiry = { sequence, rounds, rule, message, contributors, expiredAtMs };
    await takeOut(entry, store.expirePartial(expiry));
  }

  async function dropDamaged(entry: OutboxRecord): Promise<void> {
    await record(entry, DAMAGED, "its bytes are not those that were written");
    reportDamage(events, entry.sequence, entry.rounds);
  }

  async function mark(entry: OutboxRecord): Promise<OutboxRecord> {
    const opened = { ...entry, opened: true };
    await index(store.markPartials([opened]));
    entries = entries.map((old) => (old.sequence === entry.sequence ? opened : old));
    return opened;
  }

  async function takeNext(): Promise<OutboxRecord | undefined> {
    const begun = entries.find(({ opened }) => opened);
    if (begun !== undefined) return begun;
    for (;;) {
      const first = entries.find(({ held }) => held === undefined);
      if (first === undefined) return undefined;
      const group = mergeGroup(entries, first, apart);
      const whole = group.length > 1 ? await mergeOrTake(group, first) : await takeWhole(first);
      if (whole !== undefined) return mark(whole);
    }
  }

  async function mergeOrTake(
    group: readonly OutboxRecord[],
    first: OutboxRecord,
  ): Promise<OutboxRecord | undefined> {
    try {
      return await mergeEntries(group);
    } catch (cause) {
      // The sum may be in the index already, in place of `first`.
      if (doubtful) throw cause;
      // Without room for the sum, what is there is sent as it is, which makes room.
      return takeWhole(first);
    }
  }

  /** What is sent once cannot be mended any more. */
  async function takeWhole(entry: OutboxRecord): Promise<OutboxRecord | undefined> {
    if (await files.intact(entry)) return entry;
    await dropDamaged(entry);
    return undefined;
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
    entries: () => entries,
    rounds: () => [...new Set(entries.flatMap((entry) => entry.rounds.map(cloudRound)))],
    async add(partial, sealed, contributors, forwarding) {
      const added = await inOrder(() =>
        addEntry(partial, forwarding, (entry) => store.seal(sealed, contributors, entry)),
      );
      void tidy(limits.mergeWaiting);
      return added;
    },
    async handOver(partial, round, first, forwarding) {
      const added = await inOrder(() =>
        addEntry(partial, forwarding, (entry) => store.handOver(round, first, entry)),
      );
      void tidy(limits.mergeWaiting);
      return added;
    },
    async receive(partial, origin, digest, forwarding) {
      const added = await inOrder(() =>
        addEntry(partial, forwarding, (entry) => store.receive(entry, origin, digest)),
      );
      void tidy(limits.mergeWaiting);
      return added;
    },
    async release(round) {
      await inOrder(async () => {
        const released = entries.flatMap(({ held, ...entry }) => (held === round ? [entry] : []));
        if (released.length === 0) return;
        await index(store.markPartials(released));
        const bySequence = new Map(released.map((entry) => [entry.sequence, entry]));
        entries = entries.map((entry) => bySequence.get(entry.sequence) ?? entry);
      });
      void tidy(limits.mergeWaiting);
    },
    next: () => inOrder(takeNext),
    read: (entry, offset) => files.stream(entry, offset),
    check: (entry) => inOrder(async () => (await takeWhole(entry)) !== undefined),
    condense() {
      condensing ??= tidy(2).finally(() => {
        condensing = undefined;
      });
      return condensing;
    },
    sweep: () => inOrder(files.sweep),
    remove: (entry) => inOrder(() => takeOut(entry, store.removePartial(entry.sequence))),
    expire: (entry, rule, message) => inOrder(() => record(entry, rule, message)),
    async close() {
      closed = true;
      await queue;
    },
  };
}

const DAMAGED = "partial-damaged";

function reportDamage(events: GatewayEvents, sequence: number, rounds: readonly string[]): void {
  const round = rounds.at(-1) ?? "";
  events({ level: "error", name: "partial-damaged", sequence, round });
}

/** What the index says of a Partial. */
export function describe(partial: Partial) {
  return {
    rounds: roundsOf(partial),
    base: partial.base,
    shape: shapeOf(partial),
    site: partial.site,
    weight: Number(partial.weight),
    contributors: partial.contributors.length,
  };
}

function rulesOf({ totalMax, perSite, held }: Forwarding): Forwarding {
  return { totalMax, perSite, ...(held !== undefined && { held }) };
}

/** Oldest first: a sum is as old as the oldest in it, whatever its sequence. */
function inAge(entries: readonly OutboxRecord[]): OutboxRecord[] {
  return [...entries].sort((a, b) => a.sealedAtMs - b.sealedAtMs || a.sequence - b.sequence);
}

/** The index against the files: what a crash left half done is put right. */
async function keepWhole(
  files: OutboxFiles,
  store: Store,
  events: GatewayEvents,
): Promise<OutboxRecord[]> {
  const present = new Set(await files.sequences());
  const whole: OutboxRecord[] = [];
  for (const entry of await store.outbox()) {
    if (present.delete(entry.sequence)) {
      whole.push(entry);
      continue;
    }
    // The file is durable before its entry, so this is damage from outside.
    const { sequence, rounds, sealedAtMs } = entry;
    const message = "its file is missing";
    const { known, names } = await expectedIn(store, entry);
    const contributors = known ? [...names] : [];
    const facts = { sequence, rounds, contributors, expiredAtMs: sealedAtMs };
    await store.expirePartial({ ...facts, rule: DAMAGED, message });
    reportDamage(events, sequence, rounds);
  }
  for (const orphan of present) await files.remove(orphan);
  return inAge(whole);
}

/**
 * Takes over what format 1 left. It did not note whether the upstream had heard of an entry, so none
 * of them is merged: each is sent as it is, under the identity it has.
 */
async function adoptFormer(
  files: OutboxFiles,
  store: Store,
  time: Pick<SiteTime, "logicalMs">,
  events: GatewayEvents,
): Promise<void> {
  for (const { sequence, round, digest, bytes, ...former } of await store.formerOutbox()) {
    const partial = await files.load({ sequence, digest, bytes }).catch(() => undefined);
    const sealedAtMs = Math.min(former.sealedAtMs, time.logicalMs());
    if (partial === undefined) {
      const facts = { sequence, rounds: [round], contributors: [], expiredAtMs: sealedAtMs };
      const message = "its bytes are not those that were written";
      await store.expirePartial({ ...facts, rule: DAMAGED, message });
      await store.adoptFormer(sequence, undefined);
      reportDamage(events, sequence, [round]);
      continue;
    }
    const facts = { ...describe(partial), perSite: false, sealedAtMs, opened: true };
    const totalMax = Number(partial.weight);
    await store.adoptFormer(sequence, { sequence, digest, bytes, totalMax, ...facts });
  }
}
