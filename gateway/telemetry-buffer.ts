import type { Disk } from "@tributary/proto/host/disk.js";
import { type Journal, openJournal } from "@tributary/proto/host/journal.js";
import type { Random } from "@tributary/proto/host/random.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { z } from "zod";
import { limits } from "./limits.js";
import type { Store } from "./store.js";

/** Entries of one class that follow one another. */
export type Stretch = {
  /** Sequence of the first. */
  readonly sequence: number;
  readonly entries: readonly Uint8Array[];
};

/**
 * One class of telemetry that waits for the uplink: new entries in memory, older ones in a row of
 * append-only segment files, within a budget. Past it the oldest segment is given up, and counted.
 * A kill takes what is not written yet, at most `limits.sampleMs` of it: these are no
 * results. A sequence is never given twice, whatever is lost.
 */
export type TelemetryBuffer = {
  readonly bytes: number;
  /** Entries given up since start. */
  readonly evicted: number;
  add(entry: Uint8Array): void;
  /**
   * Adds entries and writes them; true once they are durable, or given up for their size. Where it
   * is false some may be there all the same.
   */
  keep(entries: readonly Uint8Array[]): Promise<boolean>;
  /** The next entries after a sequence, as many as one message takes; undefined at the end. */
  read(after: number): Promise<Stretch | undefined>;
  /** The upstream has all up to this sequence. */
  forget(sequence: number): Promise<void>;
  /** Writes what is in memory only. Never rejects. */
  flush(): Promise<void>;
  /** Gives up the oldest segment; the bytes that it took. Never rejects. */
  evict(): Promise<number>;
  close(): Promise<void>;
};

export type TelemetryBufferOptions = {
  readonly disk: Disk;
  readonly store: Pick<Store, "readNote" | "putNote">;
  readonly random: Random;
  readonly name: "metrics" | "logs";
  readonly budgetBytes: number;
};

type Segment = {
  readonly path: string;
  readonly first: number;
  count: number;
  bytes: number;
  /** Of the one that is written to. */
  journal: Journal | undefined;
};
type Entry = { readonly sequence: number; readonly bytes: Uint8Array };

const ENTRY_KIND = 1;
const journalLimits = { frameBytes: wire.telemetryEntryBytes, pendingBytes: 4 * 1024 * 1024 };
const noteSchema = z.number().int().min(1);

