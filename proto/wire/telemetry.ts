import { z } from "zod";
import { decodeCbor, encodeCbor } from "./cbor.js";
import { idSchema } from "./ids.js";

/**
 * An entry of telemetry that a gateway has handed on for one below: CBOR, `{from: [gateway,
 * incarnation, sequence], entry}`, with the entry's own bytes. Its identity is that under which the
 * gateway that noted it has sent it, so that whoever stores it knows it again.
 */
export type HandedEntry = {
  readonly gateway: string;
  readonly incarnation: string;
  readonly sequence: number;
  readonly entry: Uint8Array;
};

const schema = z.strictObject({
  from: z.tuple([idSchema, idSchema, z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)]),
  entry: z.custom<Uint8Array>((value) => value instanceof Uint8Array),
});
/** Items of the CBOR: the map, its two names and values, and what `from` holds. */
const bounds = { depth: 3, items: 8 };

export function encodeHanded({ gateway, incarnation, sequence, entry }: HandedEntry): Uint8Array {
  return encodeCbor({ from: [gateway, incarnation, sequence], entry });
}

/** Undefined for an entry that its sender noted itself. */
export function readHanded(bytes: Uint8Array): HandedEntry | undefined {
  const cbor = decodeCbor(bytes, bounds);
  const read = cbor.ok ? schema.safeParse(cbor.value) : undefined;
  if (read?.success !== true) return undefined;
  const { from, entry } = read.data;
  const [gateway, incarnation, sequence] = from;
  return { gateway, incarnation, sequence, entry };
}
