/**
 * One round over what is below a regional gateway, as a pure machine. Its members are the gateways
 * below that hold devices of the roster and, under `OWN`, the devices of the gateway's own site. It is
 * complete when every member has handed over its result or said that there is none; when those still
 * missing have been detached for too long; at the site deadline; or when the upstream closes it.
 * What comes after that travels up by itself.
 */

/** The gateway's own devices, among the members; no gateway can be called so. */
export const OWN = "";

export type Standing = "waiting" | "delivered" | "empty" | "refused";

type Counts = { readonly offered: number; readonly folded: number; readonly declined: number };

export type BranchMember = {
  readonly standing: Standing;
  readonly detached: boolean;
  /** What it last reported. */
  readonly counts: Counts;
  readonly sealed: boolean;
  /** Contributions of this round that it handed over and that are durable here. */
  readonly received: number;
};

export type BranchState = {
  readonly round: string;
  /** Whether it goes on after the upstream has closed it. */
  readonly finishFirst: boolean;
  readonly members: ReadonlyMap<string, BranchMember>;
  readonly complete: boolean;
  /** Whether all that is missing is missing at members that are detached. */
  readonly absent: boolean;
};

export type BranchEvent =
  | {
      readonly type: "progress";
      readonly member: string;
      readonly counts: Counts;
      readonly sealed: boolean;
    }
  /** So many of its contributions have become durable here. */
  | { readonly type: "received"; readonly member: string; readonly contributions: number }
  /** Nothing (more) can be had of it: it refused the plan, or lost what it held of the round. */
  | { readonly type: "refused"; readonly member: string }
  | { readonly type: "attached" | "detached"; readonly member: string }
  /** The time for detached members is over. */
  | { readonly type: "grace" }
  | { readonly type: "deadline" }
  /** The upstream closed the round. */
  | { readonly type: "closed" };

export type CompleteReason = "answered" | "absent" | "deadline" | "closed";

export type BranchEffect =
  /** What is held for the round may travel up. */
  | { readonly type: "complete"; readonly reason: CompleteReason }
  /** Something came when the round was complete already: it travels up by itself. */
  | { readonly type: "late" }
  /** Tell the upstream how far the round is. */
  | { readonly type: "report" }
  /** Begin to count the time for detached members, or stop. */
  | { readonly type: "absent"; readonly absent: boolean };

export type BranchStep = { readonly state: BranchState; readonly effects: readonly BranchEffect[] };

export type BranchOpening = {
  readonly round: string;
  readonly finishFirst: boolean;
  readonly members: Iterable<{
    readonly name: string;
    readonly detached: boolean;
    /** What was received of it before a restart. */
    readonly received: number;
  }>;
  /** Whether it was complete before a restart. */
  readonly complete: boolean;
};

export function openBranch({ round, finishFirst, members, complete }: BranchOpening): BranchStep {
  const opened = [...members].map(({ name, detached, received }): [string, BranchMember] => [
    name,
    {
      standing: "waiting",
      detached,
      counts: { offered: 0, folded: 0, declined: 0 },
      sealed: false,
      received,
    },
  ]);
  const state = { round, finishFirst, members: new Map(opened), complete, absent: false };
  return settle(state, []);
}

export function stepBranch(state: BranchState, event: BranchEvent): BranchStep {
  switch (event.type) {
    case "progress": {
      const { counts, sealed } = event;
      return change(state, event.member, (member) => ({
        ...member,
        counts,
        sealed: member.sealed || sealed,
      }));
    }
    case "received":
      return change(state, event.member, (member) => ({
        ...member,
        received: member.received + event.contributions,
      }));
    case "refused":
      return change(state, event.member, (member) =>
        member.standing === "waiting" ? { ...member, standing: "refused" } : member,
      );
    case "attached":
    case "detached": {
      const detached = event.type === "detached";
      return change(state, event.member, (member) => ({ ...member, detached }));
    }
    case "grace":
      return state.absent ? complete(state, "absent") : { state, effects: [] };
    case "deadline":
      return complete(state, "deadline");
    case "closed":
      return state.finishFirst ? { state, effects: [] } : complete(state, "closed");
  }
}

/** Gateways below that have said nothing of the round's end, and may be at work on it still. */
export function membersAtWork({ members }: BranchState): string[] {
  return [...members].flatMap(([name, { standing }]) =>
    name !== OWN && standing === "waiting" ? [name] : [],
  );
}

/** What the upstream is told: sums over the members. */
export function branchCounts({ members, complete }: BranchState): Counts {
  const sum = { offered: 0, folded: 0, declined: 0 };
  for (const member of members.values()) {
    sum.offered += member.counts.offered;
    sum.declined += member.counts.declined;
    sum.folded += foldedAt(member, complete);
  }
  return sum;
}

/**
 * Once the branch is complete, what is durable here; and what a member has announced that is late and
 * on its way: without it the upstream would take the branch for empty and not wait.
 */
function foldedAt({ standing, detached, counts, received }: BranchMember, complete: boolean) {
  const comes = !complete || (standing === "waiting" && !detached);
  return comes ? Math.max(counts.folded, received) : received;
}

function change(
  state: BranchState,
  name: string,
  update: (member: BranchMember) => BranchMember,
): BranchStep {
  const before = state.members.get(name);
  if (before === undefined) return { state, effects: [] };
  const after = judge(update(before));
  const members = new Map(state.members).set(name, after);
  const effects: BranchEffect[] = [];
  if (state.complete && after.received > before.received) effects.push({ type: "late" });
  const isComplete = state.complete;
  if (reported(before, isComplete) !== reported(after, isComplete))
    effects.push({ type: "report" });
  return settle({ ...state, members }, effects);
}

/** A member has delivered once as much is here as it said it sealed. */
function judge(member: BranchMember): BranchMember {
  const { standing, sealed, counts, received } = member;
  if (standing !== "waiting" || !sealed || received < counts.folded) return member;
  return { ...member, standing: received === 0 ? "empty" : "delivered" };
}

function reported(member: BranchMember, isComplete: boolean): string {
  const { offered, declined } = member.counts;
  return [offered, foldedAt(member, isComplete), declined, member.received].join(" ");
}

function settle(state: BranchState, effects: BranchEffect[]): BranchStep {
  if (state.complete) return { state, effects };
  const waiting = [...state.members.values()].filter(({ standing }) => standing === "waiting");
  if (waiting.length === 0) return complete(state, "answered", effects);
  const absent = waiting.every(({ detached }) => detached);
  if (absent !== state.absent) effects.push({ type: "absent", absent });
  return { state: { ...state, absent }, effects };
}

function complete(
  state: BranchState,
  reason: CompleteReason,
  before: readonly BranchEffect[] = [],
): BranchStep {
  if (state.complete) return { state, effects: before };
  const effects = before.filter(({ type }) => type !== "report");
  return {
    state: { ...state, complete: true, absent: false },
    effects: [...effects, { type: "complete", reason }, { type: "report" }],
  };
}
