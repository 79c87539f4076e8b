import { cp, mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Random } from "@tributary/proto/host/random.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { Level } from "level";
import { z } from "zod";
import { limits } from "./limits.js";
import { openStore, type Store } from "./store.js";
import { levelDatabase, openTable, put } from "./store-table.js";

export type IndexFindings = {
  /** `missing`: a gateway that starts here takes every file for a left-over, and removes it. */
  readonly state: "whole" | "missing" | "damaged" | "mended";
  /** What was wrong; null for a whole one. */
  readonly message: string | null;
  /** Where the damaged files are kept. */
  readonly aside: string | null;
};

const INDEX = "index";
/** Sequences that are passed over after damage, so that none is given to two Partials. */
const PASSED_SEQUENCES = 1_000_000;

/**
 * Opens the index, after LevelDB's own repair where it does not open or cannot be read. That keeps
 * every record that it can read, and may bring back some that were deleted: a round that has
 * sealed opens again empty, and a Partial whose file is gone is recorded as damaged.
 */
export async function mendIndex(
  dataDir: string,
  dryRun: boolean,
  random: Random,
): Promise<{ readonly findings: IndexFindings; readonly store: Store | undefined }> {
  const path = join(dataDir, INDEX);
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) {
    return { findings: { state: "missing", message: null, aside: null }, store: undefined };
  }
  const open = () => openWhole(path, random);
  try {
    const store = await open();
    return { findings: { state: "whole", message: null, aside: null }, store };
  } catch (error) {
    if (!(error instanceof TributaryError) || error.code !== "store-failed") throw error;
    const { message } = error;
    if (dryRun) return { findings: { state: "damaged", message, aside: null }, store: undefined };
    const aside = await copyAside(dataDir);
    await repairLevel(path);
    await passSequences(path);
    return { findings: { state: "mended", message, aside }, store: await open() };
  }
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
async function passSequences(path: string): Promise<void> {
  const table = await openTable(path, levelDatabase);
  try {
    const key = "meta!sequence";
    const known = (await table.get(key, z.number().int())) ?? 1;
    const entries = await table.keys("entry!");
    const named = entries.map((entry) => Number(entry.slice("entry!".length)));
    const next = Math.max(known, ...named) + PASSED_SEQUENCES;
    await table.write([put(key, next)], true);
  } finally {
    await table.close();
  }
}

/** The types of `level` name only what it has in a browser too; on Node.js it is `classic-level`. */
function repairLevel(path: string): Promise<void> {
  return (Level as unknown as { repair(location: string): Promise<void> }).repair(path);
}

async function copyAside(dataDir: string): Promise<string> {
  const dir = join(dataDir, "damaged");
  await mkdir(dir, { recursive: true });
  for (let n = 1; ; n++) {
    const name = `${INDEX}.damaged-${n}`;
    const taken = await stat(join(dir, name)).catch(() => undefined);
    if (taken !== undefined) continue;
    await cp(join(dataDir, INDEX), join(dir, name), { recursive: true });
    return `damaged/${name}`;
  }
}
