import { crc32 } from "node:zlib";
import { TributaryError } from "../wire/errors.js";
import type { AppendFile, Disk, ReadFile } from "./disk.js";
import {
  decodeFileHeader,
  decodeFrameHeader,
  encodeFileHeader,
  encodeFrameHeader,
  FILE_HEADER_BYTES,
  FRAME_HEADER_BYTES,
  FRAME_MAGIC,
  type Frame,
  type JournalSalt,
  seedOf,
} from "./journal-format.js";
import { endOfJournal, frameAt, nextOffset } from "./journal-scan.js";

/** Bytes that belong to no whole frame. */
export type Gap = {
  readonly offset: number;
  readonly bytes: number;
  /** Bodies that fail their checksum behind headers that pass theirs: what they seem to hold. */
  readonly broken: readonly Frame[];
};

export type Salvage = {
  readonly sizeBytes: number;
  readonly frames: number;
  readonly gaps: readonly Gap[];
  /** Whether the journal opens as it is; a torn tail is then cut. */
  readonly opens: boolean;
};

/** Bytes of a broken body that are shown, from its start. */
const BROKEN_BYTES = 64 * 1024;
/** Broken frames that a gap names at most. */
const BROKEN_MAX = 1_000;
const WINDOW_BYTES = 1 << 20;
const MAGIC = Buffer.alloc(4);
MAGIC.writeUInt32LE(FRAME_MAGIC);

/**
 * Visits every whole frame of a journal, in order, whatever lies between them. What passes for a
 * frame has two checksums and the journal's salt, so bytes that a stranger chose do not. Throws
 * `journal-version` for a newer format, `frame-too-large` for a bound that is too small.
 */
export async function salvageJournal(
  disk: Disk,
  path: string,
  frameBytes: number,
  visit: (frame: Frame) => void | Promise<void>,
): Promise<Salvage> {
  const reader = await disk.openRead(path);
  try {
    const start = await startOf(reader, path, frameBytes);
    const { seed, salt } = start;
    const gaps: Gap[] = [];
    let frames = 0;
    let offset = salt === undefined ? 0 : FILE_HEADER_BYTES;
    if (offset === 0 && reader.size > 0) {
      const bytes = seed === undefined ? reader.size : Math.min(FILE_HEADER_BYTES, reader.size);
      gaps.push({ offset, bytes, broken: seed === undefined ? await guessFirst(reader) : [] });
      offset += bytes;
    }
    while (seed !== undefined && offset < reader.size) {
      const frame = await frameAt(reader, path, offset, seed, frameBytes);
      if (frame !== undefined) {
        frames++;
        await visit(frame);
        offset = nextOffset(frame);
        continue;
      }
      const gap = await gapAt(reader, path, offset, seed, frameBytes);
      gaps.push(gap);
      offset += gap.bytes;
    }
    const opens = await opensAsItIs(reader, path, salt, frameBytes);
    return { sizeBytes: reader.size, frames, gaps, opens };
  } finally {
    await reader.close();
  }
}

/** Writes a journal of the frames that `next` gives, each a batch of its own; durable at the end. */
export async function writeJournal(
  file: AppendFile,
  salt: JournalSalt,
  each: (write: (frame: Pick<Frame, "kind" | "body">) => Promise<void>) => Promise<unknown>,
): Promise<void> {
  await file.truncate(0);
  await file.append([encodeFileHeader(salt)]);
  await each(({ kind, body }) =>
    file.append([encodeFrameHeader(kind, [body], file.size, salt), body]),
  );
  await file.sync();
}

/** The salt, and what header checksums start from: that can be known although the salt is lost. */
async function startOf(
  reader: ReadFile,
  path: string,
  frameBytes: number,
): Promise<{ readonly salt: JournalSalt | undefined; readonly seed: number | undefined }> {
  const bytes = await reader.read(0, FILE_HEADER_BYTES);
  const whole = bytes.length === FILE_HEADER_BYTES;
  const salt = whole ? decodeFileHeader(bytes, path) : undefined;
  if (salt !== undefined) return { salt, seed: seedOf(salt) };
  const proves = async (seed: number, from: number) => {
    const gap = await gapAt(reader, path, from, seed, frameBytes, true);
    return from + gap.bytes < reader.size;
  };
  // The damage may be anywhere in the header: a frame that fits the salt proves the salt.
  if (whole) {
    const seed = seedOf(bytes.subarray(12, 20));
    if (await proves(seed, FILE_HEADER_BYTES)) return { salt, seed };
  }
  // The first frame betrays the seed if its header is right: a second one has to say so.
  const header = await reader.read(FILE_HEADER_BYTES, FRAME_HEADER_BYTES);
  if (header.length === FRAME_HEADER_BYTES) {
    const seed = seedBehind(header);
    const second = FILE_HEADER_BYTES + FRAME_HEADER_BYTES;
    if (await proves(seed, second)) return { salt, seed };
    if (await standsFirst(reader, header, frameBytes)) return { salt, seed };
  }
  return { salt, seed: undefined };
}

