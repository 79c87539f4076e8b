/**
 * One round at the cloud, as a pure machine. It opens with the gateways attached at that time and
 * closes when every one of them delivered or said that it has nothing; when those missing have been
 * detached longer than `absentGraceMs` and the quorum of sites is met; or at the deadline. Where the
 * session buffers, it closes as soon as it and what is kept for it hold enough contributions, or as
 * many as there is room for.
 *
 * Times are milliseconds of the monotonic clock: no step of a wall clock ends or stretches a round.
 */

/** `gone`: the gateway came back as another incarnation, which knows nothing of the round. */
export type Standing = "waiting" | "delivered" | "empty" | "refused" | "gone";

export type RoundMember = {
  readonly site: string;
  /** Devices the round assigns to this gateway and to no other. */
  readonly roster: readonly string[];
  readonly standing: Standing;
  /** Since when the gateway's link is down; absent while it is up. */
  readonly detachedSinceMs?: number;
};

export type RoundPartial = {
  /** The text of (gateway, incarnation, sequence). */
  readonly identity: string;
  readonly gateway: string;
  /** Contributions to this round, by the site of their devices. */
  readonly sites: Readonly<Record<string, number>>;
  /** All contributions, those to earlier rounds that ride along included. */
  readonly contributors: number;
  /** Sum of their samples. */
  readonly samples: number;
  /** Whether the gateway said of more contributions to this round than it has brought with this. */
  readonly more?: boolean;
};

/** Why receipted contributions are in no model. */
export type ExpiryRule = "site-quorum" | "sites-quorum" | "total-overflow" | "stopped";

/** `short`: too few contributions for a model; what came is kept for the next. */
export type Outcome = "committed" | "failed" | "stopped" | "short";

export type RoundRules = {
  readonly absentGraceMs: number;
  /** Updates a site needs. */
  readonly siteQuorum: number;
  /** Sites with their quorum that the round needs. */
  readonly sitesQuorum: number;
  /** NMax: samples behind the whole round. */
  readonly totalMax: number;
  /**
   * K of a session that buffers: the round makes a model of so many contributions, or of what fits
   * where `totalMax` samples are reached before.
   */
  readonly bufferMin?: number;
  /** Whether what a failed round brought is kept for the next model. */
  readonly keepsFailed: boolean;
};

export type RoundState = {
  readonly round: string;
  readonly rules: RoundRules;
  readonly deadlineAtMs: number;
  readonly members: Readonly<Record<string, RoundMember>>;
  /** Accepted, in order of arrival. */
  readonly partials: readonly RoundPartial[];
  /** Sum of their samples; past `totalMax` only with the last one of a round that buffers. */
  readonly samples: number;
  /** Received in time, but past `totalMax`: they expire when the round closes. */
  readonly overflow: readonly RoundPartial[];
  /** What is kept from before for the model of a round that buffers. */
  readonly pooled: Pooled;
  /** Whether no more can be kept: a round that buffers makes its model of what there is. */
  readonly full: boolean;
  readonly closed?: Outcome;
};

export type Pooled = {
  /** Contributions that the round's model would hold. */
  readonly contributors: number;
  /** Samples of all that is on the round's own base. */
  readonly samples: number;
};

export type RoundEvent =
  | { readonly kind: "partial"; readonly partial: RoundPartial; readonly nowMs: number }
  /** It has brought all that it said it has of the round. */
  | { readonly kind: "delivered"; readonly gateway: string; readonly nowMs: number }
  | { readonly kind: "empty"; readonly gateway: string; readonly nowMs: number }
  | { readonly kind: "refused"; readonly gateway: string; readonly nowMs: number }
  | { readonly kind: "attached"; readonly gateway: string; readonly nowMs: number }
  | { readonly kind: "detached"; readonly gateway: string; readonly nowMs: number }
  /** The gateway attached as another incarnation than the one that the round opened with. */
  | { readonly kind: "gone"; readonly gateway: string; readonly nowMs: number }
  /** What is kept for the round's model has changed. */
  | ({ readonly kind: "pooled"; readonly nowMs: number } & Pooled)
  /** The session keeps as much as it may. */
  | { readonly kind: "full"; readonly nowMs: number }
  | { readonly kind: "tick"; readonly nowMs: number }
  | { readonly kind: "stop"; readonly nowMs: number };

