import { crc32 } from "node:zlib";
import { TributaryError } from "../wire/errors.js";
import type { ReadFile } from "./disk.js";
import {
  decodeFrameHeader,
  FILE_HEADER_BYTES,
  FRAME_HEADER_BYTES,
  FRAME_MAGIC,
  type Frame,
  type JournalSalt,
  seedOf,
} from "./journal-format.js";

/** Bytes looked at in one go when searching for frames behind a bad one. */
const WINDOW_BYTES = 1 << 20;

/** The whole frame at `offset`, or undefined where there is none. */
export async function frameAt(
  reader: ReadFile,
  path: string,
  offset: number,
  seed: number,
  frameBytes: number,
): Promise<Frame | undefined> {
  const header = decodeFrameHeader(await reader.read(offset, FRAME_HEADER_BYTES), 0, seed);
  if (header === undefined) return undefined;
  if (header.length > frameBytes) {
    throw new TributaryError(
      "frame-too-large",
      `${path} holds a frame of ${header.length} bytes at byte ${offset}; this program reads up to ${frameBytes}`,
    );
  }
  const body = await reader.read(offset + FRAME_HEADER_BYTES, header.length);
  if (body.length !== header.length || crc32(body) !== header.bodyCrc) return undefined;
  return { kind: header.kind, body, offset };
}

export function nextOffset(frame: Frame): number {
  return frame.offset + FRAME_HEADER_BYTES + frame.body.length;
}

/** Where the last whole frame ends. Throws `journal-corrupt` when durable frames stand behind a bad one. */
export async function endOfJournal(
  reader: ReadFile,
  path: string,
  salt: JournalSalt,
  frameBytes: number,
): Promise<number> {
  const seed = seedOf(salt);
  let offset = FILE_HEADER_BYTES;
  while (offset < reader.size) {
    const frame = await frameAt(reader, path, offset, seed, frameBytes);
    if (frame === undefined) break;
    offset = nextOffset(frame);
  }
  if (offset < reader.size) await refuseIfOnceDurable(reader, path, seed, offset);
  return offset;
}

/** A header behind `bad` whose batch starts beyond it proves that the bytes at `bad` were durable. */
async function refuseIfOnceDurable(
  reader: ReadFile,
  path: string,
  seed: number,
  bad: number,
): Promise<void> {
  for (let at = bad; at < reader.size; at += WINDOW_BYTES) {
    const window = await reader.read(at, WINDOW_BYTES + FRAME_HEADER_BYTES - 1);
    const view = new DataView(window.buffer, window.byteOffset, window.length);
    for (let i = 0; i + FRAME_HEADER_BYTES <= window.length; i++) {
      if (view.getUint32(i, true) !== FRAME_MAGIC) continue;
      const header = decodeFrameHeader(window, i, seed);
      if (header !== undefined && header.batchStart > bad) {
        throw new TributaryError(
          "journal-corrupt",
          `${path} is damaged at byte ${bad}, before frames that were durable (byte ${at + i}). Nothing was changed.`,
        );
      }
    }
  }
}

/** Visits the frames up to `end`. */
export async function readFrames(
  reader: ReadFile,
  path: string,
  salt: JournalSalt,
  frameBytes: number,
  end: number,
  visit: (frame: Frame) => void | Promise<void>,
): Promise<void> {
  const seed = seedOf(salt);
  let offset = FILE_HEADER_BYTES;
  while (offset < end) {
    const frame = await frameAt(reader, path, offset, seed, frameBytes);
    if (frame === undefined) {
      throw new TributaryError("journal-corrupt", `${path} is damaged at byte ${offset}`);
    }
    await visit(frame);
    offset = nextOffset(frame);
  }
}
