import type { ContributionRow, PartialRow, SessionProgress } from "@tributary/cloud/store/rows.js";
import type { RoundEnd, Settlement } from "@tributary/cloud/store/store.js";
import { type Book, buffers, createBook, type Ending, isOver } from "./book.js";
import { wrongEnd, wrongFate } from "./check-endings.js";
import { quorumOf, type Received } from "./quorum.js";
import { type Entry, nameOf, type Said } from "./register.js";
import { ageMost, applies } from "./rules.js";
import type { Settings } from "./settings.js";

/**
 * Goes through what the cloud wrote down, one transaction after the other, and says for what it had no
 * ground: expiries whose rule did not apply, models without their quorum or their K, rounds that made
 * none though they had it, what waits on though a model had room for it, sites forgotten without an
 * alarm.
 */
export function* wrongInRegister(settings: Settings, entries: readonly Entry[]): Generator<string> {
  const book = createBook(settings);
  for (const entry of entries)
    switch (entry.kind) {
      case "session":
        book.progress = entry.progress;
        break;
      case "model":
        book.models.set(entry.model.id, entry.model);
        break;
      case "opened":
        book.rounds.set(entry.round.id, entry.round);
        book.open.add(entry.round.id);
        break;
      case "stop-asked":
        book.stopsAsked++;
        break;
      case "recorded":
        yield* recorded(book, entry.partial, entry.contributions);
        break;
      case "ended":
        yield* ended(book, entry.end);
        break;
      case "moved":
        yield* settled(book, entry.settled, entry.progress);
        yield* moved(book, entry.progress);
        break;
      case "said":
        yield* heard(book, entry.event);
    }
}

/** A session stops when it is asked to, and finishes with the models that were asked for. */
function* moved(book: Book, to: SessionProgress): Generator<string> {
  if (
    to.state === "stopped" &&
    book.progress?.state !== "stopped" &&
    ++book.stops > book.stopsAsked
  )
    yield "the session stopped, and nobody had asked for it";
  if (to.state === "finished" && book.made < book.session.rounds)
    yield `the session finished with ${book.made} models of ${book.session.rounds}`;
  book.progress = to;
  book.broken = false;
}

function* settled(
  book: Book,
  given: readonly Settlement[],
  progress: SessionProgress,
): Generator<string> {
  for (const { fate, ...of } of given) {
    const isEnd = fate?.outcome === "expired" && fate.rule === "session-ended" && isOver(progress);
    if (fate !== null && !isEnd)
      yield `${nameOf(of)} ends between two rounds: ${Object.values(fate).join(" ")}`;
  }
  book.settle(given);
}

/** A Partial that came late. */
function* recorded(
  book: Book,
  partial: PartialRow,
  contributions: readonly ContributionRow[],
): Generator<string> {
  if (partial.outcome === "refused") return;
  const name = nameOf(partial);
  const round = book.rounds.get(partial.round);
  if (round === undefined) {
    yield `${name} is on record for ${partial.round}, which never opened`;
    return;
  }
  const isOfRound = contributions.some((row) => row.round === round.number && row.stretch === 0);
  if (book.open.has(round.id) && isOfRound)
    yield `${name} came while ${round.id} was open, and was taken for late`;
  const { task } = round;
  // Where the store was away, a session that broke down is on record as what it was before.
  const over = isOver(book.progress) && !book.broken;
  if (partial.outcome === "kept") {
    if (over || task !== "train") yield `${name} came late, and is kept for no model`;
    book.kept.set(name, { partial, task, applied: false });
    return;
  }
  const { aggregation } = book.session;
  const age = book.ageOf(partial.base, book.progress?.head ?? "");
  const moment = { ...late, aggregation, task, over, age };
  if (partial.outcome !== "expired" || !applies(partial.rule, moment))
    yield `${name} of ${partial.round} came late, ${age} versions old, and is ${partial.outcome} under ${partial.rule}`;
}

const late = {
  was: "late",
  ends: undefined,
  made: false,
  isSuperseded: false,
  hasNoRoom: false,
  isOverflow: false,
  hasSites: false,
  hasSite: false,
  isFull: false,
} as const;