/**
 * Whether a frame begins behind the file header, whatever the salt was. No body precedes this place, so
 * nobody else chose what stands there; the checksum that fits is that of the body, and its batch is
 * the first. The salt keeps bytes inside a body from passing for a frame, and there is none before.
 */
async function standsFirst(
  reader: ReadFile,
  header: Uint8Array,
  frameBytes: number,
): Promise<boolean> {
  const first = decodeFrameHeader(header, 0, seedBehind(header));
  if (first === undefined || first.batchStart !== FILE_HEADER_BYTES) return false;
  if (first.length > frameBytes) return false;
  const body = await reader.read(FILE_HEADER_BYTES + FRAME_HEADER_BYTES, first.length);
  return body.length === first.length && crc32(body) === first.bodyCrc;
}

/** What the first frame seems to hold, where nothing proves that it is one. */
async function guessFirst(reader: ReadFile): Promise<Frame[]> {
  const header = await reader.read(FILE_HEADER_BYTES, FRAME_HEADER_BYTES);
  if (header.length < FRAME_HEADER_BYTES) return [];
  const kind = new DataView(header.buffer, header.byteOffset).getUint32(4, true);
  const body = await reader.read(FILE_HEADER_BYTES + FRAME_HEADER_BYTES, BROKEN_BYTES);
  return [{ kind, body, offset: FILE_HEADER_BYTES }];
}

/** The seed with which a frame header's checksum would be right. */
function seedBehind(header: Uint8Array): number {
  const view = new DataView(header.buffer, header.byteOffset, header.length);
  let state = ~view.getUint32(24, true) >>> 0;
  for (let at = 23; at >= 0; at--) {
    const index = indexByTop[state >>> 24] ?? 0;
    state = (((state ^ (table[index] ?? 0)) << 8) | (index ^ (header[at] ?? 0))) >>> 0;
  }
  return ~state >>> 0;
}

/** The table of CRC-32 (RFC 1952, 8), and where in it each top byte stands: all differ. */
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let remainder = byte;
  for (let bit = 0; bit < 8; bit++) {
    remainder = remainder & 1 ? (remainder >>> 1) ^ 0xed_b8_83_20 : remainder >>> 1;
  }
  return remainder;
});
const indexByTop = Array.from({ length: 256 }, (_, top) =>
  table.findIndex((entry) => entry >>> 24 === top),
);

/** From `offset` to the next whole frame, or to the end. @param fromHere whether one may stand at `offset` */
async function gapAt(
  reader: ReadFile,
  path: string,
  offset: number,
  seed: number,
  frameBytes: number,
  fromHere = false,
): Promise<Gap> {
  const broken: Frame[] = [];
  for (let at = offset; at < reader.size; at += WINDOW_BYTES) {
    const bytes = await reader.read(at, WINDOW_BYTES + FRAME_HEADER_BYTES - 1);
    const window = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let i = window.indexOf(MAGIC); i >= 0; i = window.indexOf(MAGIC, i + 1)) {
      if (i >= WINDOW_BYTES) break;
      const header = decodeFrameHeader(window, i, seed);
      if (header === undefined) continue;
      const place = at + i;
      const frame = await frameAt(reader, path, place, seed, frameBytes);
      if (frame !== undefined && (fromHere || place > offset)) {
        return { offset, bytes: place - offset, broken };
      }
      if (frame === undefined && broken.length < BROKEN_MAX) {
        const shown = Math.min(header.length, BROKEN_BYTES);
        const body = await reader.read(place + FRAME_HEADER_BYTES, shown);
        broken.push({ kind: header.kind, body, offset: place });
      }
    }
  }
  return { offset, bytes: reader.size - offset, broken };
}

async function opensAsItIs(
  reader: ReadFile,
  path: string,
  salt: JournalSalt | undefined,
  frameBytes: number,
): Promise<boolean> {
  // A header that was torn stands alone: no frame is written before it is durable.
  if (salt === undefined) return reader.size <= FILE_HEADER_BYTES;
  try {
    await endOfJournal(reader, path, salt, frameBytes);
    return true;
  } catch (error) {
    if (error instanceof TributaryError && error.code === "journal-corrupt") return false;
    throw error;
  }
}
