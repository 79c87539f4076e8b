import type { Disk } from "@tributary/proto/host/disk.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { cloudRound, splitNumberedId } from "@tributary/proto/wire/ids.js";
import { examineJournal } from "./repair-journal.js";
import { JOURNALS, journalOf, type RoundWorld } from "./round-world.js";
import { type SiteStates, stateFileOf } from "./site-state.js";

const SUFFIX = ".journal";

/**
 * Removes what the last run left of rounds that are not open any more: journals, states of site
 * rounds, site models. What is open is left alone. What holds contributions goes only when the
 * ledger knows how its round ended: else the index has forgotten more than it should, and this
 * rejects with `index-corrupt`.
 * @returns for each open round the numbers of the site rounds that have a journal, ascending
 */
export async function clearLeftovers(
  { disk, models }: Pick<RoundWorld, "disk" | "models">,
  states: SiteStates,
  open: ReadonlySet<string>,
  ended: (round: string) => object | undefined,
): Promise<ReadonlyMap<string, number[]>> {
  const numbers = new Map<string, number[]>();
  await disk.makeDir(JOURNALS);
  for (const file of await disk.list(JOURNALS)) {
    const name = file.endsWith(SUFFIX) ? file.slice(0, -SUFFIX.length) : "";
    const round = cloudRound(name);
    const { site } = splitNumberedId(name) ?? {};
    if (!open.has(round)) {
      const isOver = (ended(round) ?? ended(name)) !== undefined;
      if (!isOver && (await holdsUpdates(disk, journalOf(name)))) throw unnamed(journalOf(name));
      await disk.remove(`${JOURNALS}/${file}`);
    } else if (site !== undefined) numbers.set(round, [...(numbers.get(round) ?? []), site]);
  }
  for (const round of await states.list()) {
    if (open.has(round)) continue;
    if (ended(round) === undefined) throw unnamed(stateFileOf(round));
    await states.remove(round);
  }
  for (const { model, digest } of models.made()) {
    if (!open.has(cloudRound(model))) await models.drop(digest);
  }
  for (const of of numbers.values()) of.sort((a, b) => a - b);
  return numbers;
}

/** A round that was not kept, because a kill came before its start was known, has an empty journal. */
async function holdsUpdates(disk: Disk, path: string): Promise<boolean> {
  const { state, kept, lost } = await examineJournal(disk, path);
  return state === "damaged" || kept.length + lost.length > 0;
}

function unnamed(file: string): TributaryError {
  const message = `${file} holds what was receipted, and the index does not know its round`;
  return new TributaryError("index-corrupt", message);
}

/**
 * The site round that was open: the newest whose journal is not part of the state. Journals of
 * those before it hold nothing that the state does not, and go.
 */
export async function findRunning(
  { disk }: Pick<RoundWorld, "disk">,
  round: string,
  numbers: readonly number[],
  landed: number,
): Promise<number | undefined> {
  const running = numbers.filter((number) => number > landed).at(-1);
  for (const number of numbers) {
    if (number !== running) await disk.remove(journalOf(`${round}.${number}`));
  }
  return running;
}
