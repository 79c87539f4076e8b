import { z } from "zod";
import { limits } from "./limits.js";
import { layoutSchema } from "./plan.js";
import { type Refusal, refuse, type Verdict } from "./verdict.js";

/**
 * The safetensors file format, float32 tensors only:
 *
 *     bytes 0-7   header length in bytes, unsigned, little-endian
 *     header      JSON: name -> { dtype, shape, data_offsets: [begin, end] }, and
 *                 optionally "__metadata__" -> { text: text }; padded with spaces
 *     data        values, little-endian, offsets counted from the data's first byte
 *
 * Source: the format section of the safetensors project's README. As there, the tensors cover
 * the data without a hole or an overlap, and a name appears once.
 */
const PREFIX_BYTES = 8;
const ALIGN_BYTES = 8;
const VALUE_BYTES = 4;
const METADATA = "__metadata__";

/** The longest JSON header read: enough for `limits.tensors` names of full length. `model-malformed`. */
export const SAFETENSORS_HEADER_BYTES_MAX = 4 * 1024 * 1024;

type ModelLayout = z.infer<typeof layoutSchema>;

export type SafetensorsFile = {
  /** Tensors in the order of their data. */
  readonly layout: ModelLayout;
  /** Every value, in layout order; row-major (C order) within a tensor. */
  readonly values: Float32Array;
  readonly metadata: Readonly<Record<string, string>>;
};

const entrySchema = z.strictObject({
  dtype: z.string(),
  shape: z.array(z.number()),
  data_offsets: z.tuple([z.number(), z.number()]),
});
const metadataSchema = z.record(z.string(), z.string());

type Placed = { readonly name: string; readonly shape: number[]; begin: number; end: number };

/**
 * Writes a model file. `values` holds the tensors of `layout` one after the other. Throws
 * RangeError when the count differs or a name cannot stand in a file: the caller's error.
 */
export function encodeSafetensors(
  layout: readonly { readonly name: string; readonly shape: readonly number[] }[],
  values: Float32Array,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const fields: string[] = [];
  if (Object.keys(metadata).length > 0) fields.push(field(METADATA, metadata));
  const names = new Set<string>();
  let at = 0;
  for (const { name, shape } of layout) {
    if (reserved(name) || names.has(name))
      throw new RangeError(`a tensor cannot be named ${JSON.stringify(name)} here`);
    names.add(name);
    const end = at + shape.reduce((product, size) => product * size, VALUE_BYTES);
    fields.push(field(name, { dtype: "F32", shape, data_offsets: [at, end] }));
    at = end;
  }
  if (at !== values.length * VALUE_BYTES)
    throw new RangeError(
      `${values.length} values for a layout of ${at / VALUE_BYTES}: they must match`,
    );
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const headerBytes = Math.ceil(json.length / ALIGN_BYTES) * ALIGN_BYTES;
  const bytes = new Uint8Array(PREFIX_BYTES + headerBytes + at);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerBytes), true);
  bytes.fill(0x20, PREFIX_BYTES, PREFIX_BYTES + headerBytes);
  bytes.set(json, PREFIX_BYTES);
  bytes.set(
    new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    PREFIX_BYTES + headerBytes,
  );
  return bytes;
}

function field(name: string, value: object): string {
  return `${JSON.stringify(name)}:${JSON.stringify(value)}`;
}

/** Names that would not survive a JSON object, or that the format keeps for itself. */
function reserved(name: string): boolean {
  return name === METADATA || name === "__proto__";
}

function bad(message: string): Refusal<"model-malformed"> {
  return refuse("model-malformed", `not a safetensors model: ${message}`);
}

/**
 * Reads a model file from outside. Never throws; what it returns is a copy, so `bytes` may be
 * reused. Values may be any float32, NaN included: judging them is the caller's.
 */
