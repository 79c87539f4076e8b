import { limits } from "@tributary/cloud/limits.js";
import type { PartialRow } from "@tributary/cloud/store/rows.js";
import { type Book, buffers, type Ending, isOver, type Kept } from "./book.js";
import { nameOf } from "./register.js";
import { ageMost, applies, type Moment, waitsOn } from "./rules.js";

/** What becomes of a Partial when a round ends. */
export type Fate = { readonly outcome: string; readonly rule?: string | null };

/** What is wrong with what the end of a round says of a Partial, its own or one that was kept. */
export function* wrongFate(
  book: Book,
  of: Ending,
  { partial, task }: Pick<Kept, "partial" | "task">,
  fate: Fate,
): Generator<string> {
  const { end, round, overflow, quorum, received } = of;
  const moment = momentOf(book, of, { partial, task });
  const what = `${nameOf(partial)} of ${partial.round} on ${partial.base}, ${said(moment.age)},`;
  const where = `in ${round.id}, which ends as ${end.state}`;
  if (fate.outcome === "expired" && !applies(fate.rule ?? null, moment))
    yield `${what} expired under ${fate.rule} ${where}`;
  if (fate.outcome === "kept") {
    const isYoung = moment.age !== undefined && moment.age <= ageMost(moment.aggregation);
    const waits = moment.made
      ? moment.hasNoRoom && !moment.isSuperseded && isYoung
      : moment.was === "kept" || waitsOn(moment);
    if (!waits || moment.over) yield `${what} waits on ${where}`;
  }
  const own = received.find((one) => one.partial === partial);
  if (fate.outcome !== "merged" || own === undefined) return;
  const sites = [...quorum.sitesOf(own)];
  if (!buffers(book, task) && sites.length > 0 && !sites.some((site) => quorum.possible.has(site)))
    yield `${what} counts ${where}, and no site of it had its quorum`;
  if (overflow.has(nameOf(partial))) yield `${what} counts ${where}, and the round had no room`;
}

function momentOf(
  book: Book,
  { end, round, received, overflow, quorum, before }: Ending,
  { partial, task }: Pick<Kept, "partial" | "task">,
): Moment {
  const { aggregation, totalMax, sitesQuorum } = book.session;
  const own = received.find((one) => one.partial === partial);
  const head = end.model === undefined ? (book.progress?.head ?? "") : round.base;
  const age = book.ageOf(partial.base, head);
  const site = book.siteOf(partial);
  const isNewer = (other: PartialRow) => {
    const itsAge = book.ageOf(other.base, head);
    return book.siteOf(other) === site && itsAge !== undefined && itsAge < (age ?? Infinity);
  };
  const others = [...before, ...received].filter((one) => one.partial.outcome !== "expired");
  const group = end.model?.groups?.find((one) =>
    aggregation.kind === "site-memory" ? one.site === site : one.base === partial.base,
  );
  const sites = own === undefined ? [] : [...quorum.sitesOf(own)];
  return {
    aggregation,
    task,
    was: own === undefined ? "kept" : "round",
    ends: end.state,
    made: end.model !== undefined,
    over: isOver(end.progress),
    age,
    isSuperseded:
      aggregation.kind === "site-memory" && others.some((other) => isNewer(other.partial)),
    hasNoRoom: (group?.samples ?? 0) + partial.weight > totalMax,
    isOverflow: overflow.has(nameOf(partial)),
    hasSites: quorum.certain.size >= sitesQuorum,
    hasSite: sites.length === 0 || sites.some((one) => quorum.certain.has(one)),
    isFull: isFull([...before, ...received]),
  };
}

function isFull(kept: readonly { readonly partial: PartialRow }[]): boolean {
  const bytes = kept.reduce((sum, { partial }) => sum + partial.bytes, 0);
  return kept.length >= limits.latePartials || bytes > limits.latePartialBytes;
}

/** A round that made a model had its quorum, or its K; one that made none had not. */
export function* wrongEnd(book: Book, of: Ending): Generator<string> {
  const { end, round, quorum } = of;
  if (end.state === "stopped") return;
  if (buffers(book, round.task)) return yield* wrongBuffer(book, of);
  const { sitesQuorum } = book.session;
  const who = `${round.id} ends as ${end.state}`;
  if (end.state === "kept") yield `${who} and does not buffer`;
  if (end.state === "failed" && quorum.certain.size >= sitesQuorum)
    yield `${who}, and ${quorum.certain.size} sites had their quorum: ${sitesQuorum} are enough`;
  if (end.state !== "failed" && quorum.possible.size < sitesQuorum)
    yield `${who}, and ${quorum.possible.size} sites had their quorum: it needs ${sitesQuorum}`;
}

function* wrongBuffer(book: Book, of: Ending): Generator<string> {
  const { end, round, received, overflow, before } = of;
  const { aggregation, totalMax } = book.session;
  const least = aggregation.kind === "buffered" ? aggregation.contributors : 1;
  const accepted = received.filter(({ partial }) => !overflow.has(nameOf(partial)));
  const fresh = accepted.reduce((sum, { partial }) => sum + partial.contributors, 0);
  const samples = [...before, ...accepted]
    .filter(({ partial }) => partial.base === round.base)
    .reduce((sum, { partial }) => sum + partial.weight, 0);
  // Then the model is made of what fits.
  const mayBeFewer = samples > totalMax || isFull([...before, ...received]);
  if (end.model !== undefined) {
    const { id, contributors } = end.model;
    if (contributors === 0 || (contributors < least && !mayBeFewer))
      yield `${id} is of ${contributors} contributions: it needs ${least}`;
    return;
  }
  const who = `${round.id} ends as ${end.state}`;
  const pooled = fresh + pooledAtLeast(book, before, round.base);
  if (pooled >= least || (samples > totalMax && pooled > 0))
    yield `${who} with ${pooled} contributions: ${least} are enough`;
  if (end.state === "failed" && fresh > 0) yield `${who}, and ${fresh} contributions came`;
}

/** Contributions of those kept that a model on a head has room for, whatever comes with them. */
function pooledAtLeast(book: Book, before: readonly Kept[], head: string): number {
  const { aggregation, totalMax } = book.session;
  const bases = new Map<string, PartialRow[]>();
  for (const { partial } of before) {
    const age = book.ageOf(partial.base, head);
    if (age === undefined || age > ageMost(aggregation)) continue;
    const base = partial.base ?? "";
    bases.set(base, [...(bases.get(base) ?? []), partial]);
  }
  return [...bases.values()]
    .filter((partials) => partials.reduce((sum, { weight }) => sum + weight, 0) <= totalMax)
    .flat()
    .reduce((sum, { contributors }) => sum + contributors, 0);
}

function said(age: number | undefined): string {
  return age === undefined ? "off the trail" : `${age} versions old`;
}
