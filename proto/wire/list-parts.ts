import { limits } from "./limits.js";

/** A piece of a denylist's text on the device link; the payload is its bytes from `offset`. */
export type ListPart = {
  readonly sequence: number;
  readonly offset: number;
  /** Of the whole text: it is ASCII. */
  readonly bytes: number;
};

/** A denylist as it travels, and its sequence. */
export type ListText = { readonly sequence: number; readonly text: string };

export function* listParts({ sequence, text }: ListText): Iterable<[ListPart, Uint8Array]> {
  const bytes = new TextEncoder().encode(text);
  for (let offset = 0; offset < bytes.length; offset += limits.chunkBytes) {
    const payload = bytes.subarray(offset, offset + limits.chunkBytes);
    yield [{ sequence, offset, bytes: bytes.length }, payload];
  }
}

/** Puts one list at a time together. A first part begins anew; what does not follow is dropped. */
export type ListAssembly = {
  /** The text once it is whole. */
  add(part: ListPart, payload: Uint8Array): string | undefined;
};

/** Whatever is not ASCII in it is no list: its signature will not fit. */
const ascii = new TextDecoder("latin1");

export function createListAssembly(): ListAssembly {
  let sequence = 0;
  let bytes = 0;
  let received = 0;
  let pieces: string[] = [];
  return {
    add(part, payload) {
      if (part.offset === 0) {
        ({ sequence, bytes } = part);
        received = 0;
        pieces = [];
      }
      const follows =
        part.offset === received && part.sequence === sequence && part.bytes === bytes;
      if (!follows || payload.length === 0 || received + payload.length > bytes) return undefined;
      pieces.push(ascii.decode(payload));
      received += payload.length;
      if (received < bytes) return undefined;
      const text = pieces.join("");
      pieces = [];
      received = 0;
      bytes = 0;
      return text;
    },
  };
}
