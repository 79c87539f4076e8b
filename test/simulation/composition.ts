import type { Account } from "./account.js";
import { composedSum, type Grid, meanOf, onGrid, type Sum, siteModelOf, sumOf } from "./oracle.js";
import { type SiteHistory, type Stretch, stretchOf, updatesIn } from "./site-history.js";

/** Choices of updates that are tried for one history: a device that lost its receipt leaves several. */
const CHOICES_MAX = 4_096;

/** For each stretch, by its first site round: which site rounds each device is in. */
type Choice = ReadonlyMap<number, ReadonlyMap<string, readonly number[]>>;

/**
 * What a gateway's site rounds come to, worked out from what its devices trained: for each stretch, by
 * its first site round, the sum that its Partial should have. Several answers where the devices
 * cannot tell which of their updates were taken; in words why there is none.
 *
 * @param base values of the cloud's model that the round is on
 */
export function composed(
  history: SiteHistory,
  account: Account,
  base: Float32Array,
  grid: Grid,
): readonly ReadonlyMap<number, Sum>[] | string {
  const found = new Map<string, ReadonlyMap<number, Sum>>();
  let why = `${history.gateway} composed more in ${history.round} than its devices gave`;
  let tried = 0;
  const last = history.stretches.findLastIndex(({ rows }) => rows.length > 0);
  for (const choice of choicesOf(history, history.stretches.slice(0, last + 1))) {
    if (++tried > CHOICES_MAX) return `${history.round} at ${history.gateway} has too many choices`;
    const sums = compose(history, choice, account, base, grid);
    if (typeof sums === "string") why = sums;
    else found.set([...sums].map(([first, { sum }]) => `${first} ${sum}`).join(), sums);
  }
  return found.size > 0 ? [...found.values()] : why;
}

function* choicesOf(history: SiteHistory, stretches: readonly Stretch[]): Generator<Choice> {
  const [stretch, ...others] = stretches;
  if (stretch === undefined) {
    yield new Map();
    return;
  }
  const own =
    stretch.rows.length > 0
      ? choicesIn(history, stretch, stretch.rows)
      : unrecorded(history, stretch);
  for (const mine of own)
    for (const rest of choicesOf(history, others)) yield new Map([[stretch.first, mine], ...rest]);
}

function* choicesIn(
  history: SiteHistory,
  stretch: Stretch,
  rows: Stretch["rows"],
): Generator<ReadonlyMap<string, readonly number[]>> {
  const [row, ...others] = rows;
  if (row === undefined) {
    yield new Map();
    return;
  }
  const mine = updatesIn(history, stretch, row.device).sort((a, b) => a.number - b.number);
  for (const taken of subsets(mine, row.updates)) {
    if (taken.at(-1)?.samples !== row.samples) continue;
    if (mine.some((update) => update.owed && !taken.includes(update))) continue;
    const numbers = taken.map(({ number }) => number);
    for (const rest of choicesIn(history, stretch, others))
      yield new Map([[row.device, numbers], ...rest]);
  }
}

/** Of a stretch that is lost: what is receipted was in it, and anything else may have been. */
function* unrecorded(
  history: SiteHistory,
  stretch: Stretch,
): Generator<ReadonlyMap<string, readonly number[]>> {
  const mine = history.updates.filter(({ number }) => stretchOf(history, number) === stretch);
  const open = mine.filter(({ receipted }) => !receipted);
  for (let size = 0; size <= open.length; size++)
    for (const others of subsets(open, size)) {
      const taken = new Map<string, number[]>();
      for (const update of mine)
        if (update.receipted || others.includes(update))
          taken.set(update.device, [...(taken.get(update.device) ?? []), update.number]);
      yield taken;
    }
}

/** Those of a size, in the order of their items. */
function* subsets<T>(items: readonly T[], size: number): Generator<readonly T[]> {
  if (size === 0) {
    yield [];
    return;
  }
  for (let at = 0; at + size <= items.length; at++)
    for (const rest of subsets(items.slice(at + 1), size - 1)) yield [items[at] as T, ...rest];
}

function compose(
  { gateway, round, stretches }: SiteHistory,
  choice: Choice,
  account: Account,
  base: Float32Array,
  grid: Grid,
): ReadonlyMap<number, Sum> | string {
  const sums = new Map<number, Sum>();
  let delta = new Array<number>(base.length).fill(0);
  for (const { first, rows } of stretches) {
    const start = delta;
    const taken = choice.get(first) ?? new Map<string, readonly number[]>();
    const numbers = [...new Set([...taken.values()].flat())].sort((a, b) => a - b);
    let only: Sum | undefined;
    for (const number of numbers) {
      const siteRound = `${round}.${number}`;
      const model = siteModelOf(base, delta);
      const contributions = [];
      for (const [device, mine] of taken) {
        if (!mine.includes(number)) continue;
        const trained = account.training.get(`${siteRound} ${device}`);
        if (trained === undefined) return `it holds ${siteRound} ${device}, which nobody trained`;
        const other = model.findIndex((value, i) => value !== trained.from[i]);
        if (other >= 0)
          return `${device} trained ${siteRound} of ${gateway} from ${trained.from[other]} at value ${other}; the site model has ${model[other]}`;
        contributions.push({ samples: trained.samples, q: onGrid(trained.weights, model, grid) });
      }
      only = sumOf(contributions, base.length);
      const mean = meanOf(only, grid);
      delta = delta.map((value, i) => value + (mean[i] as number));
    }
    const samples = rows.reduce((sum, row) => sum + BigInt(row.samples), 0n);
    sums.set(
      first,
      only !== undefined && numbers.length === 1 ? only : composedSum(delta, start, samples, grid),
    );
  }
  return sums;
}
