import { Encoder } from "cbor-x";
import { refuse, type Verdict } from "./verdict.js";

/** `int64AsNumber` (missing in the library's types) reads other languages' 64-bit integers as numbers. */
const options = {
  useRecords: false,
  mapsAsObjects: true,
  tagUint8Array: false,
  variableMapSize: true,
  int64AsNumber: true,
};
const encoder = new Encoder(options);

/** Encodes plain data (objects, arrays, text, numbers, booleans, bytes) as CBOR (RFC 8949). */
export function encodeCbor(value: unknown): Uint8Array {
  return encoder.encode(value);
}

export type CborBounds = { readonly depth: number; readonly items: number };

const MAJOR = { unsigned: 0, negative: 1, bytes: 2, text: 3, array: 4, map: 5, tag: 6, simple: 7 };

/**
 * Walks CBOR without building anything, so that hostile input costs one pass over its bytes:
 * only definite lengths, no tags, bounded depth and item count, exactly one item.
 * RFC 8949, section 5.3.1 (validity) and 10 (security considerations).
 */
function scan(
  bytes: Uint8Array,
  bounds: CborBounds,
): Verdict<object, "malformed" | "too-deep" | "too-large"> {
  const open: number[] = []; // items still owed at each level
  let at = 0;
  let items = 0;
  const cut = (): Verdict<object, "malformed"> =>
    refuse("malformed", `the header's CBOR ends early at byte ${at}`);
  do {
    if (at >= bytes.length) return cut();
    if (++items > bounds.items)
      return refuse("too-large", `more than ${bounds.items} items in the header`);
    const first = bytes[at++] as number;
    const major = first >> 5;
    const info = first & 31;
    let argument = info;
    if (info >= 24) {
      if (info > 27)
        return refuse("malformed", `indefinite or reserved CBOR length at byte ${at - 1}`);
      const size = 1 << (info - 24);
      if (at + size > bytes.length) return cut();
      argument = 0;
      for (let i = 0; i < size; i++) argument = argument * 256 + (bytes[at + i] as number);
      at += size;
    }
    if (open.length > 0) open[open.length - 1] = (open[open.length - 1] as number) - 1;
    if (major === MAJOR.tag) return refuse("malformed", `a CBOR tag at byte ${at - 1}`);
    if (major === MAJOR.simple && info < 20)
      return refuse("malformed", `an unassigned CBOR value at byte ${at - 1}`);
    if (major === MAJOR.bytes || major === MAJOR.text) {
      if (argument > bytes.length - at) return cut();
      at += argument;
    }
    if (major === MAJOR.array || major === MAJOR.map) {
      const owed = major === MAJOR.map ? argument * 2 : argument;
      if (owed > bounds.items)
        return refuse("too-large", `more than ${bounds.items} items in the header`);
      open.push(owed);
      if (open.length > bounds.depth)
        return refuse("too-deep", `the header nests deeper than ${bounds.depth}`);
    }
    while (open.length > 0 && open[open.length - 1] === 0) open.pop();
  } while (open.length > 0);
  if (at !== bytes.length)
    return refuse("malformed", `${bytes.length - at} bytes after the header's CBOR`);
  return { ok: true };
}

/** Decodes CBOR that came from outside. Never throws; refuses what `scan` does not let through. */
export function decodeCbor(
  bytes: Uint8Array,
  bounds: CborBounds,
): Verdict<{ readonly value: unknown }, "malformed" | "too-deep" | "too-large"> {
  const scanned = scan(bytes, bounds);
  if (!scanned.ok) return scanned;
  try {
    return { ok: true, value: encoder.decode(bytes) };
  } catch (cause) {
    return refuse(
      "malformed",
      `the header is not CBOR: ${cause instanceof Error ? cause.message : "unreadable"}`,
    );
  }
}
