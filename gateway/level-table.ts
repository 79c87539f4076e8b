import { cursorOf } from "./byte-cursor.js";
import { maskedCrc32c } from "./crc32c.js";
import type { Damage } from "./level-log.js";
import { limits } from "./limits.js";
import { expandSnappy } from "./snappy.js";

/** One change of one key; the one with the highest order counts. */
export type LevelEntry = {
  readonly key: string;
  readonly order: bigint;
  /** Undefined: the key was deleted. */
  readonly value: Uint8Array | undefined;
};

export type TableFindings = {
  /** What is in the blocks that are whole. */
  entries(): Iterable<LevelEntry>;
  readonly damage: readonly Damage[];
};

type Block = { readonly offset: number; readonly length: number };
type Pair = { readonly key: Uint8Array; readonly value: Uint8Array };

const FOOTER_BYTES = 48;
const MAGIC = 0xdb_47_75_24_8b_80_fb_57n;
/** Behind each block: how it is compressed, and its checksum. */
const TRAILER_BYTES = 5;
const ORDER_BYTES = 8;

/**
 * Checks every block of one of LevelDB's tables (its doc/table_format.md), which LevelDB does not do
 * when it reads one. Together the blocks and the footer are the whole file.
 */
export function readTable(bytes: Uint8Array): TableFindings {
  const footerAt = Math.max(0, bytes.length - FOOTER_BYTES);
  const nothing = (offset: number, length: number): TableFindings => ({
    entries: () => [],
    damage: [{ offset, bytes: length }],
  });
  const footer = readFooter(bytes);
  if (footer === undefined) return nothing(footerAt, bytes.length - footerAt);
  const index = pairsOf(bytes, footer.index);
  if (index === undefined) return nothing(footer.index.offset, footer.index.length);
  const data = blocksIn(index);
  const meta = pairsOf(bytes, footer.meta);
  const known = [...data, ...(meta === undefined ? [] : blocksIn(meta)), footer.meta, footer.index];
  const damage: Damage[] = [];
  let end = 0;
  for (const block of known.sort((a, b) => a.offset - b.offset)) {
    // What no block covers belongs to one that is not known any more.
    if (block.offset !== end) damage.push({ offset: end, bytes: block.offset - end });
    end = block.offset + block.length + TRAILER_BYTES;
    if (!isWhole(bytes, block)) damage.push({ offset: block.offset, bytes: block.length });
  }
  if (end !== footerAt) damage.push({ offset: end, bytes: footerAt - end });
  return {
    damage,
    *entries() {
      for (const block of data) {
        for (const { key, value } of pairsOf(bytes, block) ?? []) {
          const entry = entryOf(key, value);
          if (entry !== undefined) yield entry;
        }
      }
    },
  };
}

function readFooter(bytes: Uint8Array): { meta: Block; index: Block } | undefined {
  if (bytes.length < FOOTER_BYTES) return undefined;
  const footer = bytes.subarray(bytes.length - FOOTER_BYTES);
  const view = new DataView(footer.buffer, footer.byteOffset, footer.byteLength);
  if (view.getBigUint64(FOOTER_BYTES - 8, true) !== MAGIC) return undefined;
  const cursor = cursorOf(footer);
  const [meta, index] = [readBlock(cursor), readBlock(cursor)];
  return meta === undefined || index === undefined ? undefined : { meta, index };
}

function readBlock(cursor: ReturnType<typeof cursorOf>): Block | undefined {
  const [offset, length] = [cursor.varint(), cursor.varint()];
  return offset === undefined || length === undefined ? undefined : { offset, length };
}

function blocksIn(pairs: readonly Pair[]): Block[] {
  return pairs.flatMap(({ value }) => readBlock(cursorOf(value)) ?? []);
}

function isWhole(bytes: Uint8Array, { offset, length }: Block): boolean {
  const end = offset + length + 1;
  if (end + 4 > bytes.length) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view.getUint32(end, true) === maskedCrc32c(bytes, offset, end);
}

/** The pairs of a block; undefined when it is damaged. */
function pairsOf(bytes: Uint8Array, block: Block): Pair[] | undefined {
  if (!isWhole(bytes, block)) return undefined;
  const end = block.offset + block.length;
  const stored = bytes.subarray(block.offset, end);
  const content = bytes[end] === 0 ? stored : expandSnappy(stored, limits.indexBlockBytes);
  if (content === undefined || content.length < 4) return undefined;
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const restartsAt = content.length - 4 - 4 * view.getUint32(content.length - 4, true);
  if (restartsAt < 0) return undefined;
  const cursor = cursorOf(content.subarray(0, restartsAt));
  const pairs: Pair[] = [];
  let key = new Uint8Array();
  while (cursor.left > 0) {
    const [shared, own, length] = [cursor.varint(), cursor.varint(), cursor.varint()];
    const rest = cursor.take(own);
    const value = cursor.take(length);
    if (shared === undefined || rest === undefined || value === undefined) return undefined;
    key = Buffer.concat([key.subarray(0, shared), rest]);
    pairs.push({ key, value });
  }
  return pairs;
}

/** LevelDB's inner key: the key, then order << 8 | whether there is a value. */
function entryOf(key: Uint8Array, value: Uint8Array): LevelEntry | undefined {
  if (key.length < ORDER_BYTES) return undefined;
  const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
  const mark = view.getBigUint64(key.length - ORDER_BYTES, true);
  return {
    key: Buffer.from(key.subarray(0, -ORDER_BYTES)).toString("utf8"),
    order: mark >> 8n,
    value: (mark & 0xffn) === 1n ? value : undefined,
  };
}
