import { decodePartial } from "@tributary/proto/algebra/frame.js";
import {
  type Contributor,
  contributionKey,
  type Partial as Sum,
} from "@tributary/proto/algebra/partial.js";
import type { RoundProgress } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { identityText, type PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { Announcement } from "@tributary/proto/tier/inbox.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { admitPartial } from "./admission.js";
import {
  beginDetached,
  openRound,
  type RoundEvent,
  type RoundPartial,
  type RoundState,
  type RoundStep,
  restoreRound,
  stepRound,
} from "./round.js";
import type { RoundJournal, RoundRecord, StandingRecord } from "./round-journal.js";
import { readPlan } from "./round-plan.js";
import type { MemberView, RoundView } from "./session-view.js";
import type { OpenRound } from "./store/rows.js";

/** A Partial that is durable, without its values. */
export type HeldPartial = {
  readonly identity: PartialIdentity;
  readonly digest: string;
  readonly bytes: number;
  readonly site: string | null;
  /** The model that its deltas are on. */
  readonly base: string;
  readonly samples: number;
  readonly contributors: readonly Contributor[];
  readonly receivedAtMs: number;
};

/** Figures that a gateway reported of an open round. */
export type Figures = Pick<RoundProgress, "offered" | "folded" | "declined" | "sealed">;

/** An open round on its journal. The state moves only by `adopt`. */
export type LiveRound = {
  readonly row: OpenRound;
  readonly plan: Plan;
  readonly deadlineAtMs: number;
  readonly state: RoundState;
  /** What accepting a Partial would do; refuses one that may not count. Changes nothing. */
  admit(announcement: Announcement, partial: Sum, nowMs: number): Verdict<{ step: RoundStep }>;
  /** Makes an accepted Partial durable. */
  keep(held: HeldPartial, bytes: Uint8Array): Promise<void>;
  /** Makes it durable that a gateway has nothing. */
  keepStanding(gateway: string, standing: "empty" | "refused"): Promise<void>;
  /** Takes note of links that are down as the round begins. */
  beginDetached(gateways: readonly string[], nowMs: number): void;
  step(event: RoundEvent): RoundStep;
  adopt(step: RoundStep): void;
  held(identity: string): HeldPartial | undefined;
  figures(gateway: string, figures: Figures): void;
  /** Visits the Partials of these identities, one in memory at a time. */
  each(identities: readonly string[]): (visit: (partial: Sum) => void) => Promise<void>;
  view(attached: (gateway: string) => boolean): RoundView;
  /** Takes up what the journal holds, after a restart. The caller ticks the round after it. */
  replay(): Promise<void>;
  close(): Promise<void>;
  remove(): Promise<void>;
};

export type LiveRoundOptions = {
  readonly row: OpenRound;
  readonly journal: RoundJournal;
  readonly absentGraceMs: number;
  readonly sitesQuorum: number;
  readonly deadlineAtMs: number;
  readonly siteOf: (gateway: string) => string;
};

export function createLiveRound(options: LiveRoundOptions): LiveRound {
  const { row, journal, absentGraceMs, sitesQuorum, deadlineAtMs, siteOf } = options;
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
  const rules = {
    absentGraceMs,
    siteQuorum: plan.siteQuorum,
    sitesQuorum,
    totalMax: plan.totalMax,
  };
  let state = openRound(row.id, rules, deadlineAtMs, members);
  const held = new Map<string, HeldPartial>();
  const counted = new Set<string>();
  const figures = new Map<string, Figures>();
  const hold = (partial: HeldPartial) => {
    held.set(identityText(partial.identity), partial);
    for (const contributor of partial.contributors) counted.add(contributionKey(contributor));
  };

  return {
    row,
    plan,
    deadlineAtMs,
    get state() {
      return state;
    },
    admit(announcement, partial, nowMs) {
      const { gateway } = announcement.identity;
      const roster = rosters.get(gateway);
      if (roster === undefined)
        return refuse("not-in-roster", `${row.id} did not open with gateway ${gateway}`);
      const admitted = admitPartial(plan, new Map([[row.id, roster]]), counted, partial);
      if (!admitted.ok) return admitted;
      const step = stepRound(state, {
        kind: "partial",
        partial: roundPartial(announcement.identity, partial.contributors),
        nowMs,
      });
      return { ok: true, step };
    },
    async keep(partial, bytes) {
      const { identity, digest, receivedAtMs } = partial;
      await journal.append({ kind: "partial", head: { ...identity, digest, receivedAtMs }, bytes });
      hold(partial);
    },
    keepStanding: (gateway, standing) =>
      journal.append({ kind: "standing", head: { gateway, standing } }),
    beginDetached(gateways, nowMs) {
      state = beginDetached(state, gateways, nowMs);
    },
    step: (event) => stepRound(state, event),
    adopt(step) {
      state = step.state;
    },
    held: (identity) => held.get(identity),
    figures(gateway, reported) {
      if (rosters.has(gateway)) figures.set(gateway, reported);
    },
    each: (identities) => async (visit) => {
      const wanted = new Set(identities);
      await journal.read((record) => {
        if (record.kind !== "partial" || !wanted.delete(identityText(record.head))) return;
        const decoded = decodePartial(record.bytes);
        if (!decoded.ok) throw new Error(`${row.id}: a journaled Partial: ${decoded.message}`);
        visit(decoded.partial);
      });
      if (wanted.size > 0) throw new Error(`${row.id}: ${[...wanted]} left the journal`);
    },
    async replay() {
      const standings: StandingRecord[] = [];
      await journal.read((record) => {
        if (record.kind === "standing") standings.push(record.head);
        else hold(heldPartial(row.id, record));
      });
      const partials = [...held.values()].map((p) => roundPartial(p.identity, p.contributors));
      state = restoreRound(state, partials, standings);
    },
    view: (attached) => viewRound(row, state, figures, attached),
    close: () => journal.close(),
    remove: () => journal.remove(),
  };
}

function roundPartial(
  identity: PartialIdentity,
  contributors: readonly Contributor[],
): RoundPartial {
  const samples = contributors.reduce((sum, contributor) => sum + contributor.samples, 0);
  return { identity: identityText(identity), gateway: identity.gateway, contributors, samples };
}

function heldPartial(
  round: string,
  { head, bytes }: Extract<RoundRecord, { kind: "partial" }>,
): HeldPartial {
  const decoded = decodePartial(bytes);
  if (!decoded.ok) throw new Error(`${round}: a journaled Partial: ${decoded.message}`);
  const { digest, receivedAtMs, ...identity } = head;
  const { site, base, contributors, weight } = decoded.partial;
  const sum = { site, base, samples: Number(weight), contributors };
  return { identity, digest, bytes: bytes.length, ...sum, receivedAtMs };
}

function viewRound(
  row: OpenRound,
  state: RoundState,
  figures: ReadonlyMap<string, Figures>,
  attached: (gateway: string) => boolean,
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
      delivered: delivered.reduce((sum, partial) => sum + partial.contributors.length, 0),
    };
  });
  const { id, number, task, base, openedAtMs } = row;
  return {
    id,
    number,
    task,
    base,
    openedAtMs,
    deadlineAtMs: state.deadlineAtMs,
    expected: gateways.length,
    arrived: gateways.filter(({ standing }) => standing !== "waiting").length,
    gateways,
  };
}
