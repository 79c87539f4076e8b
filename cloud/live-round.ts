import { decodePartial } from "@tributary/proto/algebra/frame.js";
import { contributionKey, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type { RoundProgress } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { identityText, type PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { Announcement } from "@tributary/proto/tier/inbox.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { admitPartial, type Counted } from "./admission.js";
import { type HeldPartial, heldFrom } from "./held-partial.js";
import {
  beginDetached,
  openRound,
  type RoundEvent,
  type RoundPartial,
  type RoundRules,
  type RoundState,
  type RoundStep,
  restoreRound,
  stepRound,
} from "./round.js";
import type { JournalDamage, RoundJournal, RoundRecord, StandingRecord } from "./round-journal.js";
import { readPlan } from "./round-plan.js";
import type { MemberView, RoundView } from "./session-view.js";
import type { OpenRound } from "./store/rows.js";

/** Figures that a gateway reported of an open round. */
export type Figures = Pick<RoundProgress, "offered" | "folded" | "declined" | "sealed">;

/** An open round on its journal. The state moves only by `adopt`. */
export type LiveRound = {
  readonly row: OpenRound;
  readonly plan: Plan;
  readonly times: RoundTimes;
  readonly state: RoundState;
  /** What of its journal could not be read, once it was salvaged. */
  readonly damage: JournalDamage | undefined;
  /** Every contribution in its journal, by `contributionKey`. */
  readonly counted: ReadonlyMap<string, Counted>;
  /**
   * What accepting a Partial would do; refuses one that may not count. Changes nothing.
   *
   * @param others what is known of the other rounds that have contributions in it
   */
  admit(
    announcement: Announcement,
    partial: Sum,
    others: Others,
    nowMs: number,
  ): Verdict<{ step: RoundStep }>;
  /** Makes an accepted Partial durable. */
  keep(held: HeldPartial, bytes: Uint8Array): Promise<void>;
  /** Makes it durable that a gateway has nothing. */
  keepStanding(gateway: string, standing: "empty" | "refused"): Promise<void>;
  /** Takes note of links that are down as the round begins. */
  beginDetached(gateways: readonly string[], nowMs: number): void;
  /** Whether this incarnation of a gateway is the one that the round opened with. */
  opensFor(gateway: string, incarnation: string | undefined): boolean;
  step(event: RoundEvent): RoundStep;
  adopt(step: RoundStep): void;
  held(identity: string): HeldPartial | undefined;
  /** Every Partial that it accepted, in order of arrival. */
  all(): readonly HeldPartial[];
  figures(gateway: string, figures: Figures): void;
  /** Contributions to this round that a gateway has brought: in one Partial, or in one for each site. */
  brought(gateway: string): number;
  /** Visits the Partials of these identities with their bytes, one in memory at a time. */
  each(
    identities: readonly string[],
    visit: (identity: string, partial: Sum, bytes: Uint8Array) => Promise<void> | void,
  ): Promise<void>;
  /** @param nowMs by the monotonic clock @param wallMs by the wall clock */
  view(attached: (gateway: string) => boolean, nowMs: number, wallMs: number): RoundView;
  /** Takes up what the journal holds, after a restart. The caller ticks the round after it. */
  replay(): Promise<void>;
  /**
   * Takes up what can be read of a damaged journal, for a round that is to be stopped.
   *
   * @param known what the round is known to have received
   */
  salvage(known: readonly HeldPartial[]): Promise<JournalDamage>;
  close(): Promise<void>;
  remove(): Promise<void>;
};

/** Of the monotonic clock. */
export type RoundTimes = {
  readonly openedAtMs: number;
  /** When the sites seal, and when the round closes. */
  readonly siteDeadlineAtMs: number;
  readonly deadlineAtMs: number;
};

/** Rounds before the open one, and its own further stretches: rosters, and what is on record. */
export type Others = {
  readonly rosters: ReadonlyMap<string, ReadonlySet<string>>;
  readonly counted: ReadonlyMap<string, Counted>;
};

export type LiveRoundOptions = {
  readonly row: OpenRound;
  readonly journal: RoundJournal;
  readonly rules: Omit<RoundRules, "siteQuorum" | "totalMax">;
  readonly times: RoundTimes;
  readonly siteOf: (gateway: string) => string;
  /** Where a device is, as far as that is known. */
  readonly siteOfDevice: (device: string) => string | undefined;
};

export function createLiveRound(options: LiveRoundOptions): LiveRound {
  const { row, journal, times, siteOf } = options;
  const plan = readPlan(row.plan);
  const rosters = new Map(
    Object.entries(row.rosters).map(([gateway, devices]) => [gateway, new Set(devices)]),
  );
  const members = Object.fromEntries(
    Object.entries(row.rosters).map(([gateway, roster]) => [
      gateway,
      { site: siteOf(gateway), roster },
    ]),
  );
  const { siteQuorum, totalMax } = plan;
  const rules = { ...options.rules, siteQuorum, totalMax };
  let state = openRound(row.id, rules, times.deadlineAtMs, members);
  const held = new Map<string, HeldPartial>();
  const counted = new Map<string, Counted>();
  const figures = new Map<string, Figures>();
  /** Contributions to this round that each gateway said it has. */
  const expected = new Map<string, number>();
  const hold = (partial: HeldPartial) => {
    held.set(identityText(partial.identity), partial);
    for (const contributor of partial.contributors)
      counted.set(contributionKey(contributor), contributor);
  };
  const roundPartial = (
    identity: PartialIdentity,
    { site, contributors }: Pick<HeldPartial, "site" | "contributors">,
  ): RoundPartial => {
    const sites: Record<string, number> = {};
    let samples = 0;
    for (const contributor of contributors) {
      samples += contributor.samples;
      if (contributor.round !== row.id) continue;
      const at = site ?? options.siteOfDevice(contributor.device) ?? siteOf(identity.gateway);
      sites[at] = (sites[at] ?? 0) + 1;
    }
    const { gateway } = identity;
    const count = contributors.length;
    return { identity: identityText(identity), gateway, sites, contributors: count, samples };
  };

  const broughtBy = (gateway: string, arriving?: RoundPartial) =>
    contributionsOf(gateway, [
      ...state.partials,
      ...state.overflow,
      ...(arriving ? [arriving] : []),
    ]);

  let damage: JournalDamage | undefined;
  /** Takes up what was known before, and what `read` then visits. */
  const takeUp = async <T>(
    known: readonly HeldPartial[],
    read: (visit: (record: RoundRecord) => void) => Promise<T>,
  ): Promise<T> => {
    const standings: StandingRecord[] = [];
    const partials: RoundPartial[] = [];
    const take = (partial: HeldPartial) => {
      hold(partial);
      const { gateway } = partial.identity;
      const taken = roundPartial(partial.identity, partial);
      const brought = contributionsOf(gateway, [...partials, taken]);
      partials.push({ ...taken, more: brought < (expected.get(gateway) ?? 0) });
    };
    for (const partial of known) take(partial);
    const result = await read((record) => {
      if (record.kind === "standing") {
        standings.push(record.head);
        return;
      }
      if (held.has(identityText(record.head))) return;
      const said = record.head.expected;
      if (said !== undefined) expected.set(record.head.gateway, said);
      take(heldPartial(row.id, record));
    });
    state = restoreRound(state, partials, standings);
    return result;
  };

  return {
    row,
    plan,
    get damage() {
      return damage;
    },
    counted,
    times,
    get state() {
      return state;
    },
    admit({ identity }, partial, others, nowMs) {
      const roster = rosters.get(identity.gateway);
      if (roster === undefined)
        return refuse("not-in-roster", `${row.id} did not open with gateway ${identity.gateway}`);
      const assigned = new Map([...others.rosters, [row.id, roster]]);
      const admitted = admitPartial(
        plan,
        assigned,
        new Map([...others.counted, ...counted]),
        partial,
      );
      if (!admitted.ok) return admitted;
      const taken = roundPartial(identity, partial);
      const more = broughtBy(identity.gateway, taken) < (expected.get(identity.gateway) ?? 0);
      const arrived = { kind: "partial", partial: { ...taken, more }, nowMs } as const;
      return { ok: true, step: stepRound(state, arrived) };
    },
    async keep(partial, bytes) {
      const { identity, digest, receivedAtMs } = partial;
      const said = expected.get(identity.gateway);
      const head = {
        ...identity,
        digest,
        receivedAtMs,
        ...(said !== undefined && { expected: said }),
      };
      await journal.append({ kind: "partial", head, bytes });
      hold(partial);
    },
    keepStanding: (gateway, standing) =>
      journal.append({ kind: "standing", head: { gateway, standing } }),
    beginDetached(gateways, nowMs) {
      state = beginDetached(state, gateways, nowMs);
    },
    opensFor(gateway, incarnation) {
      const own = row.incarnations[gateway];
      return own === undefined || incarnation === undefined || own === incarnation;
    },
    step: (event) => stepRound(state, event),
    adopt(step) {
      state = step.state;
    },
    held: (identity) => held.get(identity),
    all: () => [...held.values()],
    brought: (gateway) => broughtBy(gateway),
    figures(gateway, reported) {
      if (!rosters.has(gateway)) return;
      figures.set(gateway, reported);
      expected.set(gateway, reported.folded);
    },
    async each(identities, visit) {
      const wanted = new Set(identities);
      await journal.read(async (record) => {
        if (record.kind !== "partial" || !wanted.delete(identityText(record.head))) return;
        const decoded = decodePartial(record.bytes);
        if (!decoded.ok) throw new Error(`${row.id}: a journaled Partial: ${decoded.message}`);
        await visit(identityText(record.head), decoded.partial, record.bytes);
      });
      if (wanted.size > 0) throw new Error(`${row.id}: ${[...wanted]} left the journal`);
    },
    replay: () => takeUp([], (visit) => journal.read(visit)),
    async salvage(known) {
      const found = await takeUp(known, (visit) => journal.salvage(visit));
      const unread = found.unread.filter((identity) => !held.has(identity));
      damage = { ...found, unread };
      return damage;
    },
    view: (attached, nowMs, wallMs) =>
      viewRound(row, state, figures, attached, Math.round(wallMs + times.deadlineAtMs - nowMs)),
    close: () => journal.close(),
    remove: () => journal.remove(),
  };
}

/** Contributions to the round that a gateway has brought with these. */
function contributionsOf(gateway: string, partials: readonly RoundPartial[]): number {
  return partials
    .filter((partial) => partial.gateway === gateway)
    .flatMap(({ sites }) => Object.values(sites))
    .reduce((sum, count) => sum + count, 0);
}

function heldPartial(
  round: string,
  { head, bytes }: Extract<RoundRecord, { kind: "partial" }>,
): HeldPartial {
  const decoded = decodePartial(bytes);
  if (!decoded.ok) throw new Error(`${round}: a journaled Partial: ${decoded.message}`);
  const { digest, receivedAtMs, expected: _, ...identity } = head;
  return heldFrom({ identity, digest, totalBytes: bytes.length }, decoded.partial, receivedAtMs);
}

function viewRound(
  row: OpenRound,
  state: RoundState,
  figures: ReadonlyMap<string, Figures>,
  attached: (gateway: string) => boolean,
  deadlineAtMs: number,
): RoundView {
  const gateways = Object.entries(state.members).map(([gateway, member]): MemberView => {
    const reported = figures.get(gateway);
    const delivered = state.partials.filter((partial) => partial.gateway === gateway);
    return {
      gateway,
      site: member.site,
      attached: attached(gateway),
      roster: member.roster.length,
      standing: member.standing,
      offered: reported?.offered ?? 0,
      folded: reported?.folded ?? 0,
      declined: reported?.declined ?? 0,
      sealed: reported?.sealed ?? false,
      delivered: delivered.reduce((sum, partial) => sum + partial.contributors, 0),
    };
  });
  const { id, number, task, base, openedAtMs } = row;
  return {
    id,
    number,
    task,
    base,
    openedAtMs,
    deadlineAtMs,
    expected: gateways.length,
    arrived: gateways.filter(({ standing }) => standing !== "waiting").length,
    gateways,
  };
}
