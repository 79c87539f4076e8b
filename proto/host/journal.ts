import { TributaryError } from "../wire/errors.js";
import type { AppendFile, Disk } from "./disk.js";
import {
  decodeFileHeader,
  encodeFileHeader,
  encodeFrameHeader,
  FILE_HEADER_BYTES,
  type Frame,
  type JournalSalt,
} from "./journal-format.js";
import { endOfJournal, readFrames } from "./journal-scan.js";
import type { Random } from "./random.js";

export type { Frame } from "./journal-format.js";

export type JournalLimits = {
  /** Body of one frame, in bytes; a longer one is refused with `frame-too-large`. */
  readonly frameBytes: number;
  /** Bodies written and synced in one go, in bytes; what comes beyond it is in the next batch. */
  readonly pendingBytes: number;
};

/**
 * Frames in one append-only file. An append resolves after fdatasync; appends that come while the
 * disk is busy share the next sync (group commit). After a failed write or sync nothing is known of
 * the pages that were dirty (an fsync error may have dropped them), so the journal rejects
 * everything from then on: open it again to recover.
 */
export type Journal = {
  append(kind: number, parts: readonly Uint8Array[]): Promise<void>;
  /** Frames that become durable together. */
  appendBatch(
    frames: readonly { readonly kind: number; readonly parts: readonly Uint8Array[] }[],
  ): Promise<void>;
  /** Visits every durable frame from the first, one at a time. */
  read(visit: (frame: Frame) => void | Promise<void>): Promise<void>;
  readonly sizeBytes: number;
  /** Written since it was opened. */
  readonly bytesWritten: number;
  /** Bytes of a torn tail that were cut when it was opened. */
  readonly cutBytes: number;
  close(): Promise<void>;
  /** Closes it and removes the file. */
  remove(): Promise<void>;
};

/** Appends that may wait for the disk; more are rejected with `journal-busy`. */
const QUEUE_APPENDS = 10_000;

type Pending = {
  readonly frames: readonly { readonly kind: number; readonly parts: readonly Uint8Array[] }[];
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
};

/**
 * Opens or makes the journal at `path`. A torn tail is cut; `journal-corrupt` names the file and
 * the offset of a bad frame with durable ones behind it; `journal-version` is a newer format.
 */
export async function openJournal(
  disk: Disk,
  path: string,
  { limits, random }: { readonly limits: JournalLimits; readonly random: Random },
): Promise<Journal> {
  const file = await disk.openAppend(path);
  try {
    const { salt, end } = await prepare(disk, path, file, limits, random);
    const cutBytes = file.size - end;
    if (cutBytes > 0) await file.truncate(end);
    // Frames of a process that was killed before its sync are whole, but not durable yet.
    await file.sync();
    return running(disk, path, file, limits, salt, cutBytes);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function prepare(
  disk: Disk,
  path: string,
  file: AppendFile,
  limits: JournalLimits,
  random: Random,
): Promise<{ salt: JournalSalt; end: number }> {
  if (file.size >= FILE_HEADER_BYTES) {
    const reader = await disk.openRead(path);
    try {
      const salt = decodeFileHeader(await reader.read(0, FILE_HEADER_BYTES), path);
      if (salt !== undefined) {
        return { salt, end: await endOfJournal(reader, path, salt, limits.frameBytes) };
      }
      // The header is durable before the first frame is written: only alone can it be torn.
      if (file.size > FILE_HEADER_BYTES) {
        throw new TributaryError("journal-corrupt", `${path} is damaged at byte 0`);
      }
    } finally {
      await reader.close();
    }
  }
  await file.truncate(0);
  const salt = random.bytes(8);
  await file.append([encodeFileHeader(salt)]);
  await file.sync();
  return { salt, end: file.size };
}

function running(
  disk: Disk,
  path: string,
  file: AppendFile,
  limits: JournalLimits,
  salt: JournalSalt,
  cutBytes: number,
): Journal {
  let queue: Pending[] = [];
  let durableBytes = file.size;
  let bytesWritten = 0;
  let failed: TributaryError | undefined;
  let flushing: Promise<void> | undefined;

  const takeBatch = (): Pending[] => {
    let bytes = 0;
    let count = 0;
    while (
      count < queue.length &&
      (count === 0 || bytes + (queue[count]?.bytes ?? 0) <= limits.pendingBytes)
    ) {
      bytes += queue[count]?.bytes ?? 0;
      count++;
    }
    const batch = queue.slice(0, count);
    queue = queue.slice(count);
    return batch;
  };
  const write = async (batch: readonly Pending[]) => {
    const batchStart = file.size;
    const parts: Uint8Array[] = [];
    for (const { frames } of batch) {
      for (const frame of frames) {
        parts.push(encodeFrameHeader(frame.kind, frame.parts, batchStart, salt), ...frame.parts);
      }
    }
    await file.append(parts);
    await file.sync();
    bytesWritten += file.size - batchStart;
    durableBytes = file.size;
  };
  const flush = async () => {
    while (queue.length > 0) {
      const batch = takeBatch();
      try {
        if (failed !== undefined) throw failed;
        await write(batch);
        for (const { resolve } of batch) resolve();
      } catch (cause) {
        failed ??= poisoned(path, cause);
        // After a failed sync, pages may read back that never reach the disk: take them out again.
        await file.truncate(durableBytes).catch(() => {});
        for (const { reject } of batch) reject(failed);
      }
    }
    flushing = undefined;
  };
  const appendBatch: Journal["appendBatch"] = (frames) => {
    let bytes = 0;
    for (const { kind, parts } of frames) {
      const length = parts.reduce((sum, part) => sum + part.length, 0);
      if (length > limits.frameBytes)
        return Promise.reject(tooLarge(path, kind, length, limits.frameBytes));
      bytes += length;
    }
    if (failed !== undefined) return Promise.reject(failed);
    if (queue.length >= QUEUE_APPENDS) return Promise.reject(busy(path));
    return new Promise((resolve, reject) => {
      queue.push({ frames, bytes, resolve, reject });
      // One turn later, so that appends of the same turn share the sync.
      flushing ??= Promise.resolve().then(flush);
    });
  };
  const close = async () => {
    await flushing;
    if (failed?.code !== "journal-closed") await file.close();
    failed = new TributaryError("journal-closed", `${path} is closed`);
  };

  return {
    append: (kind, parts) => appendBatch([{ kind, parts }]),
    appendBatch,
    async read(visit) {
      const reader = await disk.openRead(path);
      try {
        await readFrames(reader, path, salt, limits.frameBytes, durableBytes, visit);
      } finally {
        await reader.close();
      }
    },
    get sizeBytes() {
      return durableBytes;
    },
    get bytesWritten() {
      return bytesWritten;
    },
    cutBytes,
    close,
    async remove() {
      await close();
      await disk.remove(path);
    },
  };
}

function busy(path: string): TributaryError {
  return new TributaryError("journal-busy", `${QUEUE_APPENDS} appends wait for ${path}`, {
    retryable: true,
  });
}

function poisoned(path: string, cause: unknown): TributaryError {
  if (cause instanceof TributaryError) {
    return new TributaryError(cause.code, `${path}: ${cause.message}`, {
      retryable: cause.retryable,
      cause,
    });
  }
  return new TributaryError("disk-failed", `cannot write ${path}`, { cause });
}

function tooLarge(path: string, kind: number, length: number, most: number): TributaryError {
  return new TributaryError(
    "frame-too-large",
    `a frame of kind ${kind} has ${length} bytes; ${path} takes ${most}`,
  );
}
