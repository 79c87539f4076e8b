import { cursorOf } from "./byte-cursor.js";
import type { LevelEntry } from "./level-table.js";

const HEADER_BYTES = 12;

/** What one record of a write-ahead log changes; undefined where it is no whole batch. */
export function readBatch(record: Uint8Array): LevelEntry[] | undefined {
  if (record.length < HEADER_BYTES) return undefined;
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const first = view.getBigUint64(0, true);
  const count = view.getUint32(8, true);
  const cursor = cursorOf(record.subarray(HEADER_BYTES));
  const entries: LevelEntry[] = [];
  while (cursor.left > 0) {
    const [kind] = cursor.take(1) ?? [];
    if (kind !== 0 && kind !== 1) return undefined;
    const key = cursor.text();
    const value = kind === 1 ? cursor.text() : undefined;
    if (key === undefined || (kind === 1 && value === undefined)) return undefined;
    const order = first + BigInt(entries.length);
    entries.push({ key: Buffer.from(key).toString("utf8"), order, value });
  }
  return entries.length === count ? entries : undefined;
}
