import { randomBytes } from "node:crypto";

export interface Random {
  /** A float64 in [0, 1), of 53 random bits. */
  next(): number;
  /** `count` random bytes. */
  bytes(count: number): Uint8Array;
  /**
   * `length` characters of `a-z 2-7` (base32, RFC 4648, lower case), 5 random bits each; the first
   * is of `a-p`, 4 bits, so that an id never reads as a number in YAML or on a command line.
   */
  id(length: number): string;
}

const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";

function fromBytes(bytes: (count: number) => Uint8Array): Random {
  return {
    next() {
      const drawn = bytes(8);
      const view = new DataView(drawn.buffer, drawn.byteOffset, drawn.byteLength);
      // 27 + 26 bits: the 53 that a float64 holds.
      const high = view.getUint32(0, true) >>> 5;
      const low = view.getUint32(4, true) >>> 6;
      return (high * 2 ** 26 + low) / 2 ** 53;
    },
    bytes,
    id: (length) =>
      Array.from(bytes(length), (byte, at) => ALPHABET.charAt(byte & (at === 0 ? 15 : 31))).join(
        "",
      ),
  };
}

/** The operating system's randomness; fit for secrets. */
export function systemRandom(): Random {
  return fromBytes((count) => new Uint8Array(randomBytes(count)));
}

/**
 * The same numbers for the same seed, on every machine; for tests and simulation, never for secrets.
 *
 * sfc32 by Chris Doty-Humphrey (PractRand): three words of state and a counter, so a period of at
 * least 2^32; words are taken as little-endian bytes. A text seed is hashed with FNV-1a; the state
 * is (seed's low word, its high word, 0) with the counter at 1, and 12 words are thrown away.
 */
export function seededRandom(seed: number | string): Random {
  const number = typeof seed === "string" ? fnv1a(seed) : seed;
  if (!Number.isSafeInteger(number)) throw new RangeError(`${seed} is not a seed`);
  let a = number | 0;
  let b = Math.floor(number / 2 ** 32) | 0;
  let c = 0;
  let counter = 1;

  function word(): number {
    const out = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + out) | 0;
    return out >>> 0;
  }
  for (let i = 0; i < 12; i++) word();

  return fromBytes((count) => {
    const bytes = new Uint8Array(Math.ceil(count / 4) * 4);
    const view = new DataView(bytes.buffer);
    for (let at = 0; at < bytes.length; at += 4) view.setUint32(at, word(), true);
    return bytes.subarray(0, count);
  });
}

/** FNV-1a, 32 bits, over UTF-16 code units. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

export type BackoffBounds = { readonly baseMs: number; readonly capMs: number };

/**
 * How long to wait before retry number `attempt` (from 0), in whole milliseconds: uniform in
 * [0, min(capMs, baseMs 2^attempt)], so that many clients cut off together do not return together
 * ("full jitter", M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015).
 */
export function jitteredBackoff(
  random: Random,
  attempt: number,
  { baseMs, capMs }: BackoffBounds,
): number {
  const boundMs = Math.floor(Math.min(capMs, baseMs * 2 ** attempt));
  return Math.floor(random.next() * (boundMs + 1));
}