export function decodeSafetensors(bytes: Uint8Array): Verdict<SafetensorsFile, "model-malformed"> {
  if (bytes.length < PREFIX_BYTES) return bad(`${bytes.length} bytes hold no header length`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = view.getBigUint64(0, true);
  if (length > SAFETENSORS_HEADER_BYTES_MAX)
    return bad(`a header of ${length} bytes; at most ${SAFETENSORS_HEADER_BYTES_MAX}`);
  const dataAt = PREFIX_BYTES + Number(length);
  if (dataAt > bytes.length) return bad(`its header of ${length} bytes is cut short`);
  const header = readHeader(bytes.subarray(PREFIX_BYTES, dataAt));
  if (!header.ok) return header;
  const dataBytes = bytes.length - dataAt;
  if (dataBytes > limits.modelBytes)
    return bad(`${dataBytes} bytes of values; at most ${limits.modelBytes}`);
  const placed = checkPlaces(header.placed, dataBytes);
  if (!placed.ok) return placed;
  const values = new Float32Array(dataBytes / VALUE_BYTES);
  new Uint8Array(values.buffer).set(bytes.subarray(dataAt));
  const layout = header.placed.map(({ name, shape }) => ({ name, shape }));
  return { ok: true, layout, values, metadata: header.metadata };
}

function readHeader(
  bytes: Uint8Array,
): Verdict<
  { readonly placed: Placed[]; readonly metadata: Record<string, string> },
  "model-malformed"
> {
  let text: string;
  let parsed: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    parsed = JSON.parse(text);
  } catch {
    return bad("its header is not JSON");
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed))
    return bad("its header is not a JSON object");
  const placed: Placed[] = [];
  let metadata: Record<string, string> = {};
  let names = 0;
  for (const [name, value] of Object.entries(parsed)) {
    names += 1 + Object.keys(value ?? {}).length;
    if (name === METADATA) {
      const read = metadataSchema.safeParse(value);
      if (!read.success || Object.hasOwn(value, "__proto__"))
        return bad(`${METADATA} must map text to text`);
      metadata = read.data;
      continue;
    }
    const tensor = readEntry(name, value);
    if (!tensor.ok) return tensor;
    placed.push(tensor.placed);
    if (placed.length > limits.tensors) return bad(`more than ${limits.tensors} tensors`);
  }
  // JSON.parse keeps the last of two equal names without a word; a name more in the text tells.
  if (countNames(text) !== names) return bad("a name appears twice in its header");
  placed.sort((a, b) => a.begin - b.begin || a.end - b.end);
  return { ok: true, placed, metadata };
}

function readEntry(
  name: string,
  value: unknown,
): Verdict<{ readonly placed: Placed }, "model-malformed"> {
  const shown = JSON.stringify(name.slice(0, 64));
  if (reserved(name)) return bad(`a tensor cannot be named ${shown}`);
  const entry = entrySchema.safeParse(value);
  if (!entry.success) return bad(`tensor ${shown} needs dtype, shape and data_offsets, only`);
  const { dtype, shape, data_offsets } = entry.data;
  if (dtype !== "F32")
    return bad(`tensor ${shown} is ${dtype.slice(0, 16)}; only F32 (float32) is supported`);
  const checked = layoutSchema.element.safeParse({ name, shape });
  if (!checked.success) return bad(`tensor ${shown} has a name or a shape past the bounds`);
  const [begin, end] = data_offsets;
  if (!Number.isSafeInteger(begin) || !Number.isSafeInteger(end) || begin < 0 || end < begin)
    return bad(`tensor ${shown} has offsets [${begin}, ${end}]`);
  // Float64 products of sizes this small never wrap: a huge product is huge, and equals no range.
  const needed = shape.reduce((product, size) => product * size, VALUE_BYTES);
  if (needed !== end - begin)
    return bad(`tensor ${shown} of ${needed} bytes has ${end - begin} between its offsets`);
  return { ok: true, placed: { name, shape, begin, end } };
}

/** Colons outside strings: in valid JSON, one for each name of an object. */
function countNames(json: string): number {
  let names = 0;
  let inString = false;
  for (let at = 0; at < json.length; at++) {
    const unit = json.charCodeAt(at);
    if (unit === 0x22) inString = !inString;
    else if (inString && unit === 0x5c) at++;
    else if (!inString && unit === 0x3a) names++;
  }
  return names;
}

/** Each tensor begins where the one before it ended, and the last ends with the data. */
function checkPlaces(
  placed: readonly Placed[],
  dataBytes: number,
): Verdict<object, "model-malformed"> {
  let at = 0;
  for (const { name, begin, end } of placed) {
    if (begin !== at) {
      const what = begin < at ? "overlaps the one before it" : "leaves a hole before it";
      return bad(`tensor ${JSON.stringify(name.slice(0, 64))} ${what} at byte ${begin}`);
    }
    at = end;
  }
  return at === dataBytes ? { ok: true } : bad(`${dataBytes} bytes of values where ${at} are due`);
}
