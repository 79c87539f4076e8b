import type { Disk } from "@tributary/proto/host/disk.js";
import { siteRoundId, splitNumberedId } from "@tributary/proto/wire/ids.js";
import { landedRounds } from "./missing-files.js";
import { readPlan } from "./plan-check.js";
import type { FileFindings } from "./repair.js";
import { examineState } from "./repair-state.js";
import { journalOf } from "./round-world.js";
import { inSiteRounds } from "./site-plan.js";
import { stateFileOf } from "./site-state.js";
import type { RoundRecord, Store } from "./store.js";

type Bench = { readonly disk: Disk; readonly dryRun: boolean };
/** Of a file that the index knows of and that is not there. */
type Lost = Pick<FileFindings, "file" | "kind" | "lost" | "unaccounted">;

/**
 * Ends, on record, what cannot go on because its file is gone: a round without its journal, site
 * rounds without their state. The cloud is told of a round in which nothing was folded.
 * @param setAside takes what was trained from a state that is gone
 */
export async function mendMissing(
  bench: Bench,
  store: Store,
  setAside: (round: string) => Promise<FileFindings[]>,
): Promise<FileFindings[]> {
  const files: FileFindings[] = [];
  for (const record of await store.openRounds(() => {})) {
    const read = readPlan(record.plan, record.roster);
    if (!read.ok) continue;
    const lost = inSiteRounds(read.plan)
      ? await mendSiteRounds(bench, store, record)
      : await mendRound(bench, store, record.round);
    for (const each of lost) files.push(found(each, bench.dryRun));
    if (lost.some(({ kind }) => kind === "site-state") && !bench.dryRun) {
      files.push(...(await setAside(record.round)));
    }
  }
  return files;
}

export function found(lost: Lost, dryRun: boolean): FileFindings {
  const nothing = { bytes: 0, gaps: [], kept: [], aside: null };
  return { ...lost, ...nothing, state: dryRun ? "missing" : "given-up" };
}

/** A round whose journal is gone: nobody knows which of those that were asked were receipted. */
async function mendRound(
  { disk, dryRun }: Bench,
  store: Store,
  round: string,
): Promise<readonly Lost[]> {
  const file = journalOf(round);
  if (await disk.exists(file)) return [];
  const asks = [...(await store.asks(round))];
  const unaccounted = asks.filter(([, ask]) => ask === "offered").map(([device]) => device);
  if (!dryRun) {
    const declined = asks.length - unaccounted.length;
    await store.seal({ round, offered: asks.length, folded: 0, declined }, [], undefined);
  }
  return [{ file, kind: "journal", lost: [], unaccounted }];
}

async function mendSiteRounds(
  bench: Bench,
  store: Store,
  record: RoundRecord,
): Promise<readonly Lost[]> {
  const { disk, dryRun } = bench;
  const { round } = record;
  const file = stateFileOf(round);
  const hasState = await disk.exists(file);
  const lost: Lost[] = [];
  const landed = hasState ? [] : await landedRounds(store, record);
  if (landed.length > 0) {
    const devices = (await Promise.all(landed.map(store.contributors))).flat();
    const names = [...new Set(devices)].sort().map((device) => ({ device, samples: null }));
    lost.push({ file, kind: "site-state", lost: names, unaccounted: [] });
    if (!dryRun) await forgetLanded(store, round);
  }
  const known = hasState ? (await examineState(disk, file)).number : 0;
  const next = siteRoundId(round, 1 + Math.max(known, await newestOf(store, record)));
  if ((await store.asks(next)).size > 0) lost.push(...(await mendRound(bench, store, next)));
  return lost;
}

/** Site rounds came to a state that is not there any more: no start is to look for it. */
export async function forgetLanded(store: Store, round: string): Promise<void> {
  const record = (await store.openRounds(() => {})).find((open) => open.round === round);
  if (record === undefined) return;
  const landed = await landedRounds(store, record);
  for (const { round: name, offered, declined } of await store.sealed()) {
    if (!landed.includes(name)) continue;
    await store.seal({ round: name, offered, folded: 0, declined }, [], undefined);
  }
}

async function newestOf(store: Store, { round, handed }: RoundRecord): Promise<number> {
  const ofRound = (await store.sealed()).map((sealed) => splitNumberedId(sealed.round));
  const from = splitNumberedId(round);
  return ofRound.reduce(
    (most, id) =>
      id?.session === from?.session && id?.number === from?.number
        ? Math.max(most, id?.site ?? 0)
        : most,
    handed?.number ?? 0,
  );
}
