import { limits } from "./limits.js";
import type { Manifest } from "./plan.js";
import { refuse, type Verdict } from "./verdict.js";

const DIGEST_BYTES = 32;

/** SHA-256 of the bytes in lower-case hexadecimal; passed in, as this folder stays free of hosts. */
export type Sha256 = (bytes: Uint8Array) => string;

/** Describes a model file for transfer in chunks of `chunkBytes`. The file has at least one byte. */
export function makeManifest(
  model: string,
  bytes: Uint8Array,
  sha256: Sha256,
  chunkBytes: number = limits.chunkBytes,
): Manifest {
  if (bytes.length === 0) throw new RangeError("a model file has at least one byte");
  const chunks = new Uint8Array(Math.ceil(bytes.length / chunkBytes) * DIGEST_BYTES);
  for (let offset = 0, at = 0; offset < bytes.length; offset += chunkBytes, at += DIGEST_BYTES) {
    chunks.set(fromHex(sha256(bytes.subarray(offset, offset + chunkBytes))), at);
  }
  return { model, digest: sha256(bytes), bytes: bytes.length, chunkBytes, chunks };
}

/** Number of chunks; the last may be shorter than `chunkBytes`. */
export function chunkCount(manifest: Manifest): number {
  return Math.ceil(manifest.bytes / manifest.chunkBytes);
}

/** Bytes of the chunk at `index` in [0, chunkCount). */
export function chunkLength(manifest: Manifest, index: number): number {
  return Math.min(manifest.chunkBytes, manifest.bytes - index * manifest.chunkBytes);
}

/** Whether `chunk` is exactly the manifest's chunk at `offset`, a multiple of `chunkBytes`. */
export function verifyChunk(
  manifest: Manifest,
  offset: number,
  chunk: Uint8Array,
  sha256: Sha256,
): Verdict<{ readonly index: number }, "bad-offset" | "digest-mismatch"> {
  const index = offset / manifest.chunkBytes;
  if (!Number.isInteger(index) || index < 0 || index >= chunkCount(manifest))
    return refuse("bad-offset", `no chunk of ${manifest.model} begins at byte ${offset}`);
  const expected = chunkLength(manifest, index);
  if (chunk.length !== expected)
    return refuse(
      "bad-offset",
      `chunk ${index} of ${manifest.model} has ${chunk.length} bytes; it must have ${expected}`,
    );
  const digest = manifest.chunks.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
  if (sha256(chunk) !== toHex(digest))
    return refuse("digest-mismatch", `chunk ${index} of ${manifest.model} has another digest`);
  return { ok: true, index };
}

/** Whether `bytes` are exactly the manifest's file. */
export function verifyWhole(
  manifest: Manifest,
  bytes: Uint8Array,
  sha256: Sha256,
): Verdict<object, "digest-mismatch"> {
  if (bytes.length !== manifest.bytes)
    return refuse(
      "digest-mismatch",
      `${manifest.model} has ${manifest.bytes} bytes; these are ${bytes.length}`,
    );
  return sha256(bytes) === manifest.digest
    ? { ok: true }
    : refuse("digest-mismatch", `these bytes are not ${manifest.model}: another digest`);
}

function toHex(bytes: Uint8Array): string {
  let hex = "";
  for (const byte of bytes) hex += byte.toString(16).padStart(2, "0");
  return hex;
}

function fromHex(hex: string): Uint8Array {
  const bytes = new Uint8Array(hex.length / 2);
  for (let i = 0; i < bytes.length; i++)
    bytes[i] = Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16);
  return bytes;
}
