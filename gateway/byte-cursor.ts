/** Reads LevelDB's numbers and strings one after another; each is undefined where the bytes end. */
export type ByteCursor = {
  readonly left: number;
  /** LEB128, up to 2^53 - 1. */
  varint(): number | undefined;
  take(length: number | undefined): Uint8Array | undefined;
  /** Bytes behind their length, a varint. */
  text(): Uint8Array | undefined;
};

export function cursorOf(bytes: Uint8Array): ByteCursor {
  let at = 0;
  const cursor: ByteCursor = {
    get left() {
      return bytes.length - at;
    },
    varint() {
      let value = 0;
      for (let scale = 1; scale <= 2 ** 49; scale *= 128) {
        const byte = bytes[at++];
        if (byte === undefined) return undefined;
        value += (byte & 0x7f) * scale;
        if (byte < 0x80) return Number.isSafeInteger(value) ? value : undefined;
      }
      return undefined;
    },
    take(length) {
      if (length === undefined || length > bytes.length - at) return undefined;
      at += length;
      return bytes.subarray(at - length, at);
    },
    text: () => cursor.take(cursor.varint()),
  };
  return cursor;
}
