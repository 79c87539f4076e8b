import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { identityText, type PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { Announcement, PartialReceipt, Settled } from "@tributary/proto/tier/inbox.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { HeldPartial, LiveRound } from "./live-round.js";
import type { RoundStep } from "./round.js";
import { heldFrom, partialRows } from "./round-end.js";
import type { Tally } from "./session-record.js";
import type { SessionWorld } from "./session-world.js";

/** `step` is what the open round does next, once the sender has its receipt. */
export type Taken = Verdict<{ readonly receipt: PartialReceipt; readonly step?: RoundStep }>;

/** What was received of a Partial's identity in the open round; undefined when nothing was. */
export function settledIn(
  live: LiveRound | undefined,
  identity: PartialIdentity,
): Settled | undefined {
  const text = identityText(identity);
  const held = live?.held(text);
  if (live === undefined || held === undefined) return undefined;
  const overflowed = live.state.overflow.some((partial) => partial.identity === text);
  const receipt = receiptOf(held.digest, overflowed ? "total-overflow" : undefined);
  return { digest: held.digest, state: { receivedBytes: held.bytes, receipt } };
}

/**
 * Takes a whole Partial of one session: into the open round, or, when its round has ended, on
 * record as late. It is durable when this resolves with a receipt. Runs as a job of the session.
 *
 * @param left the round that a session which broke down left open; it takes no more until resumed
 */
export async function takePartial(
  world: SessionWorld,
  live: LiveRound | undefined,
  left: LiveRound | undefined,
  tally: Tally,
  announcement: Announcement,
  partial: Sum,
  bytes: Uint8Array,
): Promise<Taken> {
  const before = settledIn(live ?? left, announcement.identity);
  if (before?.state.receipt !== undefined)
    return before.digest === announcement.digest
      ? { ok: true, receipt: before.state.receipt }
      : refuse("partial-conflict", "this identity was received with another digest");
  const nowMs = world.clock.nowMs();
  const held = heldFrom(announcement, partial, nowMs);
  const { round } = announcement;
  if (live?.row.id !== round || live.state.closed !== undefined)
    return takeLate(world, tally, round, partial.base, held);
  const admitted = live.admit(announcement, partial, nowMs);
  if (!admitted.ok) return admitted;
  await live.keep(held, bytes);
  const fate = admitted.step.effects.find((effect) => effect.kind === "expired");
  const rule = fate?.kind === "expired" ? fate.rule : undefined;
  if (rule !== undefined) reportExpired(world, round, held, rule);
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
    });
  return { ok: true, receipt: receiptOf(held.digest, rule), step: admitted.step };
}

async function takeLate(
  world: SessionWorld,
  tally: Tally,
  round: string,
  base: string,
  held: HeldPartial,
): Promise<Taken> {
  const { store } = world;
  const known = await store.round(round);
  if (known === undefined) return refuse("unknown-round", `no round ${round}`);
  // Its end is still to be decided, and its journal may hold this Partial: nothing may be recorded.
  if (known.state === "open")
    return refuse("busy", `${round} is open, and its session does not run; send it again later`);
  if (known.base !== base)
    return refuse("base-mismatch", `${round} starts from ${known.base}, not ${base}`);
  if (held.contributors.length === 0)
    return refuse("partial-malformed", "a Partial without contributors");
  const rows = partialRows(round, held, { outcome: "expired", rule: "late" });
  await store.recordPartial(rows.partial, rows.contributions);
  tally.expired += held.contributors.length;
  reportExpired(world, round, held, "late");
  return { ok: true, receipt: receiptOf(held.digest, "late") };
}

function reportExpired({ events }: SessionWorld, round: string, held: HeldPartial, rule: string) {
  events({
    level: "warn",
    name: "partial-expired",
    round,
    gateway: held.identity.gateway,
    rule,
    contributors: held.contributors.length,
  });
}

function receiptOf(digest: string, rule: string | undefined): PartialReceipt {
  return rule === undefined
    ? { digest, outcome: "merged", rule: "" }
    : { digest, outcome: "expired", rule };
}
