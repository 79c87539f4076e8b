import {
  clippedField,
  contributionKey,
  roundsOf,
  type Partial as Sum,
} from "@tributary/proto/algebra/partial.js";
import { identityText, type PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { Announcement, PartialReceipt, Settled } from "@tributary/proto/tier/inbox.js";
import { cloudRound, numberedId, siteRoundId } from "@tributary/proto/wire/ids.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { admitPartial, type Counted } from "./admission.js";
import { type HeldPartial, heldFrom } from "./held-partial.js";
import { hasRoom, type LatePartials } from "./late-partials.js";
import type { LiveRound, Others } from "./live-round.js";
import { checkSite } from "./partial-site.js";
import type { RoundStep } from "./round.js";
import { contributionKeyOf, type Ending, partialRows } from "./round-end.js";
import { readPlan } from "./round-plan.js";
import { siteOfPartial } from "./round-pool.js";
import type { Tally } from "./session-record.js";
import type { SessionWorld } from "./session-world.js";
import type { OpenRound } from "./store/rows.js";

/**
 * `step` is what the open round does next, once the sender has its receipt; `kept` says that a late
 * one now waits for the next model.
 */
export type Taken = Verdict<{
  readonly receipt: PartialReceipt;
  readonly step?: RoundStep;
  readonly kept?: boolean;
}>;

/** What takes a session's Partials. */
export type Reception = {
  readonly world: SessionWorld;
  readonly session: string;
  readonly live: LiveRound | undefined;
  /** The round that a session which broke down left open; it takes no more until resumed. */
  readonly left: LiveRound | undefined;
  readonly late: LatePartials;
  /** Whether the session is over: no model will come. */
  readonly ended: boolean;
  /** Whether each Partial is kept under the site it is of. */
  readonly bySite: boolean;
  readonly tally: Tally;
};

/** What was received of a Partial's identity in the open round; undefined when nothing was. */
export function settledIn(
  live: LiveRound | undefined,
  identity: PartialIdentity,
): Settled | undefined {
  const text = identityText(identity);
  const held = live?.held(text);
  if (live === undefined || held === undefined) return undefined;
  const overflowed = live.state.overflow.some((partial) => partial.identity === text);
  const receipt = receiptOf(held.digest, overflowed ? expiry("total-overflow") : undefined);
  return { digest: held.digest, state: { receivedBytes: held.bytes, receipt } };
}

/**
 * Takes a whole Partial of one session: into the open round, or, when its round has ended, among
 * those kept for the next model. It is durable when this resolves with a receipt. Runs as a job of
 * the session.
 */
export async function takePartial(
  reception: Reception,
  announcement: Announcement,
  partial: Sum,
  bytes: Uint8Array,
): Promise<Taken> {
  const { world, live, left } = reception;
  await reception.late.renew();
  const before =
    settledIn(live ?? left, announcement.identity) ?? (await onRecord(reception, announcement));
  if (before?.state.receipt !== undefined)
    return before.digest === announcement.digest
      ? { ok: true, receipt: before.state.receipt }
      : refuse("partial-conflict", "this identity was received with another digest");
  const arrived = heldFrom(announcement, partial, world.clock.nowMs());
  const held = reception.bySite ? { ...arrived, site: siteOfPartial(world, arrived) } : arrived;
  const { round } = announcement;
  // A further stretch of site rounds is late for its own round; it may ride along with what is not.
  const isOfRound = partial.contributors.some((contributor) => contributor.round === round);
  if (live?.row.id !== round || live.state.closed !== undefined || !isOfRound)
    return takeLate(reception, announcement, partial, held, bytes);
  const others = await otherRounds(
    reception,
    announcement,
    partial,
    roundsOf(partial).filter((other) => other !== round),
    live,
  );
  if (!others.ok) return others;
  const sited = checkSite([live.row, ...others.rows], world.devices.siteOf, held);
  if (!sited.ok) return sited;
  const admitted = live.admit(announcement, partial, others, world.clock.monotonicMs());
  if (!admitted.ok) return admitted;
  await live.keep(held, bytes);
  const fate = admitted.step.effects.find((effect) => effect.kind === "expired");
  const rule = fate?.kind === "expired" ? fate.rule : undefined;
  if (rule !== undefined) reportExpired(reception, held, rule);
  else
    world.events({
      level: "info",
      name: "partial-accepted",
      session: live.row.session,
      round,
      gateway: held.identity.gateway,
      contributors: held.contributors.length,
      samples: held.samples,
      bytes: held.bytes,
      ...clippedField(partial.clipped ?? 0),
    });
  const expired = rule === undefined ? undefined : expiry(rule);
  return { ok: true, receipt: receiptOf(held.digest, expired), step: admitted.step };
}

/** A write whose answer was lost may have put it on record after the sender last asked. */
async function onRecord(
  { world }: Reception,
  { identity }: Announcement,
): Promise<Settled | undefined> {
  const row = await world.store.partial(identity);
  if (row === undefined || row.outcome === "refused") return undefined;
  const { digest, bytes, outcome, rule } = row;
  return {
    digest,
    state: { receivedBytes: bytes, receipt: { digest, outcome, rule: rule ?? "" } },
  };
}

async function takeLate(
  reception: Reception,
  announcement: Announcement,
  partial: Sum,
  held: HeldPartial,
  bytes: Uint8Array,
): Promise<Taken> {
  const { world, late, tally, session } = reception;
  const { round } = announcement;
  const known = await world.store.wholeRound(round);
  if (known === undefined) return refuse("unknown-round", `no round ${round}`);
  const others = await otherRounds(reception, announcement, partial, roundsOf(partial));
  if (!others.ok) return others;
  const { rosters, counted, rows: named } = others;
  const admitted = admitPartial(readPlan(known.plan), rosters, counted, partial);
  if (!admitted.ok) return admitted;
  const sited = checkSite(named, world.devices.siteOf, held);
  if (!sited.ok) return sited;
  const ending = lateEnding(reception, known);
  const kept = ending.fate.outcome === "kept";
  if (kept) {
    if (!hasRoom(late.list(), [held]))
      return refuse("storage-full", `${session} keeps as many late Partials as it may`);
    await late.write(held, bytes);
  }
  const rows = partialRows(round, held, ending);
  // A failure may hide a write that came through.
  late.doubt();
  await world.store.recordPartial(rows.partial, rows.contributions);
  const { identity, base, digest, contributors } = held;
  late.trust();
  if (ending.fate.outcome === "expired") {
    tally.expired += contributors.length;
    reportExpired(reception, held, ending.fate.rule);
  } else {
    await late.adopt([...late.list(), { ...held, applied: false }]);
    world.events({
      level: "info",
      name: "partial-kept",
      session,
      round,
      gateway: identity.gateway,
      base,
      contributors: contributors.length,
      bytes: held.bytes,
      ...clippedField(partial.clipped ?? 0),
    });
  }
  return { ok: true, receipt: receiptOf(digest, ending), kept };
}

function lateEnding({ ended }: Reception, { task }: OpenRound): Ending {
  // What an evaluation measured is of no use once its candidate is decided about.
  if (task === "evaluate") return expiry("late-evaluation");
  return ended ? expiry("session-ended") : { fate: { outcome: "kept" }, retained: true };
}

function expiry(rule: string): Ending {
  return { fate: { outcome: "expired", rule }, retained: false };
}

/**
 * What is known of rounds that ended, for the contributions to them that a Partial has. Whoever the
 * gateway was that a device's contribution was expected of: sites change their gateways, and a
 * contribution is counted once by its own identity. While a round is open it is whose roster has the
 * device, for a further stretch as for the first.
 *
 * @param of the open round, where the Partial has contributions to it
 */
async function otherRounds(
  { world, session, live, left }: Reception,
  { identity }: Announcement,
  partial: Sum,
  rounds: readonly string[],
  of?: LiveRound,
): Promise<Verdict<Others & { readonly rows: readonly OpenRound[] }>> {
  const { store } = world;
  const rosters = new Map<string, ReadonlySet<string>>();
  const rows = new Map<string, OpenRound>();
  let task = of?.row.task;
  for (const id of rounds) {
    const row = await store.wholeRound(cloudRound(id));
    if (row === undefined) return refuse("unknown-round", `no round ${id}`);
    // Its end is still to be decided, and its journal may hold this Partial: nothing may be recorded.
    // A further stretch is no part of it: the session that runs knows what it has of that.
    const isApart = id !== row.id && live?.row.id === row.id && live.state.closed === undefined;
    if (row.state === "open" && !isApart)
      return refuse("busy", `${id} is open, and its session does not run; send it again later`);
    if (row.base !== partial.base)
      return refuse("base-mismatch", `${id} starts from ${row.base}, not ${partial.base}`);
    if (task !== undefined && task !== row.task)
      return refuse("partial-malformed", "contributions to training and to evaluation");
    task = row.task;
    rows.set(row.id, row);
    const { [identity.gateway]: own = [] } = row.rosters;
    rosters.set(id, new Set(row.state === "open" ? own : Object.values(row.rosters).flat()));
  }
  const counted = new Map<string, Counted>();
  const found = { ok: true, rosters, counted, rows: [...rows.values()] } as const;
  if (rounds.length === 0 && (of?.plan.offlineSiteRounds ?? 0) === 0) return found;
  const known = await store.knownContributions(
    session,
    partial.contributors.map(contributionKeyOf),
  );
  for (const { round: number, stretch, device, updates } of known) {
    const id = numberedId(session, number);
    const round = stretch === 0 ? id : siteRoundId(id, stretch);
    counted.set(contributionKey({ round, device }), { round, device, updates });
  }
  // An open round's journal holds contributions to earlier rounds, too, which are not in the store yet.
  for (const open of [live, left])
    for (const [key, contribution] of open?.counted ?? []) counted.set(key, contribution);
  return found;
}

function reportExpired({ world, session }: Reception, held: HeldPartial, rule: string) {
  world.events({
    level: "warn",
    name: "partial-expired",
    session,
    gateway: held.identity.gateway,
    rule,
    contributors: held.contributors.length,
  });
}

/** @param ending absent for one in the open round */
function receiptOf(digest: string, ending: Ending | undefined): PartialReceipt {
  const fate = ending?.fate ?? { outcome: "merged" };
  return { digest, outcome: fate.outcome, rule: "rule" in fate ? fate.rule : "" };
}
