import type { ContributionRow, ModelRow } from "@tributary/cloud/store/rows.js";
import type { Account } from "./account.js";
import type { Failures } from "./failures.js";
import type { Holdings } from "./holdings.js";
import { roundOf, type SiteHistories, splitRound, wrongIn } from "./site-history.js";

export type Recorded = {
  readonly rows: readonly ContributionRow[];
  readonly models: readonly ModelRow[];
  /** Rounds that measured a model which was decided about. */
  readonly evaluated: ReadonlySet<string>;
};

/**
 * Every receipt is kept: its contribution is in one model that exists, or expired under a rule, or lost
 * with the hardware of a gateway that was replaced. What devices gave to site rounds is in one composed
 * Partial, whose contributions count it.
 */
export function checkAccount(
  account: Account,
  holdings: Pick<Holdings, "lost">,
  histories: SiteHistories,
  { rows, models, evaluated }: Recorded,
  failures: Failures,
): void {
  const wrong = (message: string) => failures.add("account", message);
  const announced = new Set(
    [...account.begun.keys()].map((key) => {
      const [round = "", device = ""] = key.split(" ");
      return `${splitRound(round).cloud} ${device}`;
    }),
  );
  const recorded = new Map<string, ContributionRow>();
  for (const row of rows) {
    const key = `${roundOf(row)} ${row.device}`;
    const { cloud } = splitRound(roundOf(row));
    if (recorded.has(key)) wrong(`${key} is on record twice`);
    recorded.set(key, row);
    if (row.outcome === "expired" && !row.rule) wrong(`${key} expired under no rule`);
    const settled =
      row.model === null ? evaluated.has(cloud) : models.some(({ id }) => id === row.model);
    if (row.outcome === "model" && !settled) wrong(`${key} is in ${row.model}, which is no model`);
    if (row.outcome !== "model" && row.outcome !== "expired")
      wrong(`${key} ended as ${row.outcome}: neither in a model nor expired`);
    if (!announced.has(`${cloud} ${row.device}`))
      wrong(`${key} is on record, and no device announced it`);
    if (histories.of(row) === undefined && row.updates !== 1)
      wrong(`${key} counts ${row.updates} updates of a round that has no site rounds`);
  }
  for (const { round, device, digest } of account.receipts) {
    const begin = account.begun.get(`${round} ${device}`)?.get(digest);
    if (begin === undefined) {
      wrong(`${device} has a receipt for ${digest}, which it never announced`);
      continue;
    }
    if (splitRound(round).site !== undefined) continue;
    const row = recorded.get(`${round} ${device}`);
    if (row === undefined) {
      if (!holdings.lost(round, device))
        wrong(`${device} has a receipt for ${round}, which is nowhere on record`);
    } else if (begin.samples !== row.samples)
      wrong(`${device} gave ${begin.samples} samples to ${round}; on record are ${row.samples}`);
  }
  for (const history of histories.all) for (const what of wrongIn(history)) wrong(what);
}