export type Expiry = { readonly identity: string; readonly rule: ExpiryRule };

export type RoundEffect =
  /** Send a tick at `atMs`; replaces the wake-up asked for before. */
  | { readonly kind: "wake"; readonly atMs: number }
  /** The Partial is part of the open round. */
  | { readonly kind: "accepted"; readonly identity: string }
  /** The Partial will be in no model: it expires when the round closes. */
  | ({ readonly kind: "expired" } & Expiry)
  | {
      readonly kind: "close";
      readonly outcome: Outcome;
      /** Identities to merge, in order of arrival. */
      readonly merged: readonly string[];
      /** For a later model, in order of arrival. */
      readonly kept: readonly string[];
      readonly expired: readonly Expiry[];
    };

export type RoundStep = { readonly state: RoundState; readonly effects: readonly RoundEffect[] };

export function openRound(
  round: string,
  rules: RoundRules,
  deadlineAtMs: number,
  members: Readonly<Record<string, { readonly site: string; readonly roster: readonly string[] }>>,
): RoundState {
  const waiting = Object.entries(members).map(([gateway, { site, roster }]) => [
    gateway,
    { site, roster, standing: "waiting" as const },
  ]);
  return {
    round,
    rules,
    deadlineAtMs,
    members: Object.fromEntries(waiting),
    partials: [],
    samples: 0,
    overflow: [],
    pooled: { contributors: 0, samples: 0 },
    full: false,
  };
}

/** Takes up what a round had accepted before a restart. A tick after it closes the round if it is due. */
export function restoreRound(
  state: RoundState,
  partials: readonly RoundPartial[],
  standings: readonly { readonly gateway: string; readonly standing: Standing }[],
): RoundState {
  let restored = partials.reduce(hold, state);
  for (const { gateway, standing: next } of standings) restored = standing(restored, gateway, next);
  return restored;
}

/** Takes note of links that are down as the round begins. A tick after it closes the round if it is due. */
export function beginDetached(
  state: RoundState,
  gateways: readonly string[],
  nowMs: number,
): RoundState {
  return gateways.reduce((next, gateway) => link(next, gateway, nowMs), state);
}

export function stepRound(state: RoundState, event: RoundEvent): RoundStep {
  if (state.closed !== undefined) return { state, effects: [] };
  switch (event.kind) {
    case "partial":
      return takePartial(state, event.partial, event.nowMs);
    case "delivered":
    case "empty":
    case "refused":
    case "gone":
      return settle(standing(state, event.gateway, event.kind), event.nowMs);
    case "attached":
      return settle(link(state, event.gateway, undefined), event.nowMs);
    case "detached":
      return settle(link(state, event.gateway, event.nowMs), event.nowMs);
    case "pooled":
      return settle(
        { ...state, pooled: { contributors: event.contributors, samples: event.samples } },
        event.nowMs,
      );
    case "full":
      return settle({ ...state, full: true }, event.nowMs);
    case "tick":
      return settle(state, event.nowMs);
    case "stop":
      return close(state, "stopped", []);
  }
}

function takePartial(state: RoundState, partial: RoundPartial, nowMs: number): RoundStep {
  const { identity } = partial;
  const held = hold(state, partial);
  const settled = settle(held, nowMs);
  const fate: RoundEffect = held.overflow.includes(partial)
    ? { kind: "expired", identity, rule: "total-overflow" }
    : { kind: "accepted", identity };
  return { state: settled.state, effects: [fate, ...settled.effects] };
}

function hold(state: RoundState, partial: RoundPartial): RoundState {
  const { more = false } = partial;
  const delivered = more ? state : standing(state, partial.gateway, "delivered");
  const samples = state.samples + partial.samples;
  const { totalMax, bufferMin } = state.rules;
  // What a buffer has no room for waits for the model after, unless it fits into none.
  return (bufferMin === undefined ? samples : partial.samples) > totalMax
    ? { ...delivered, overflow: [...state.overflow, partial] }
    : { ...delivered, partials: [...state.partials, partial], samples };
}

/** A gateway that has delivered stays so, whatever it says later; one that is replaced may still. */
function standing(state: RoundState, gateway: string, next: Standing): RoundState {
  const member = state.members[gateway];
  if (member === undefined || member.standing === "delivered") return state;
  if (next === "gone" && member.standing !== "waiting") return state;
  return { ...state, members: { ...state.members, [gateway]: { ...member, standing: next } } };
}

