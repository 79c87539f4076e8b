/** A round at one gateway, as a pure machine: what it decides, it decides here. */

type Ask = "offered" | "declined" | "folded";

export type RoundState = {
  readonly round: string;
  /** The devices assigned to this gateway, in the order in which they are asked. */
  readonly order: readonly string[];
  /** Updates after which the round seals. */
  readonly wanted: number;
  /** Devices asked at a time while fewer than `wanted` have folded: wanted and some in reserve. */
  readonly asked: number;
  readonly phase: "open" | "sealing" | "sealed";
  /** Whether devices that were never seen in this round are still waited for. */
  readonly graceOver: boolean;
  /** Devices of the roster that are connected. */
  readonly present: ReadonlySet<string>;
  readonly asks: ReadonlyMap<string, Ask>;
};

export type RoundEvent =
  | { readonly type: "connected"; readonly device: string }
  | { readonly type: "disconnected"; readonly device: string }
  | { readonly type: "declined"; readonly device: string }
  /** An update of the device is durable and part of the sum. */
  | { readonly type: "folded"; readonly device: string }
  /** The time for roster devices that have not shown up is over. */
  | { readonly type: "grace" }
  | { readonly type: "deadline" }
  /** The upstream closed the round. */
  | { readonly type: "closed" }
  /** The Partial is durable, or there was nothing to seal. */
  | { readonly type: "sealed" };

export type SealReason = "enough" | "answered" | "deadline" | "closed";

export type RoundEffect =
  /** Offer the round to a device. Repeated whenever it comes back. */
  | { readonly type: "offer"; readonly device: string }
  /** Take no further update and make the Partial. Once. */
  | { readonly type: "seal"; readonly reason: SealReason }
  /** Tell a device that the round is over for it. */
  | { readonly type: "dismiss"; readonly device: string }
  /** Tell the upstream how far the round is. */
  | { readonly type: "report" };

export type RoundStep = { readonly state: RoundState; readonly effects: readonly RoundEffect[] };

export type RoundCounts = {
  readonly offered: number;
  readonly folded: number;
  readonly declined: number;
};

export type RoundOpening = {
  readonly round: string;
  readonly order: readonly string[];
  /** Share of the roster that is wanted, (0, 1]. */
  readonly fraction: number;
  /** Further devices asked, as a share of those wanted. */
  readonly overSelection: number;
  readonly present: Iterable<string>;
  /** What is known from before a restart. */
  readonly asks?: Iterable<readonly [string, Ask]>;
};

export function openRound(opening: RoundOpening): RoundStep {
  const { round, order, fraction, overSelection } = opening;
  const roster = new Set(order);
  const wanted = Math.min(order.length, Math.ceil(order.length * fraction));
  const asked = Math.min(order.length, Math.ceil(wanted * (1 + overSelection)));
  return settle({
    round,
    order,
    wanted,
    asked,
    phase: "open",
    graceOver: false,
    present: new Set([...opening.present].filter((device) => roster.has(device))),
    asks: new Map([...(opening.asks ?? [])].filter(([device]) => roster.has(device))),
  });
}

export function countRound(state: RoundState): RoundCounts {
  const counts = { offered: state.asks.size, folded: 0, declined: 0 };
  for (const ask of state.asks.values()) {
    if (ask === "folded") counts.folded++;
    if (ask === "declined") counts.declined++;
  }
  return counts;
}

export function stepRound(state: RoundState, event: RoundEvent): RoundStep {
  const still: RoundStep = { state, effects: [] };
  switch (event.type) {
    case "connected":
      return connect(state, event.device);
    case "disconnected": {
      if (!state.present.has(event.device)) return still;
      const present = new Set(state.present);
      present.delete(event.device);
      return settle({ ...state, present });
    }
    case "declined": {
      if (state.asks.get(event.device) !== "offered") return still;
      return settle(answer(state, event.device, "declined"), [{ type: "report" }]);
    }
    case "folded": {
      const ask = state.asks.get(event.device);
      if (ask === undefined || ask === "folded" || state.phase === "sealed") return still;
      return settle(answer(state, event.device, "folded"), [{ type: "report" }]);
    }
    case "grace":
      return state.graceOver ? still : settle({ ...state, graceOver: true });
    case "deadline":
    case "closed":
      return state.phase === "open" ? seal(state, event.type) : still;
    case "sealed":
      return finish(state);
  }
}

function connect(state: RoundState, device: string): RoundStep {
  const ask = state.asks.get(device);
  if (state.phase === "sealed") {
    // It may still be at work on what it was offered before it went away.
    return { state, effects: ask === "offered" ? [{ type: "dismiss", device }] : [] };
  }
  if (!state.order.includes(device)) return { state, effects: [] };
  const next = { ...state, present: new Set(state.present).add(device) };
  const again = ask === "offered" && state.phase === "open";
  return settle(next, again ? [{ type: "offer", device }] : []);
}

function answer(state: RoundState, device: string, ask: Ask): RoundState {
  return { ...state, asks: new Map(state.asks).set(device, ask) };
}

function seal(state: RoundState, reason: SealReason, effects: RoundEffect[] = []): RoundStep {
  return {
    state: { ...state, phase: "sealing" },
    effects: [...effects, { type: "seal", reason }],
  };
}

function finish(state: RoundState): RoundStep {
  if (state.phase !== "sealing") return { state, effects: [] };
  const dismissals: RoundEffect[] = [];
  for (const [device, ask] of state.asks) {
    if (ask === "offered" && state.present.has(device))
      dismissals.push({ type: "dismiss", device });
  }
  return {
    state: { ...state, phase: "sealed" },
    effects: [...dismissals, { type: "report" }],
  };
}

/** Offers what may be offered, and seals an open round that has nothing left to wait for. */
function settle(state: RoundState, before: readonly RoundEffect[] = []): RoundStep {
  const effects = [...before];
  if (state.phase !== "open") return { state, effects };
  const asks = new Map(state.asks);
  let folded = 0;
  let awaited = 0; // offered, and either connected or gone to come back
  let reachable = 0; // folded, or offered and connected
  for (const [device, ask] of asks) {
    if (ask === "folded") folded++;
    if (ask === "offered") awaited++;
    if (ask === "folded" || (ask === "offered" && state.present.has(device))) reachable++;
  }
  if (folded >= state.wanted) return seal(state, "enough", effects);

  let missing = 0; // roster devices that were never seen in this round
  for (const device of state.order) {
    if (asks.has(device)) continue;
    if (!state.present.has(device)) missing++;
    else if (reachable < state.asked) {
      asks.set(device, "offered");
      effects.push({ type: "offer", device });
      awaited++;
      reachable++;
    }
  }
  const next = { ...state, asks };
  if (effects.length > before.length) effects.push({ type: "report" });
  if (awaited === 0 && (missing === 0 || state.graceOver)) return seal(next, "answered", effects);
  return { state: next, effects };
}
