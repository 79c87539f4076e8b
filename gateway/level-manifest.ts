import { cursorOf } from "./byte-cursor.js";

/** What a MANIFEST comes to: the tables that count, with their sizes, and the logs that do. */
export type Manifest = {
  readonly tables: ReadonlyMap<number, number>;
  /** Logs of this number and higher are not in tables yet. */
  readonly log: number;
  /** One more log that counts; 0 for none. */
  readonly formerLog: number;
};

/** LevelDB's version edits, in order (its db/version_edit.cc). Undefined where one cannot be read. */
export function readManifest(edits: readonly Uint8Array[]): Manifest | undefined {
  const tables = new Map<number, number>();
  const manifest = { tables, log: 0, formerLog: 0 };
  for (const edit of edits) {
    const cursor = cursorOf(edit);
    // A file that an edit deletes and adds is there after it.
    const added: [number, number][] = [];
    const number = () => cursor.varint() ?? Number.NaN;
    const fields: Record<number, () => unknown> = {
      1: () => cursor.text(),
      2: () => (manifest.log = number()),
      3: number,
      4: number,
      5: () => [number(), cursor.text()],
      6: () => [number(), tables.delete(number())],
      7() {
        number();
        added.push([number(), number()]);
        return [cursor.text(), cursor.text()].includes(undefined) ? undefined : added;
      },
      9: () => (manifest.formerLog = number()),
    };
    while (cursor.left > 0) {
      const read = fields[number()]?.();
      if (read === undefined || Number.isNaN(read)) return undefined;
    }
    for (const [table, bytes] of added) tables.set(table, bytes);
  }
  return manifest;
}
