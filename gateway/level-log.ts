import { maskedCrc32c } from "./crc32c.js";

/** A place that cannot be read, and up to where. */
export type Damage = { readonly offset: number; readonly bytes: number };

export type LogFindings = {
  /** Whole ones, in order. */
  readonly records: readonly Uint8Array[];
  /** What was written once and cannot be read. */
  readonly damage: readonly Damage[];
  /** Where the end begins that a kill or a power cut has left unfinished. */
  readonly tornAt: number | undefined;
};

const BLOCK_BYTES = 32 * 1024;
const HEADER_BYTES = 7;
const SECTOR_BYTES = 512;
const kinds = { full: 1, first: 2, middle: 3, last: 4 } as const;

type Piece = { readonly kind: number; readonly data: Uint8Array; readonly end: number };

/**
 * Reads a file of LevelDB's log format (its doc/log_format.md), a write-ahead log or a MANIFEST.
 * LevelDB itself passes over damage in silence. A bad piece with a whole one behind it is damage. In
 * the very last one a torn write and rot are told apart by what each can leave: a write that was cut
 * leaves less than the header says, or sectors of zeros.
 * @param isWhole whether a record's content is complete, by what is in it
 */
export function readLog(bytes: Uint8Array, isWhole: (record: Uint8Array) => boolean): LogFindings {
  const records: Uint8Array[] = [];
  const damage: Damage[] = [];
  let started: { readonly offset: number; readonly pieces: Uint8Array[] } | undefined;
  let at = 0;

  function lose(offset: number, end: number): void {
    damage.push({ offset: started?.offset ?? offset, bytes: end - (started?.offset ?? offset) });
    started = undefined;
  }
  function accept({ kind, data, end }: Piece): void {
    const begins = kind === kinds.full || kind === kinds.first;
    if (begins && started !== undefined) lose(at, at);
    if (kind === kinds.full) records.push(data);
    else if (kind === kinds.first) started = { offset: at, pieces: [data] };
    else if (started === undefined) {
      // Behind damage this is the rest of a record whose beginning is lost there.
      const before = damage.at(-1);
      if (before === undefined || before.offset + before.bytes !== at) lose(at, end);
      else damage.splice(-1, 1, { offset: before.offset, bytes: end - before.offset });
    } else {
      started.pieces.push(data);
      if (kind === kinds.last) {
        records.push(Buffer.concat(started.pieces));
        started = undefined;
      }
    }
    at = end;
  }

  while (at < bytes.length) {
    const left = BLOCK_BYTES - (at % BLOCK_BYTES);
    if (left < HEADER_BYTES) {
      at += left;
      continue;
    }
    const piece = pieceAt(bytes, at);
    if (piece !== undefined) {
      accept(piece);
      continue;
    }
    const next = nextPiece(bytes, at + 1);
    if (next === undefined) {
      const begun = started?.pieces ?? [];
      if (wasWhole(bytes, at, (rest) => isWhole(Buffer.concat([...begun, rest])))) {
        lose(at, bytes.length);
        return { records, damage, tornAt: undefined };
      }
      return { records, damage, tornAt: started?.offset ?? at };
    }
    lose(at, next);
    at = next;
  }
  return { records, damage, tornAt: started?.offset };
}

/** The whole piece that stands there, or undefined. */
function pieceAt(bytes: Uint8Array, at: number): Piece | undefined {
  const left = Math.min(BLOCK_BYTES - (at % BLOCK_BYTES), bytes.length - at);
  if (left < HEADER_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = at + HEADER_BYTES + view.getUint16(at + 4, true);
  const kind = bytes[at + 6] as number;
  if (end > at + left || kind < kinds.full || kind > kinds.last) return undefined;
  if (view.getUint32(at, true) !== maskedCrc32c(bytes, at + 6, end)) return undefined;
  return { kind, data: bytes.subarray(at + HEADER_BYTES, end), end };
}

function nextPiece(bytes: Uint8Array, from: number): number | undefined {
  for (let at = from; at + HEADER_BYTES <= bytes.length; at++) {
    if (pieceAt(bytes, at) !== undefined) return at;
  }
  return undefined;
}

/** Whether all of the last piece was on disk once, so that it is damaged and not torn. */
function wasWhole(bytes: Uint8Array, at: number, isWhole: (rest: Uint8Array) => boolean): boolean {
  const blockEnd = at + BLOCK_BYTES - (at % BLOCK_BYTES);
  const fileEnd = Math.min(bytes.length, blockEnd);
  if (at + HEADER_BYTES > fileEnd) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = at + HEADER_BYTES + view.getUint16(at + 4, true);
  // No write says that it goes past its block.
  if (end > blockEnd) return true;
  if (end <= fileEnd && !hasZeroSector(bytes, at, end)) return true;
  // A length or a kind that is wrong, before content that is right.
  const checksum = view.getUint32(at, true);
  for (let kind: number = kinds.full; kind <= kinds.last; kind++) {
    const piece = Uint8Array.of(kind, ...bytes.subarray(at + HEADER_BYTES, fileEnd));
    if (maskedCrc32c(piece, 0, piece.length) === checksum) return true;
  }
  return isWhole(bytes.subarray(at + HEADER_BYTES, fileEnd));
}

function hasZeroSector(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; ) {
    const end = Math.min(to, at - (at % SECTOR_BYTES) + SECTOR_BYTES);
    if (bytes.subarray(at, end).every((byte) => byte === 0)) return true;
    at = end;
  }
  return false;
}