function link(state: RoundState, gateway: string, sinceMs: number | undefined): RoundState {
  const member = state.members[gateway];
  if (member === undefined) return state;
  const { detachedSinceMs, ...attached } = member;
  const next =
    sinceMs === undefined ? attached : { ...attached, detachedSinceMs: detachedSinceMs ?? sinceMs };
  return { ...state, members: { ...state.members, [gateway]: next } };
}

/** Closes the round if it is due, else says when to look again. */
function settle(state: RoundState, nowMs: number): RoundStep {
  if (state.rules.bufferMin !== undefined) return settleBuffer(state, state.rules.bufferMin, nowMs);
  const sites = sitesWithQuorum(state);
  const quorum = sites.size >= state.rules.sitesQuorum;
  const dueAtMs = Math.min(state.deadlineAtMs, quorum ? absentAtMs(state) : state.deadlineAtMs);
  const waiting = waitingMembers(state).length > 0;
  if (waiting && nowMs < dueAtMs) return { state, effects: [{ kind: "wake", atMs: dueAtMs }] };
  return quorum ? close(state, "committed", sites) : close(state, "failed", []);
}

function settleBuffer(state: RoundState, bufferMin: number, nowMs: number): RoundStep {
  const held = state.partials.reduce((sum, partial) => sum + partial.contributors, 0);
  const pooled = state.pooled.contributors + held;
  const full = state.full || state.pooled.samples + state.samples > state.rules.totalMax;
  if (pooled >= bufferMin || (full && pooled > 0)) return close(state, "committed", []);
  const dueAtMs = Math.min(state.deadlineAtMs, held > 0 ? absentAtMs(state) : state.deadlineAtMs);
  const waiting = waitingMembers(state).length > 0;
  if (waiting && nowMs < dueAtMs) return { state, effects: [{ kind: "wake", atMs: dueAtMs }] };
  return close(state, held > 0 ? "short" : "failed", []);
}

/** When the grace of every gateway still missing has run out; never while one of them is attached. */
function absentAtMs(state: RoundState): number {
  const ends = waitingMembers(state).map(
    ({ detachedSinceMs }) =>
      (detachedSinceMs ?? Number.POSITIVE_INFINITY) + state.rules.absentGraceMs,
  );
  return Math.max(...ends);
}

function waitingMembers(state: RoundState): readonly RoundMember[] {
  return Object.values(state.members).filter((member) => member.standing === "waiting");
}

function sitesWithQuorum(state: RoundState): ReadonlySet<string> {
  const updates = new Map<string, number>();
  for (const partial of state.partials)
    for (const [site, count] of Object.entries(partial.sites))
      updates.set(site, (updates.get(site) ?? 0) + count);
  return new Set(
    [...updates].filter(([, count]) => count >= state.rules.siteQuorum).map(([site]) => site),
  );
}

/** A sum cannot be taken apart: a Partial of several sites counts when one of them has its quorum. */
function hasQuorum(partial: RoundPartial, sites: ReadonlySet<string>): boolean {
  const own = Object.keys(partial.sites);
  return own.length === 0 || own.some((site) => sites.has(site));
}

function close(state: RoundState, outcome: Outcome, quorum: Iterable<string>): RoundStep {
  const sites = new Set(quorum);
  const merged: string[] = [];
  const kept: string[] = [];
  const expired: Expiry[] = [];
  const keeps = outcome === "short" || (outcome === "failed" && state.rules.keepsFailed);
  for (const { identity } of state.overflow)
    if (keeps && state.rules.bufferMin === undefined) kept.push(identity);
    else expired.push({ identity, rule: outcome === "stopped" ? "stopped" : "total-overflow" });
  for (const partial of state.partials) {
    const { identity } = partial;
    if (outcome === "stopped") expired.push({ identity, rule: "stopped" });
    else if (keeps) kept.push(identity);
    else if (outcome === "failed") expired.push({ identity, rule: "sites-quorum" });
    else if (state.rules.bufferMin === undefined && !hasQuorum(partial, sites))
      expired.push({ identity, rule: "site-quorum" });
    else merged.push(identity);
  }
  return {
    state: { ...state, closed: outcome },
    effects: [{ kind: "close", outcome, merged, kept, expired }],
  };
}
