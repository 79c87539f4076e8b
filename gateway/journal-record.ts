import { decodePartial, encodePartial } from "@tributary/proto/algebra/frame.js";
import type { Partial } from "@tributary/proto/algebra/partial.js";
import { decodeCbor, encodeCbor } from "@tributary/proto/wire/cbor.js";
import { metricsSchema } from "@tributary/proto/wire/device-link.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { digestSchema, idSchema } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { encodingSchema } from "@tributary/proto/wire/plan.js";
import { z } from "zod";
import type { Update } from "./ingest.js";

/**
 * What a round's journal holds: updates as they came, and checkpoints that stand for all before
 * them. Each is a 4-byte big-endian header length, a CBOR header, and the update's payload or the
 * encoded Partial.
 */
export const recordKinds = { update: 1, checkpoint: 2 } as const;

const PREFIX_BYTES = 4;

const updateSchema = z.strictObject({
  device: idSchema,
  samples: z.number().int().min(1).max(wire.samplesMax),
  encoding: encodingSchema,
  saturated: z.number().int().min(0),
  /** Its norm was past the plan's bound, and what follows is the clipped update. */
  clipped: z.literal(true).optional(),
  metrics: metricsSchema,
  digest: digestSchema,
});
export type UpdateRecord = z.infer<typeof updateSchema> & { readonly payload: Uint8Array };

/** Digests of the contributors' updates, by device: what the Partial itself does not carry. */
const checkpointSchema = z.strictObject({ digests: z.record(idSchema, digestSchema) });
export type CheckpointRecord = {
  readonly partial: Partial;
  readonly digests: Readonly<Record<string, string>>;
};

function frame(header: object, rest: readonly Uint8Array[]): Uint8Array[] {
  const cbor = encodeCbor(header);
  const prefix = new Uint8Array(PREFIX_BYTES);
  new DataView(prefix.buffer).setUint32(0, cbor.length);
  return [prefix, cbor, ...rest];
}

export function encodeUpdate({ device, begin, payload, clipped }: Update): Uint8Array[] {
  const { samples, encoding, saturated, metrics, digest } = begin;
  const header = { device, samples, encoding, saturated, metrics, digest };
  return frame(clipped ? { ...header, clipped } : header, [payload]);
}

export function encodeCheckpoint(
  partial: Partial,
  digests: ReadonlyMap<string, string>,
): Uint8Array[] {
  return frame({ digests: Object.fromEntries(digests) }, encodePartial(partial));
}

/** Reads an update that this build or an older one wrote. The payload is a view. */
export function decodeUpdate(bytes: Uint8Array): UpdateRecord {
  const { header, rest } = unframe(updateSchema, bytes);
  return { ...header, payload: rest };
}

export function decodeCheckpoint(bytes: Uint8Array): CheckpointRecord {
  const { header, rest } = unframe(checkpointSchema, bytes);
  const decoded = decodePartial(rest);
  if (!decoded.ok) throw damaged(decoded.message);
  return { partial: decoded.partial, digests: header.digests };
}

/**
 * Whom a damaged record names, as far as its header can be read. Its checksum is wrong, so this is
 * a hint for a person and nothing to sum by.
 */
export function contributorsOf(
  kind: number,
  bytes: Uint8Array,
): readonly { readonly device: string; readonly samples: number | null }[] | undefined {
  try {
    if (kind === recordKinds.update) return [unframe(updateSchema, bytes).header];
    if (kind !== recordKinds.checkpoint) return undefined;
    const { digests } = unframe(checkpointSchema, bytes).header;
    return Object.keys(digests).map((device) => ({ device, samples: null }));
  } catch {
    return undefined;
  }
}

function unframe<S extends z.ZodType>(schema: S, bytes: Uint8Array) {
  if (bytes.length < PREFIX_BYTES) throw damaged(`${bytes.length} bytes are no record`);
  const length = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0);
  const end = PREFIX_BYTES + length;
  const cbor = decodeCbor(bytes.subarray(PREFIX_BYTES, end), {
    depth: wire.headerDepth,
    items: 4 * wire.contributors,
  });
  if (!cbor.ok) throw damaged(cbor.message);
  const header = schema.safeParse(cbor.value);
  if (!header.success) throw damaged(header.error.message);
  return { header: header.data as z.infer<S>, rest: bytes.subarray(end) };
}

function damaged(message: string): TributaryError {
  return new TributaryError("journal-corrupt", `a journal record cannot be read: ${message}`);
}
