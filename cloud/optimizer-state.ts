import { sha256 } from "@tributary/proto/host/digest.js";
import { decodeCbor, encodeCbor } from "@tributary/proto/wire/cbor.js";
import { limits } from "@tributary/proto/wire/limits.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import type { OptimizerState } from "./optimizer.js";

/**
 * An optimiser's state as bytes, little-endian:
 *
 *     bytes 0-3    "TOPT"
 *     bytes 4-5    version, 1
 *     bytes 6-7    zero
 *     bytes 8-11   header length in bytes
 *     header       one CBOR map; zeros up to a multiple of 8
 *     weights      float64 per parameter, then m, then v, where the header names them
 *     last 32      SHA-256 of everything before
 */
const MAGIC = [0x54, 0x4f, 0x50, 0x54];
const VERSION = 1;
const PREFIX_BYTES = 12;
const DIGEST_BYTES = 32;
const HEADER_BYTES_MAX = 4096;

const headerSchema = z.strictObject({
  kind: z.enum(["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"]),
  step: z.number().int().min(0),
  parameters: z
    .number()
    .int()
    .min(0)
    .max(limits.modelBytes / 4),
  moments: z.enum(["", "m", "mv"]),
});

/** The bytes of a state, in pieces; the value arrays are views, not copies. */
export function encodeOptimizerState(state: OptimizerState): Uint8Array[] {
  const { kind, step, weights, m, v } = state;
  const moments = m === undefined ? "" : v === undefined ? "m" : "mv";
  const cbor = encodeCbor({ kind, step, parameters: weights.length, moments });
  const head = new Uint8Array(align8(PREFIX_BYTES + cbor.length));
  const view = new DataView(head.buffer);
  head.set(MAGIC);
  view.setUint16(4, VERSION, true);
  view.setUint32(8, cbor.length, true);
  head.set(cbor, PREFIX_BYTES);
  const arrays = [weights, m, v].filter((values) => values !== undefined);
  const pieces = [head, ...arrays.map(bytesOf)];
  return [...pieces, new Uint8Array(Buffer.from(sha256(pieces), "hex"))];
}

/** Reads what `encodeOptimizerState` wrote. Never throws; a damaged file is refused as a whole. */
export function decodeOptimizerState(
  bytes: Uint8Array,
): Verdict<{ readonly state: OptimizerState }, "optimizer-state-damaged"> {
  const damaged = (message: string) => refuse("optimizer-state-damaged", message);
  const end = bytes.length - DIGEST_BYTES;
  if (end < PREFIX_BYTES) return damaged(`${bytes.length} bytes are too few`);
  if (MAGIC.some((byte, i) => bytes[i] !== byte)) return damaged("it does not begin with TOPT");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint16(4, true);
  if (version !== VERSION) return damaged(`version ${version}; this build reads ${VERSION}`);
  const digest = Buffer.from(bytes.subarray(end)).toString("hex");
  if (sha256(bytes.subarray(0, end)) !== digest) return damaged("its digest does not match");
  const headerBytes = view.getUint32(8, true);
  if (headerBytes > HEADER_BYTES_MAX || PREFIX_BYTES + headerBytes > end)
    return damaged(`a header of ${headerBytes} bytes`);
  const cbor = decodeCbor(bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + headerBytes), {
    depth: 2,
    items: 16,
  });
  const header = cbor.ok ? headerSchema.safeParse(cbor.value) : undefined;
  if (!header?.success) return damaged("its header is unreadable");
  const { kind, step, parameters, moments } = header.data;
  const arrays = 1 + moments.length;
  const start = align8(PREFIX_BYTES + headerBytes);
  if (end - start !== arrays * parameters * 8)
    return damaged(`${end - start} bytes of values for ${arrays} times ${parameters}`);
  // A copy, since the values must lie at a multiple of 8 bytes in their own memory.
  const values = new Float64Array(bytes.slice(start, end).buffer);
  const [weights, m, v] = [0, 1, 2].map((i) =>
    i < arrays ? values.subarray(i * parameters, (i + 1) * parameters) : undefined,
  );
  if (weights === undefined) return damaged("it holds no weights");
  return { ok: true, state: { kind, step, weights, ...(m && { m }), ...(v && { v }) } };
}

function align8(bytes: number): number {
  return Math.ceil(bytes / 8) * 8;
}

function bytesOf(values: Float64Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