export async function openTelemetryBuffer(
  options: TelemetryBufferOptions,
): Promise<TelemetryBuffer> {
  const { disk, store, random, name, budgetBytes } = options;
  const dir = `telemetry/${name}`;
  const segmentBytes = Math.min(limits.telemetrySegmentBytes, Math.floor(budgetBytes / 8));
  const note = `telemetry-${name}`;
  const open = (path: string) => openJournal(disk, path, { limits: journalLimits, random });
  let segments: Segment[] = [];
  const tail: Entry[] = [];
  let tailBytes = 0;
  let evicted = 0;
  /** Sequences below are spoken for, by this run or one before. */
  let reserved = (await store.readNote(note, noteSchema)) ?? 1;
  let next = reserved;
  let reserving: Promise<void> | undefined;
  let queue: Promise<unknown> = Promise.resolve();

  function inOrder<T>(task: () => Promise<T>): Promise<T> {
    const done = queue.then(task);
    queue = done.catch(() => {});
    return done;
  }

  function reserve(): void {
    const upTo = next + limits.telemetryReserved;
    reserving ??= store
      .putNote(note, upTo, { sync: true })
      .then(() => {
        reserved = upTo;
      })
      // Entries are given up until the index can be written: a sequence used twice would hide one.
      .catch(() => {})
      .finally(() => {
        reserving = undefined;
      });
  }

  const segmentsBytes = () => segments.reduce((sum, { bytes }) => sum + bytes, 0);

  async function drop(segment: Segment): Promise<void> {
    segments = segments.filter((other) => other !== segment);
    await segment.journal?.close().catch(() => {});
    segment.journal = undefined;
    await disk.remove(segment.path).catch(() => {});
  }

  async function dropOldest(): Promise<number> {
    const [oldest] = segments;
    if (oldest === undefined) return 0;
    evicted += oldest.count;
    await drop(oldest);
    return oldest.bytes;
  }

  /** Takes entries off the front of what is in memory. */
  function shift(count: number): void {
    for (const { bytes } of tail.splice(0, count)) tailBytes -= bytes.length;
  }

  /** The segment that goes on with `sequence`: the newest, if it is not full, or a new one. */
  async function segmentFor(sequence: number): Promise<Segment> {
    const newest = segments.at(-1);
    if (newest?.journal !== undefined) {
      if (newest.bytes < segmentBytes && newest.first + newest.count === sequence) return newest;
      await newest.journal.close().catch(() => {});
      newest.journal = undefined;
    }
    const path = `${dir}/${String(sequence).padStart(16, "0")}.journal`;
    // What a failed write left under the same name holds nothing that was ever counted.
    await disk.remove(path);
    const journal = await open(path);
    const segment = { path, first: sequence, count: 0, bytes: journal.sizeBytes, journal };
    segments.push(segment);
    return segment;
  }

  async function write(): Promise<void> {
    const batch = [...tail];
    const [first] = batch;
    if (first === undefined) return;
    const segment = await segmentFor(first.sequence);
    const { journal } = segment;
    try {
      await journal?.appendBatch(batch.map(({ bytes }) => ({ kind: ENTRY_KIND, parts: [bytes] })));
    } catch (cause) {
      // A journal takes nothing more after a write that failed: the next flush begins a new one.
      await journal?.close().catch(() => {});
      segment.journal = undefined;
      if (segment.count === 0) await drop(segment);
      throw cause;
    }
    segment.count += batch.length;
    segment.bytes = journal?.sizeBytes ?? segment.bytes;
    const written = new Set(batch.map(({ sequence }) => sequence));
    shift(tail.filter(({ sequence }) => written.has(sequence)).length);
    while (segmentsBytes() > budgetBytes && segments.length > 1) await dropOldest();
  }

  async function load(segment: Segment): Promise<Uint8Array[]> {
    const entries: Uint8Array[] = [];
    const journal = segment.journal ?? (await open(segment.path));
    try {
      await journal.read(({ body }) => void entries.push(body.slice()));
    } finally {
      if (segment.journal === undefined) await journal.close();
    }
    return entries;
  }

  async function readNext(after: number): Promise<Stretch | undefined> {
    for (const segment of [...segments]) {
      const { first, count } = segment;
      if (first + count - 1 <= after) continue;
      const entries = await load(segment).catch(() => undefined);
      if (entries === undefined) {
        evicted += count;
        await drop(segment);
        continue;
      }
      const skip = Math.max(0, after + 1 - first);
      return cut(first + skip, entries.slice(skip));
    }
    const rest = tail.filter(({ sequence }) => sequence > after);
    const [first] = rest;
    if (first === undefined) return undefined;
    return cut(
      first.sequence,
      rest.map(({ bytes }) => bytes),
    );
  }

  async function restore(): Promise<void> {
    await disk.makeDir(dir);
    for (const file of await disk.list(dir)) {
      const path = `${dir}/${file}`;
      const first = Number.parseInt(file, 10);
      const segment: Segment = { path, first, count: 0, bytes: 0, journal: undefined };
      try {
        const journal = await open(path);
        segment.bytes = journal.sizeBytes;
        try {
          await journal.read(() => void segment.count++);
        } finally {
          await journal.close();
        }
      } catch {
        segment.count = 0;
      }
      if (segment.count > 0) segments.push(segment);
      else await disk.remove(path);
    }
    while (segmentsBytes() > budgetBytes && segments.length > 0) await dropOldest();
  }

  // On a disk that cannot be written telemetry does without; it must not keep a gateway from starting.
  await restore().catch(() => {});
  reserve();
  await reserving;

  function add(entry: Uint8Array): void {
    if (reserved - next <= limits.telemetryReserved / 2) reserve();
    if (next >= reserved || entry.length > wire.telemetryEntryBytes) {
      evicted++;
      return;
    }
    tail.push({ sequence: next++, bytes: entry });
    tailBytes += entry.length;
    if (tail.length > limits.telemetryTailEntries) {
      evicted++;
      shift(1);
    }
  }

  return {
    get bytes() {
      return segmentsBytes() + tailBytes;
    },
    get evicted() {
      return evicted;
    },
    add,
    async keep(entries) {
      const fits = () =>
        tail.length + entries.length <= limits.telemetryTailEntries &&
        next + entries.length <= reserved;
      if (!fits()) {
        reserve();
        await reserving;
        await inOrder(write).catch(() => {});
        if (!fits()) return false;
      }
      for (const entry of entries) add(entry);
      return inOrder(write).then(
        () => true,
        () => false,
      );
    },
    read: (after) => inOrder(() => readNext(after)),
    forget: (sequence) =>
      inOrder(async () => {
        shift(tail.filter((entry) => entry.sequence <= sequence).length);
        for (const segment of [...segments]) {
          if (segment.first + segment.count - 1 <= sequence) await drop(segment);
        }
      }),
    flush: () => inOrder(write).catch(() => {}),
    evict: () => inOrder(dropOldest).catch(() => 0),
    async close() {
      await inOrder(write).catch(() => {});
      for (const { journal } of segments) await journal?.close().catch(() => {});
      await reserving;
    },
  };
}

/** As many as one message takes. */
function cut(sequence: number, entries: readonly Uint8Array[]): Stretch {
  let bytes = 0;
  let count = 0;
  for (const entry of entries.slice(0, wire.telemetryEntries)) {
    bytes += entry.length;
    if (count > 0 && bytes > limits.telemetryMessageBytes) break;
    count++;
  }
  return { sequence, entries: entries.slice(0, count) };
}
