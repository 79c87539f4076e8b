import { copyFile, link, mkdir, open, rename, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { decodePartial } from "@tributary/proto/algebra/frame.js";
import { contributionKey } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { type Disk, nodeDisk } from "@tributary/proto/host/disk.js";
import { acquireLock } from "@tributary/proto/host/lock.js";
import { type Random, systemRandom } from "@tributary/proto/host/random.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import { expectedIn } from "./missing-files.js";
import { type IndexFindings, mendIndex } from "./repair-index.js";
import {
  type Contribution,
  copyReadable,
  examineJournal,
  type JournalFindings,
} from "./repair-journal.js";
import { forgetLanded, found, mendMissing } from "./repair-missing.js";
import { adoptPartials } from "./repair-outbox.js";
import { examineState } from "./repair-state.js";
import type { OutboxRecord, Store } from "./store.js";

/** What became of one file. Names of files are relative to the data directory. */
export type FileFindings = {
  readonly file: string;
  readonly kind: "journal" | "partial" | "site-state";
  /**
   * `torn` is what a power cut leaves at a journal's end: the gateway cuts it, nothing receipted
   * is in it. `mended`: what can be read is in place of it. `set-aside`: nothing of it can be used.
   * `damaged` is one of these two that a dry run left as it is. `given-up`: the index knows of it
   * and it is gone, what it was for is over, on record; `missing` is the same in a dry run.
   * `adopted`: the damaged index did not name it any more, and it is sent again.
   */
  readonly state:
    | "whole"
    | "torn"
    | "damaged"
    | "mended"
    | "set-aside"
    | "missing"
    | "given-up"
    | "adopted";
  readonly bytes: number;
  /** Where no record can be read. */
  readonly gaps: readonly { readonly offset: number; readonly bytes: number }[];
  /** Contributions that are summed from now on. */
  readonly kept: readonly Contribution[];
  /** Receipted contributions that are lost, as far as their names can still be read. */
  readonly lost: readonly Contribution[];
  /** Devices that were asked for an update: it is lost, or it never came. */
  readonly unaccounted: readonly string[];
  /** Where the damaged bytes are kept. */
  readonly aside: string | null;
};

export type RepairReport = {
  readonly dataDir: string;
  readonly dryRun: boolean;
  readonly index: IndexFindings;
  readonly files: readonly FileFindings[];
};

export type RepairOptions = {
  readonly dataDir: string;
  /** Looks, and changes nothing. */
  readonly dryRun?: boolean;
  readonly random?: Random;
};

type Bench = {
  readonly disk: Disk;
  readonly dataDir: string;
  readonly dryRun: boolean;
  readonly random: Random;
};

const ASIDE = "damaged";
const JOURNAL = ".journal";
const STATE = ".state";
const NOTHING = { gaps: [], kept: [], lost: [], unaccounted: [], aside: null } as const;

/**
 * Makes a data directory usable again, for a gateway that does not start on it. Whatever is
 * replaced is kept in `damaged/`, until somebody removes it. Rejects with `data-dir-locked` while a
 * gateway runs there, and with the code of whatever it cannot read past: a newer version's files,
 * a disk that fails.
 */
export async function repairGateway(options: RepairOptions): Promise<RepairReport> {
  const { dataDir, dryRun = false, random = systemRandom() } = options;
  // Without this a wrong path would be made, and found whole.
  await stat(dataDir).catch((cause: unknown) => {
    throw new TributaryError("disk-missing", `there is no data directory ${dataDir}`, { cause });
  });
  const lock = await acquireLock(dataDir);
  try {
    const bench: Bench = { disk: nodeDisk(dataDir), dataDir, dryRun, random };
    const { findings, store } = await mendIndex(dataDir, dryRun, random);
    try {
      const files: FileFindings[] = [];
      if (store !== undefined && findings.state === "mended") {
        files.push(...(await adoptPartials(bench.disk, store, setAsidePartial(bench, store))));
      }
      files.push(...(await mendStates(bench, store)));
      if (store !== undefined) {
        const setAsideOf = (round: string) => setAsideSiteRounds(bench, store, round);
        files.push(...(await mendMissing(bench, store, setAsideOf)));
      }
      files.push(...(await mendJournals(bench, store)));
      files.push(...(await mendPartials(bench, store)));
      return { dataDir, dryRun, index: findings, files };
    } finally {
      await store?.close();
    }
  } finally {
    await lock.release();
  }
}

async function mendJournals(bench: Bench, store: Store | undefined): Promise<FileFindings[]> {
  const rounds = await roundsOf(store);
  const files: FileFindings[] = [];
  for (const name of await bench.disk.list("rounds")) {
    const round = name.slice(0, -JOURNAL.length);
    if (!name.endsWith(JOURNAL)) continue;
    const found = await examineJournal(bench.disk, `rounds/${name}`);
    const facts = { file: `rounds/${name}`, kind: "journal" as const, ...found };
    const isEmpty = found.state !== "damaged" && found.kept.length + found.lost.length === 0;
    if (rounds === undefined || isEmpty || isKnown(rounds, round)) {
      files.push(await mendJournal(bench, facts, await unaccounted(store, round, found)));
    } else files.push(await giveUp(bench, store, facts, round));
  }
  return files;
}

/** Contributions to a round that the index does not know: without its plan they are no sum. */
async function giveUp(
  bench: Bench,
  store: Store | undefined,
  facts: JournalFacts,
  round: string,
): Promise<FileFindings> {
  const lost = [...facts.kept, ...facts.lost];
  if (bench.dryRun) {
    return { ...facts, state: "damaged", kept: [], lost, unaccounted: [], aside: null };
  }
  const given = await setAside(bench, facts);
  await noteUnknown(store, round, given);
  return given;
}

/** On record, as a Partial is that ended without a receipt. */
async function noteUnknown(
  store: Store | undefined,
  round: string,
  { file, lost }: Pick<FileFindings, "file" | "lost">,
): Promise<void> {
  if (splitNumberedId(round) === undefined) return;
  await store?.noteExpiry({
    rounds: [round],
    rule: "index-damaged",
    message: `the index did not know the round of ${file}`,
    contributors: lost.map(({ device }) => contributionKey({ round, device })),
    expiredAtMs: 0,
  });
}

/**
 * A site round's updates were trained from what the site rounds before it came to. Without that
 * their sum means nothing: they are lost with it.
 */
async function mendStates(bench: Bench, store: Store | undefined): Promise<FileFindings[]> {
  const { disk, dataDir, dryRun } = bench;
  const rounds = await roundsOf(store);
  const files: FileFindings[] = [];
  for (const name of await disk.list("sites")) {
    if (!name.endsWith(STATE)) continue;
    const file = `sites/${name}`;
    const round = name.slice(0, -STATE.length);
    const { whole, bytes, contributions } = await examineState(disk, file);
    const facts = { ...NOTHING, file, kind: "site-state" as const, bytes };
    const hasRound = rounds?.has(round) ?? true;
    if (whole && hasRound) {
      files.push({ ...facts, state: "whole", kept: contributions });
      continue;
    }
    const gaps = whole ? [] : [{ offset: 0, bytes }];
    if (dryRun) {
      files.push({ ...facts, state: "damaged", gaps, lost: contributions });
      continue;
    }
    const aside = await keepAside(dataDir, file);
    await disk.remove(file);
    files.push({ ...facts, state: "set-aside", gaps, lost: contributions, aside });
    if (hasRound) {
      if (store !== undefined) await forgetLanded(store, round);
      files.push(...(await setAsideSiteRounds(bench, store, round)));
    } else await noteUnknown(store, round, { file, lost: contributions });
  }
  return files;
}

async function setAsideSiteRounds(
  bench: Bench,
  store: Store | undefined,
  round: string,
): Promise<FileFindings[]> {
  const files: FileFindings[] = [];
  for (const name of await bench.disk.list("rounds")) {
    if (!name.startsWith(`${round}.`) || name === `${round}${JOURNAL}`) continue;
    const found = await examineJournal(bench.disk, `rounds/${name}`);
    files.push(await setAside(bench, { file: `rounds/${name}`, kind: "journal", ...found }));
    // Its number is not given to another one.
    const siteRound = name.slice(0, -JOURNAL.length);
    const offered = found.kept.length + found.lost.length;
    await store?.seal({ round: siteRound, offered, folded: 0, declined: 0 }, [], undefined);
  }
  return files;
}

type JournalFacts = JournalFindings & { readonly file: string; readonly kind: "journal" };

async function mendJournal(
  bench: Bench,
  facts: JournalFacts,
  missing: readonly string[],
): Promise<FileFindings> {
  const { disk, dataDir, dryRun, random } = bench;
  const { file } = facts;
  if (facts.state !== "damaged") return { ...facts, unaccounted: [], aside: null };
  if (dryRun) return { ...facts, unaccounted: missing, aside: null };
  const mended = `${file}.mended.tmp`;
  await copyReadable(disk, file, mended, random.bytes(8));
  const aside = await keepAside(dataDir, file);
  await replace(join(dataDir, mended), join(dataDir, file));
  return { ...facts, state: "mended", unaccounted: missing, aside };
}

async function setAside({ disk, dataDir }: Bench, facts: JournalFacts): Promise<FileFindings> {
  const { file, kept, lost } = facts;
  const aside = await keepAside(dataDir, file);
  await disk.remove(file);
  return {
    ...facts,
    state: "set-aside",
    kept: [],
    lost: [...kept, ...lost],
    unaccounted: [],
    aside,
  };
}

/** Devices that were asked, and that no record names. */
async function unaccounted(
  store: Store | undefined,
  round: string,
  { kept, lost }: JournalFindings,
): Promise<string[]> {
  const named = new Set([...kept, ...lost].map(({ device }) => device));
  const asked = [...((await store?.asks(round)) ?? [])];
  return asked
    .filter(([device, ask]) => ask === "offered" && !named.has(device))
    .map(([device]) => device);
}

/** A site round is kept for the cloud's round that it is part of. */
function isKnown(rounds: ReadonlySet<string>, round: string): boolean {
  const { session, number } = splitNumberedId(round) ?? {};
  return rounds.has(round) || rounds.has(`${session}.${number}`);
}

/** Rounds that are open or whose end is known: a start keeps what is of others. */
async function roundsOf(store: Store | undefined): Promise<ReadonlySet<string> | undefined> {
  if (store === undefined) return undefined;
  const unread: string[] = [];
  const open = await store.openRounds((round) => unread.push(round));
  const known = [...open, ...(await store.sealed())];
  return new Set([...unread, ...known.map(({ round }) => round)]);
}

/** Partials are sums: one with a wrong bit is of no use. The gateway records what was in it. */
async function mendPartials(bench: Bench, store: Store | undefined): Promise<FileFindings[]> {
  const { disk, dataDir, dryRun } = bench;
  const files: FileFindings[] = [];
  if (store === undefined) return files;
  for (const entry of await store.outbox()) {
    const file = `outbox/${String(entry.sequence).padStart(16, "0")}.partial`;
    const bytes = (await disk.exists(file)) ? await disk.readFile(file) : undefined;
    const facts = { ...NOTHING, file, kind: "partial" as const, bytes: bytes?.length ?? 0 };
    if (bytes !== undefined && sha256(bytes) === entry.digest) {
      files.push({ ...facts, state: "whole" });
      continue;
    }
    if (bytes === undefined) {
      const { known, names } = await expectedIn(store, entry);
      const named = names.map((device) => ({ device, samples: null }));
      const lost = known ? named : [];
      const unaccounted = known ? [] : names;
      files.push(found({ file, kind: "partial", lost, unaccounted }, dryRun));
      if (!dryRun) await expire(store, entry, "its file is missing", lost);
      continue;
    }
    const lost = contributorsIn(bytes);
    const gaps = [{ offset: 0, bytes: facts.bytes }];
    if (dryRun) {
      files.push({ ...facts, state: "damaged", gaps, lost });
      continue;
    }
    const aside = await keepAside(dataDir, file);
    await expire(store, entry, "its bytes are not those that were written", lost);
    await disk.remove(file);
    files.push({ ...facts, state: "set-aside", gaps, lost, aside });
  }
  return files;
}

/** Takes away what the index does not name and what is in no other Partial as a whole. */
function setAsidePartial({ disk, dataDir }: Bench, store: Store) {
  return async (
    facts: Pick<FileFindings, "file" | "kind" | "bytes">,
    contributors: readonly string[],
  ): Promise<FileFindings> => {
    const { file, bytes } = facts;
    const aside = await keepAside(dataDir, file);
    await disk.remove(file);
    const message = `the index did not know ${file}`;
    const rule = "index-damaged";
    await store.noteExpiry({
      rounds: [],
      rule,
      message,
      contributors: [...contributors],
      expiredAtMs: 0,
    });
    const lost = contributors.map((device) => ({ device, samples: null }));
    const gaps = [{ offset: 0, bytes }];
    return { ...NOTHING, ...facts, state: "set-aside", gaps, lost, aside };
  };
}

function expire(
  store: Store,
  { sequence, rounds, sealedAtMs }: OutboxRecord,
  message: string,
  lost: readonly Contribution[],
): Promise<void> {
  const contributors = lost.map(({ device }) => device);
  const rule = "partial-damaged";
  const expiredAtMs = sealedAtMs;
  return store.expirePartial({ sequence, rounds, rule, message, contributors, expiredAtMs });
}

/** As `round/device`: what a damaged Partial still names. A hint for a person. */
function contributorsIn(bytes: Uint8Array): readonly Contribution[] {
  const decoded = decodePartial(bytes);
  if (!decoded.ok) return [];
  return decoded.partial.contributors.map((one) => ({
    device: contributionKey(one),
    samples: one.samples,
  }));
}

/** A second name, or a copy, of what is about to be replaced: `damaged/<name>.damaged-<n>`. */
async function keepAside(dataDir: string, file: string): Promise<string> {
  const dir = join(dataDir, ASIDE);
  await mkdir(dir, { recursive: true });
  const source = join(dataDir, file);
  for (let n = 1; ; n++) {
    const aside = `${ASIDE}/${basename(file)}.damaged-${n}`;
    const target = join(dataDir, aside);
    try {
      await link(source, target);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EEXIST") continue;
      // A file system without second names.
      if (code !== "EPERM" && code !== "ENOTSUP") throw error;
      await copyFile(source, target);
    }
    await syncDir(dir);
    return aside;
  }
}

async function replace(from: string, to: string): Promise<void> {
  await rename(from, to);
  await syncDir(dirname(to));
}

async function syncDir(dir: string): Promise<void> {
  const handle = await open(dir, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
