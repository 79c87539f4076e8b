import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { readBatch } from "./level-batch.js";
import { type Damage, readLog } from "./level-log.js";
import { type Manifest, readManifest } from "./level-manifest.js";
import { type LevelEntry, readTable } from "./level-table.js";

/** What cannot be read of the index; all of a file, from byte 0, where it is not there. */
export type IndexDamage = Damage & { readonly file: string };

type Visit = (entry: LevelEntry) => void;

const KINDS = { table: /^(\d+)\.(?:ldb|sst)$/, log: /^(\d+)\.log$/, manifest: /^MANIFEST-\d+$/ };

/**
 * Reads all files of the index as they lie on disk, while no database has them open. LevelDB drops
 * what it finds damaged without a word, and checks no block of a table: so it is looked at before.
 * @param visit takes every change that can be read, in no order
 * @returns what stood in the files once and is not there any more; a torn end is not damage
 */
export async function examineIndex(path: string, visit?: Visit): Promise<IndexDamage[]> {
  const names = await readdir(path).catch((): string[] => []);
  const numbered = (kind: RegExp) => {
    const matching = names.map((name) => [Number(kind.exec(name)?.[1]), name] as const);
    return new Map(matching.filter(([number]) => !Number.isNaN(number)));
  };
  const tables = numbered(KINDS.table);
  const logs = numbered(KINDS.log);
  // A first start that was killed leaves no more than a MANIFEST.
  if (tables.size + logs.size === 0 && !names.includes("CURRENT")) return [];
  const damage: IndexDamage[] = [];
  const manifest = await examineManifest(path, names, damage);
  for (const number of manifest?.tables.keys() ?? tables.keys()) {
    const file = tables.get(number) ?? fileOf(number, "ldb");
    damage.push(...(await examineTable(path, file, manifest?.tables.get(number), visit)));
  }
  const { log = 0, formerLog = 0 } = manifest ?? {};
  // A log is there before the MANIFEST relies on it, and goes after.
  if (log > 0 && !logs.has(log)) damage.push({ file: fileOf(log, "log"), offset: 0, bytes: 0 });
  const newest = Math.max(...logs.keys());
  for (const [number, file] of logs) {
    if (number < log && number !== formerLog) continue;
    damage.push(...(await examineLog(path, file, number === newest, visit)));
  }
  return damage;
}

/** Rejects with `index-corrupt` before a database is opened on damaged files. */
export async function refuseDamagedIndex(path: string): Promise<void> {
  const damage = await examineIndex(path);
  if (damage.length > 0) {
    throw new TributaryError("index-corrupt", describeDamage(path, damage));
  }
}

export function describeDamage(path: string, damage: readonly IndexDamage[]): string {
  const places = damage.slice(0, 5).map(({ file, offset }) => `${file} at byte ${offset}`);
  const more = damage.length > places.length ? ` and ${damage.length - places.length} more` : "";
  return `the index ${path} is damaged: ${places.join(", ")}${more}`;
}

/** The MANIFEST that counts; undefined, and noted, where nothing can be said of it. */
async function examineManifest(
  path: string,
  names: readonly string[],
  damage: IndexDamage[],
): Promise<Manifest | undefined> {
  const current = names.includes("CURRENT") ? await readFile(join(path, "CURRENT"), "latin1") : "";
  const file = current.endsWith("\n") ? current.slice(0, -1) : "";
  if (!KINDS.manifest.test(file) || !names.includes(file)) {
    damage.push({ file: "CURRENT", offset: 0, bytes: current.length });
    return undefined;
  }
  const bytes = await readFile(join(path, file));
  const found = readLog(bytes, (edit) => readManifest([edit]) !== undefined);
  for (const place of found.damage) damage.push({ file, ...place });
  const manifest = found.records.length > 0 ? readManifest(found.records) : undefined;
  if (manifest !== undefined) return found.damage.length === 0 ? manifest : undefined;
  if (found.damage.length === 0) damage.push({ file, offset: 0, bytes: bytes.length });
  return undefined;
}

async function examineTable(
  path: string,
  file: string,
  expectedBytes: number | undefined,
  visit: Visit | undefined,
): Promise<IndexDamage[]> {
  const bytes = await readFile(join(path, file)).catch(absent);
  if (bytes === undefined) return [{ file, offset: 0, bytes: expectedBytes ?? 0 }];
  const { damage, entries } = readTable(bytes);
  if (visit !== undefined) for (const entry of entries()) visit(entry);
  const found = damage.map((place) => ({ file, ...place }));
  const size = expectedBytes ?? bytes.length;
  if (size === bytes.length) return found;
  const offset = Math.min(size, bytes.length);
  return [{ file, offset, bytes: Math.max(size, bytes.length) - offset }, ...found];
}

async function examineLog(
  path: string,
  file: string,
  isNewest: boolean,
  visit: Visit | undefined,
): Promise<IndexDamage[]> {
  const bytes = await readFile(join(path, file));
  const { records, damage, tornAt } = readLog(bytes, (record) => readBatch(record) !== undefined);
  if (visit !== undefined) {
    for (const record of records) for (const entry of readBatch(record) ?? []) visit(entry);
  }
  const found = damage.map((place) => ({ file, ...place }));
  // Behind the end of an older log others were written: it was not cut by the last kill.
  if (tornAt === undefined || isNewest) return found;
  return [...found, { file, offset: tornAt, bytes: bytes.length - tornAt }];
}

function fileOf(number: number, ending: string): string {
  return `${String(number).padStart(6, "0")}.${ending}`;
}

function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
}
