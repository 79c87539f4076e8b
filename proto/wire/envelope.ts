import type { z } from "zod";
import { decodeCbor, encodeCbor } from "./cbor.js";
import { limits } from "./limits.js";
import { type Refusal, refuse } from "./verdict.js";

/**
 * An envelope is a small header and raw payload bytes:
 *
 *     byte 0      protocol version
 *     bytes 1-4   header length in bytes, unsigned, big-endian
 *     header      one CBOR map
 *     payload     the rest
 */
const PREFIX_BYTES = 5;

export type Envelope<H> = { readonly ok: true; readonly header: H; readonly payload: Uint8Array };

const none = new Uint8Array(0);

export function encodeEnvelope(header: object, payload: Uint8Array = none): Uint8Array {
  const cbor = encodeCbor(header);
  const bytes = new Uint8Array(PREFIX_BYTES + cbor.length + payload.length);
  bytes[0] = limits.protocolVersions[0];
  new DataView(bytes.buffer).setUint32(1, cbor.length);
  bytes.set(cbor, PREFIX_BYTES);
  bytes.set(payload, PREFIX_BYTES + cbor.length);
  return bytes;
}

/** Reads an envelope of a kind whose header has `schema`. The payload is a view, not a copy. */
export function decodeEnvelope<S extends z.ZodType>(
  schema: S,
  bytes: Uint8Array,
  headerBytesMax: number,
): Envelope<z.infer<S>> | Refusal<"protocol-version" | "malformed" | "too-large" | "too-deep"> {
  if (bytes.length < PREFIX_BYTES)
    return refuse("malformed", `${bytes.length} bytes are no envelope`);
  const version = bytes[0] as number;
  if (!(limits.protocolVersions as readonly number[]).includes(version)) {
    const known = limits.protocolVersions.join(", ");
    return refuse("protocol-version", `protocol version ${version}; this side speaks ${known}`);
  }
  const length = new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(1);
  if (length > headerBytesMax) {
    return refuse("too-large", `a header of ${length} bytes; at most ${headerBytesMax}`);
  }
  if (length > bytes.length - PREFIX_BYTES) return refuse("malformed", "the header is cut short");
  const cbor = decodeCbor(bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + length), {
    depth: limits.headerDepth,
    items: limits.headerItems,
  });
  if (!cbor.ok) return cbor;
  const header = schema.safeParse(cbor.value);
  if (!header.success) return refuse("malformed", describeIssues(header.error));
  return { ok: true, header: header.data, payload: bytes.subarray(PREFIX_BYTES + length) };
}

function describeIssues(error: z.ZodError): string {
  const parts = error.issues
    .slice(0, 3)
    .map((issue) => `${issue.path.join(".") || "header"}: ${issue.message}`);
  return parts.join("; ").slice(0, limits.messageChars);
}
