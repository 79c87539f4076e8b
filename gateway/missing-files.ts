import { contributionKey } from "@tributary/proto/algebra/partial.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { siteRoundId, splitNumberedId } from "@tributary/proto/wire/ids.js";
import { journalOf } from "./round-world.js";
import { stateFileOf } from "./site-state.js";
import type { OutboxRecord, RoundRecord, Store } from "./store.js";

/**
 * A round's files are made in an order that tells a kill from a loss. The cloud's round has its
 * journal before the index names it, and the index forgets it before the journal goes. A site
 * round's journal is there before anybody is asked, and its state before the index knows its end.
 * So a file that is not there although the index is so far was taken from outside, and what was
 * receipted with it.
 */
type Places = { readonly disk: Pick<Disk, "exists">; readonly store: Store };

/** Rejects with `journal-missing` when the journal of a round that the index has open is gone. */
export async function demandJournal({ disk }: Places, round: string): Promise<void> {
  if (!(await disk.exists(journalOf(round)))) throw missing(journalOf(round), round);
}

/**
 * The same for a round in site rounds.
 * @param known the state, if there is one; the site round with a journal; the newest that has ended
 */
export async function demandSiteFiles(
  places: Places,
  record: RoundRecord,
  known: { readonly state: boolean; readonly running: number | undefined; readonly newest: number },
): Promise<void> {
  const { round } = record;
  if (!known.state && (await landedRounds(places.store, record)).length > 0) {
    throw missing(stateFileOf(round), round);
  }
  if (known.running !== undefined) return;
  const next = siteRoundId(round, known.newest + 1);
  if ((await places.store.asks(next)).size > 0) throw missing(journalOf(next), next);
}

/** Site rounds whose contributions are in the state and not handed over yet, ascending. */
export async function landedRounds(
  store: Store,
  { round, handed }: RoundRecord,
): Promise<string[]> {
  const from = splitNumberedId(round);
  return (await store.sealed())
    .filter(({ round: sealed, folded }) => {
      const { session, number, site = 0 } = splitNumberedId(sealed) ?? {};
      const isOf = session === from?.session && number === from?.number;
      return isOf && folded > 0 && site > (handed?.number ?? 0);
    })
    .map((record) => record.round);
}

/**
 * Who was in a Partial of the outbox whose file is gone, as `round/device`: the ledger's contributors
 * to its rounds. `known` when they are as many as it had; else it had others, or they are in several
 * Partials, and it is one of them.
 */
export async function expectedIn(
  store: Pick<Store, "contributors">,
  { rounds, contributors }: Pick<OutboxRecord, "rounds" | "contributors">,
): Promise<{ readonly known: boolean; readonly names: readonly string[] }> {
  const named = await Promise.all(
    rounds.map(async (round) =>
      (await store.contributors(round)).map((device) => contributionKey({ round, device })),
    ),
  );
  const names = named.flat();
  return { known: names.length === contributors, names };
}

function missing(file: string, round: string): TributaryError {
  const message = `${file} is gone, and round ${round} is open: what it held was receipted`;
  return new TributaryError("journal-missing", message);
}