function* ended(book: Book, end: RoundEnd): Generator<string> {
  const { session, kept } = book;
  const round = book.rounds.get(end.round);
  const received = receivedBy(end);
  if (round === undefined || !book.open.delete(end.round) || received === undefined) {
    yield `${end.round} ends ${received === undefined ? "with contributions that its Partials do not have" : "and was not open"}`;
    return;
  }
  const overflow = overflowOf(received, session.totalMax, buffers(book, round.task));
  const within = received.filter(({ partial }) => !overflow.has(nameOf(partial)));
  // An evaluation is merged on its way under site memory, too, and on record as of one site.
  const named = session.aggregation.kind !== "site-memory" || round.task === "train";
  const quorum = quorumOf(round.number, session.siteQuorum, within, book.sitesOfDevice, named);
  const of: Ending = { end, round, received, overflow, quorum, before: [...kept.values()] };
  yield* wrongEnd(book, of);
  for (const { partial } of received)
    yield* wrongFate(book, of, { partial, task: round.task }, partial);
  const fates = new Map((end.settled ?? []).map((one) => [nameOf(one), one.fate]));
  for (const one of of.before)
    if (!one.applied)
      yield* wrongFate(book, of, one, fates.get(nameOf(one.partial)) ?? { outcome: "kept" });
  if (end.model !== undefined) {
    book.alarms = { model: end.model.id, due: alarmsDue(book, of), heard: [] };
    book.models.set(end.model.id, end.model);
    book.made++;
  }
  book.settle(end.settled ?? []);
  for (const { partial } of received) {
    const { retained, outcome } = partial;
    const applied = outcome === "merged";
    if (retained) kept.set(nameOf(partial), { partial, task: round.task, applied });
  }
  yield* moved(book, end.progress);
}

/** The Partials of a round's end with their contributions, which follow one another as they do. */
function receivedBy({ partials, contributions }: RoundEnd): Received[] | undefined {
  let at = 0;
  const received = partials.map((partial) => {
    const own = contributions.slice(at, at + partial.contributors);
    at += partial.contributors;
    return { partial, contributions: own };
  });
  const fits = received.every(({ partial, contributions: own }) =>
    own.every(
      ({ gateway, outcome }) =>
        gateway === partial.gateway &&
        outcome === (partial.outcome === "merged" ? "model" : partial.outcome),
    ),
  );
  return fits && at === contributions.length ? received : undefined;
}

/** Names of those for whose samples a round had no room, each as it came. */
function overflowOf(
  received: readonly Received[],
  totalMax: number,
  eachAlone: boolean,
): ReadonlySet<string> {
  const overflow = new Set<string>();
  let samples = 0;
  for (const { partial } of received)
    if ((eachAlone ? 0 : samples) + partial.weight > totalMax) overflow.add(nameOf(partial));
    else samples += partial.weight;
  return overflow;
}

/** What of the sites' memory is too old for the model that a round makes. */
function alarmsDue(book: Book, { round, before }: Ending): string[] {
  const { aggregation } = book.session;
  if (aggregation.kind !== "site-memory") return [];
  return before
    .filter(({ partial }) => (book.ageOf(partial.base, round.base) ?? 0) > ageMost(aggregation))
    .map(({ partial, applied }) => `${book.siteOf(partial)} on ${partial.base}, ${applied}`);
}

function* heard(book: Book, said: Said): Generator<string> {
  if (said.name === "cloud-started" || said.name === "session-failed") {
    book.broken = said.name === "session-failed";
    return;
  }
  const { alarms } = book;
  if (said.name === "site-forgotten") {
    if (alarms === undefined) yield `${said.site} is said to be forgotten, and no model was made`;
    alarms?.heard.push(`${said.site} on ${said.base}, ${said.applied}`);
    return;
  }
  if (said.model !== alarms?.model) return;
  book.alarms = undefined;
  const [due, came] = [alarms.due, alarms.heard].map((names) => [...names].sort().join("; "));
  if (due !== came)
    yield `${said.model} forgets what is too old (${due}); the alarms say (${came})`;
}
