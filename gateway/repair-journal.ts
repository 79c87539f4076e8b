import type { Disk } from "@tributary/proto/host/disk.js";
import type { Frame } from "@tributary/proto/host/journal.js";
import {
  type Salvage,
  salvageJournal,
  writeJournal,
} from "@tributary/proto/host/journal-salvage.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { contributorsOf, decodeCheckpoint, decodeUpdate, recordKinds } from "./journal-record.js";
import { limits } from "./limits.js";

export type Contribution = {
  readonly device: string;
  /** Null where only the device's name can still be read. */
  readonly samples: number | null;
};

export type JournalFindings = {
  /** `torn`: as a power cut leaves it; the gateway opens it and cuts the tail. */
  readonly state: "whole" | "torn" | "damaged";
  readonly bytes: number;
  readonly gaps: readonly { readonly offset: number; readonly bytes: number }[];
  /** What the sum is made of when a gateway opens what is kept. */
  readonly kept: readonly Contribution[];
  /**
   * Contributions that can be named and are not kept. Damage hides others: where there are gaps,
   * this is a part of what is lost. In a torn tail nothing was receipted.
   */
  readonly lost: readonly Contribution[];
};

/** Reads a round's journal past whatever is wrong in it, as `combine.ts` would sum what is left. */
export async function examineJournal(disk: Disk, path: string): Promise<JournalFindings> {
  const { salvage, kept, seen, unread } = await sift(disk, path);
  const lost = [...seen].filter(([device]) => !kept.has(device));
  const gaps = [...salvage.gaps, ...unread]
    .map(({ offset, bytes }) => ({ offset, bytes }))
    .sort((a, b) => a.offset - b.offset);
  const named = (all: Iterable<readonly [string, number | null]>): Contribution[] =>
    [...all].map(([device, samples]) => ({ device, samples }));
  return {
    state: unread.length > 0 || !salvage.opens ? "damaged" : gaps.length > 0 ? "torn" : "whole",
    bytes: salvage.sizeBytes,
    gaps,
    kept: named(kept),
    lost: named(lost),
  };
}

/** Writes the records that can be read as a journal of their own; durable when it resolves. */
export async function copyReadable(
  disk: Disk,
  from: string,
  to: string,
  salt: Uint8Array,
): Promise<void> {
  const file = await disk.openAppend(to);
  try {
    await writeJournal(file, salt, (write) =>
      salvageJournal(disk, from, limits.journal.frameBytes, async (frame) => {
        if (readRecord(from, frame) !== undefined) await write(frame);
      }),
    );
  } finally {
    await file.close();
  }
}

type Sifted = {
  readonly salvage: Salvage;
  /** Samples by device, as a replay leaves them: a checkpoint stands for all before it. */
  readonly kept: ReadonlyMap<string, number>;
  /** Every contribution that some record names. */
  readonly seen: ReadonlyMap<string, number | null>;
  /** Frames with right checksums whose records cannot be read. */
  readonly unread: readonly { readonly offset: number; readonly bytes: number }[];
};

async function sift(disk: Disk, path: string): Promise<Sifted> {
  const { frameBytes } = limits.journal;
  const salvage = await salvageJournal(disk, path, frameBytes, () => {});
  // A gateway that opens a torn journal cuts it there, whatever whole frames lie behind.
  const endAt = (salvage.opens ? salvage.gaps[0]?.offset : undefined) ?? salvage.sizeBytes;
  const kept = new Map<string, number>();
  const seen = new Map<string, number | null>();
  const unread: { offset: number; bytes: number }[] = [];
  await salvageJournal(disk, path, frameBytes, (frame) => {
    if (frame.offset >= endAt) return;
    const record = readRecord(path, frame);
    if (record === undefined) {
      unread.push({ offset: frame.offset, bytes: frame.body.length });
      return;
    }
    if (frame.kind === recordKinds.checkpoint) kept.clear();
    for (const { device, samples } of record) {
      if (!kept.has(device)) kept.set(device, samples);
      seen.set(device, samples);
    }
  });
  for (const { broken } of salvage.opens ? [] : salvage.gaps) {
    for (const frame of broken) {
      for (const { device, samples } of contributorsOf(frame.kind, frame.body) ?? []) {
        if (!seen.has(device)) seen.set(device, samples);
      }
    }
  }
  return { salvage, kept, seen, unread };
}

/** Who is in a record; undefined when it cannot be read. Throws `journal-version` for a newer one. */
function readRecord(
  path: string,
  { kind, body, offset }: Frame,
): readonly { readonly device: string; readonly samples: number }[] | undefined {
  try {
    if (kind === recordKinds.update) return [decodeUpdate(body)];
    if (kind === recordKinds.checkpoint) return decodeCheckpoint(body).partial.contributors;
  } catch (error) {
    if (error instanceof TributaryError && error.code === "journal-corrupt") return undefined;
    throw error;
  }
  const message = `${path} holds a record of kind ${kind} at byte ${offset}; run the version that wrote it`;
  throw new TributaryError("journal-version", message);
}
