import { cursorOf } from "./byte-cursor.js";

/**
 * Expands one raw Snappy block (google/snappy, format_description.txt).
 * @param bytesMax of the expanded block
 * @returns undefined where the bytes are none, or expand to more
 */
export function expandSnappy(bytes: Uint8Array, bytesMax: number): Uint8Array | undefined {
  const cursor = cursorOf(bytes);
  const length = cursor.varint() ?? Number.POSITIVE_INFINITY;
  if (length > bytesMax) return undefined;
  const expanded = new Uint8Array(length);
  let at = 0;

  function literal(tag: number): boolean {
    const short = tag >>> 2;
    const size = short < 60 ? short : littleEndian(cursor.take(short - 59));
    const taken = size === undefined ? undefined : cursor.take(size + 1);
    if (taken === undefined || at + taken.length > length) return false;
    expanded.set(taken, at);
    at += taken.length;
    return true;
  }

  /** The copy may reach into what it writes: then it repeats. */
  function copy(size: number, back: number | undefined): boolean {
    if (back === undefined || back === 0 || back > at || at + size > length) return false;
    for (const end = at + size; at < end; at++) expanded[at] = expanded[at - back] as number;
    return true;
  }

  while (cursor.left > 0) {
    const [tag = 0] = cursor.take(1) ?? [];
    const kind = tag & 3;
    let done: boolean;
    if (kind === 0) done = literal(tag);
    else if (kind === 1) {
      const low = littleEndian(cursor.take(1));
      done = copy(4 + ((tag >>> 2) & 7), low === undefined ? undefined : ((tag >>> 5) << 8) | low);
    } else done = copy(1 + (tag >>> 2), littleEndian(cursor.take(kind === 2 ? 2 : 4)));
    if (!done) return undefined;
  }
  return at === length ? expanded : undefined;
}

function littleEndian(bytes: Uint8Array | undefined): number | undefined {
  return bytes?.reduceRight((value, byte) => value * 256 + byte, 0);
}
