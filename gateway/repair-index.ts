import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Random } from "@tributary/proto/host/random.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { z } from "zod";
import { examineIndex, refuseDamagedIndex } from "./index-files.js";
import type { LevelEntry } from "./level-table.js";
import { limits } from "./limits.js";
import { openStore, type Store } from "./store.js";
import { levelDatabase, openTable, put, type Table } from "./store-table.js";

export type IndexFindings = {
  /** `missing`: a gateway that starts here takes every file for a left-over, and removes it. */
  readonly state: "whole" | "missing" | "damaged" | "mended";
  /** What was wrong; null for a whole one. */
  readonly message: string | null;
  /** Where the damaged files are kept. */
  readonly aside: string | null;
};

const INDEX = "index";
/** The new one while it is made, and until it is in the place of the old one. */
const UNFINISHED = "index.unfinished";
const MENDED = "index.mended";
const BATCH_RECORDS = 1_000;
/** Sequences that are passed over after damage, so that none is given to two Partials. */
const PASSED_SEQUENCES = 1_000_000;

/**
 * Opens the index, made anew from what can be read where it is damaged or does not open. That may
 * bring back records that were replaced or deleted where damage hides it: a round that has
 * sealed opens again empty, and a Partial whose file is gone is recorded as damaged.
 */
export async function mendIndex(
  dataDir: string,
  dryRun: boolean,
  random: Random,
): Promise<{ readonly findings: IndexFindings; readonly store: Store | undefined }> {
  const path = join(dataDir, INDEX);
  if (!dryRun) await finishMending(dataDir);
  if (!(await isThere(path))) {
    return { findings: { state: "missing", message: null, aside: null }, store: undefined };
  }
  try {
    await refuseDamagedIndex(path);
    const store = await openWhole(path, random);
    return { findings: { state: "whole", message: null, aside: null }, store };
  } catch (error) {
    const codes = ["index-corrupt", "store-failed"];
    if (!(error instanceof TributaryError) || !codes.includes(error.code)) throw error;
    const { message } = error;
    if (dryRun) return { findings: { state: "damaged", message, aside: null }, store: undefined };
    const aside = await rebuild(dataDir);
    return { findings: { state: "mended", message, aside }, store: await openWhole(path, random) };
  }
}

/**
 * Makes the index anew from every change that can be read. LevelDB's own repair does not check what
 * it keeps. A kill at any point leaves the old one, or the new one for `finishMending`.
 * @returns where the old one is kept
 */
async function rebuild(dataDir: string): Promise<string> {
  const [unfinished, mended] = [join(dataDir, UNFINISHED), join(dataDir, MENDED)];
  await rm(unfinished, { recursive: true, force: true });
  const newest = new Map<string, LevelEntry>();
  await examineIndex(join(dataDir, INDEX), (entry) => {
    const known = newest.get(entry.key);
    if (known === undefined || known.order < entry.order) newest.set(entry.key, entry);
  });
  const table = await openTable(unfinished, levelDatabase);
  try {
    const operations = [...newest.values()].flatMap(({ key, value }) =>
      value === undefined ? [] : [{ type: "put" as const, key, value }],
    );
    for (let at = 0; at < operations.length; at += BATCH_RECORDS) {
      await table.write(operations.slice(at, at + BATCH_RECORDS), true);
    }
    await passSequences(table, dataDir);
  } finally {
    await table.close();
  }
  await rename(unfinished, mended);
  const aside = await moveAside(dataDir);
  await finishMending(dataDir);
  return aside;
}

async function finishMending(dataDir: string): Promise<void> {
  const [path, mended] = [join(dataDir, INDEX), join(dataDir, MENDED)];
  if (!(await isThere(mended))) return;
  if (await isThere(path)) await rm(mended, { recursive: true });
  else await rename(mended, path);
  await syncDir(dataDir);
}

/** The store, once everything in it that a start needs has been read. */
async function openWhole(path: string, random: Random): Promise<Store> {
  const { ledgerRounds, receivedPartials, expiries } = limits;
  const newIncarnation = () => random.id(16);
  const store = await openStore({ path, newIncarnation, ledgerRounds, receivedPartials, expiries });
  try {
    await Promise.all([
      store.openRounds(),
      store.sealed(),
      store.outbox(),
      store.formerOutbox(),
      store.expiries(),
      store.models(),
      store.published(),
      store.nextSequence(),
    ]);
    return store;
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** A lost record of the next sequence must not make it start anew. */
async function passSequences(table: Table, dataDir: string): Promise<void> {
  const key = "meta!sequence";
  const known = (await table.get(key, z.number().int())) ?? 1;
  const entries = (await table.keys("entry!")).map((entry) => entry.slice("entry!".length));
  const files = await readdir(join(dataDir, "outbox")).catch((): string[] => []);
  const named = [...entries, ...files]
    .map((name) => Number.parseInt(name, 10))
    .filter(Number.isFinite);
  const next = Math.max(known, ...named) + PASSED_SEQUENCES;
  await table.write([put(key, next)], true);
}

async function moveAside(dataDir: string): Promise<string> {
  const dir = join(dataDir, "damaged");
  await mkdir(dir, { recursive: true });
  for (let n = 1; ; n++) {
    const name = `${INDEX}.damaged-${n}`;
    if (await isThere(join(dir, name))) continue;
    await rename(join(dataDir, INDEX), join(dir, name));
    await syncDir(dir);
    return `damaged/${name}`;
  }
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function syncDir(dir: string): Promise<void> {
  const handle = await open(dir, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
