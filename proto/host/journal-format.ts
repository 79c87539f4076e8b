import { crc32 } from "node:zlib";
import { TributaryError } from "../wire/errors.js";

/**
 * The journal's bytes, version 1; integers little-endian.
 *
 *     file header    0 "TRIBJRNL"   8 version u32   12 salt, 8 bytes   20 CRC-32 of bytes 0-19
 *     frame header   0 magic u32    4 kind u32      8 body length u32  12 batch start u64
 *                    20 CRC-32 of the body          24 CRC-32 of the salt and bytes 0-23
 *     body           as long as its header says
 *
 * The batch start is the file's durable size when the frame was written. It tells a torn tail
 * from rot: a frame whose batch starts beyond a bad one proves that the bad one was durable once.
 * The salt keeps bytes inside a body, which a stranger may have chosen, from passing for a frame.
 */
export const JOURNAL_VERSION = 1;
export const FILE_HEADER_BYTES = 24;
export const FRAME_HEADER_BYTES = 28;
export const FRAME_MAGIC = 0x46_42_52_54;

const FILE_MAGIC = new TextEncoder().encode("TRIBJRNL");

export type JournalSalt = Uint8Array;

export type Frame = { readonly kind: number; readonly body: Uint8Array; readonly offset: number };

export type FrameHeader = {
  readonly kind: number;
  readonly length: number;
  readonly batchStart: number;
  readonly bodyCrc: number;
};

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

export function encodeFileHeader(salt: JournalSalt): Uint8Array {
  const bytes = new Uint8Array(FILE_HEADER_BYTES);
  bytes.set(FILE_MAGIC);
  const view = viewOf(bytes);
  view.setUint32(8, JOURNAL_VERSION, true);
  bytes.set(salt, 12);
  view.setUint32(20, crc32(bytes.subarray(0, 20)), true);
  return bytes;
}

/** The salt; undefined for a header that was torn. */
export function decodeFileHeader(bytes: Uint8Array, path: string): JournalSalt | undefined {
  const view = viewOf(bytes);
  if (view.getUint32(20, true) !== crc32(bytes.subarray(0, 20))) return undefined;
  if (!FILE_MAGIC.every((byte, i) => bytes[i] === byte)) {
    throw new TributaryError("journal-corrupt", `${path} is not a journal`);
  }
  const version = view.getUint32(8, true);
  if (version !== JOURNAL_VERSION) {
    throw new TributaryError(
      "journal-version",
      `${path} has journal format ${version}; this program reads up to ${JOURNAL_VERSION}. Run the version that wrote it.`,
    );
  }
  return bytes.slice(12, 20);
}

export function encodeFrameHeader(
  kind: number,
  parts: readonly Uint8Array[],
  batchStart: number,
  salt: JournalSalt,
): Uint8Array {
  const bytes = new Uint8Array(FRAME_HEADER_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, FRAME_MAGIC, true);
  view.setUint32(4, kind, true);
  view.setUint32(
    8,
    parts.reduce((length, part) => length + part.length, 0),
    true,
  );
  view.setBigUint64(12, BigInt(batchStart), true);
  view.setUint32(
    20,
    parts.reduce((crc, part) => crc32(part, crc), 0),
    true,
  );
  view.setUint32(24, crc32(bytes.subarray(0, 24), crc32(salt)), true);
  return bytes;
}

/** What the CRC of a frame's header starts from: all that reading needs of the salt. */
export function seedOf(salt: JournalSalt): number {
  return crc32(salt);
}

/** The header at `at`, or undefined where there is none. */
export function decodeFrameHeader(
  bytes: Uint8Array,
  at: number,
  seed: number,
): FrameHeader | undefined {
  if (at + FRAME_HEADER_BYTES > bytes.length) return undefined;
  const view = viewOf(bytes);
  if (view.getUint32(at, true) !== FRAME_MAGIC) return undefined;
  if (view.getUint32(at + 24, true) !== crc32(bytes.subarray(at, at + 24), seed)) return undefined;
  return {
    kind: view.getUint32(at + 4, true),
    length: view.getUint32(at + 8, true),
    batchStart: Number(view.getBigUint64(at + 12, true)),
    bodyCrc: view.getUint32(at + 20, true),
  };
}
