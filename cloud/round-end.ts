import type { Contributor } from "@tributary/proto/algebra/partial.js";
import { identityText } from "@tributary/proto/tier/identity.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { HeldPartial } from "./held-partial.js";
import type { LatePartial } from "./late-partials.js";
import type { RoundEffect } from "./round.js";
import type { ContributionRow, PartialRow } from "./store/rows.js";
import type { ContributionKey, Settlement } from "./store/store.js";

export type Close = Extract<RoundEffect, { kind: "close" }>;

/** What becomes of a Partial's contributions. */
export type Fate =
  | { readonly outcome: "merged"; readonly model: string | null }
  | { readonly outcome: "kept" }
  | { readonly outcome: "expired"; readonly rule: string };

/** Of one Partial; `retained` when its file is kept for models to come. */
export type Ending = { readonly fate: Fate; readonly retained: boolean };

/** The rows that record a Partial and each of its contributions. */
export function partialRows(
  round: string,
  held: HeldPartial,
  { fate, retained }: Ending,
): { readonly partial: PartialRow; readonly contributions: ContributionRow[] } {
  const { identity, digest, bytes, site, base, samples, contributors, receivedAtMs } = held;
  const { session } = split(round);
  const { outcome } = fate;
  const rule = outcome === "expired" ? fate.rule : null;
  return {
    partial: {
      ...identity,
      digest,
      session,
      round,
      site,
      base,
      bytes,
      weight: samples,
      contributors: contributors.length,
      outcome,
      rule,
      retained,
      receivedAtMs,
    },
    contributions: contributors.map((contributor) => ({
      session,
      ...contributionKeyOf(contributor),
      gateway: identity.gateway,
      samples: contributor.samples,
      updates: contributor.updates,
      outcome: outcome === "merged" ? "model" : outcome,
      rule,
      model: outcome === "merged" ? fate.model : null,
    })),
  };
}

export function contributionKeys({ contributors }: HeldPartial): ContributionKey[] {
  return contributors.map(contributionKeyOf);
}

export function contributionKeyOf({
  round,
  device,
}: Pick<Contributor, "round" | "device">): ContributionKey {
  const { number, site = 0 } = split(round);
  return { round: number, stretch: site, device };
}

function split(round: string) {
  const parts = splitNumberedId(round);
  if (parts === undefined) throw new Error(`${round} is no round`);
  return parts;
}

/** What the end of a round, or of a session, does with Partials: rows, and what stays kept. */
export type Settling = {
  readonly partials: readonly PartialRow[];
  readonly contributions: readonly ContributionRow[];
  readonly settled: readonly Settlement[];
  readonly retained: readonly LatePartial[];
};

/** Every ending of a round's own Partials and of those kept before, by identity. */
export type Endings = ReadonlyMap<string, Ending>;

/**
 * The rows of a round's own Partials, each of which has an ending, and the changes to those that were
 * kept before, which stay as they are where they have none. When the session ends with it, what no
 * model holds expires. What one holds is site memory: a part of the session's state, like its
 * optimiser's, which a stopped one has again when it is resumed and a finished one lets go of.
 */
export function settle(
  round: string,
  own: readonly HeldPartial[],
  late: readonly LatePartial[],
  endings: Endings,
  ended: "stopped" | "finished" | undefined,
): Settling {
  const partials: PartialRow[] = [];
  const contributions: ContributionRow[] = [];
  const settled: Settlement[] = [];
  const retained: LatePartial[] = [];
  for (const held of own) {
    const given = endings.get(identityText(held.identity));
    if (given === undefined)
      throw new Error(`${round} ends without ${identityText(held.identity)}`);
    const ending = lastEnding(given, given.fate.outcome === "merged", ended);
    const rows = partialRows(round, held, ending);
    partials.push(rows.partial);
    contributions.push(...rows.contributions);
    if (ending.retained) retained.push({ ...held, applied: ending.fate.outcome === "merged" });
  }
  for (const held of late) {
    const before: Ending = { fate: { outcome: "kept" }, retained: true };
    const given = endings.get(identityText(held.identity)) ?? before;
    const applied = held.applied || given.fate.outcome === "merged";
    const ending = lastEnding(given, applied, ended);
    const fate = held.applied || ending.fate.outcome === "kept" ? null : decided(ending.fate);
    if (ending.retained) retained.push(fate === null ? held : { ...held, applied: true });
    if (fate !== null || !ending.retained)
      settled.push({
        ...held.identity,
        fate,
        retained: ending.retained,
        contributions: contributionKeys(held),
      });
  }
  const byArrival = (a: LatePartial, b: LatePartial) => a.receivedAtMs - b.receivedAtMs;
  return { partials, contributions, settled, retained: retained.sort(byArrival) };
}

/**
 * With the session's end nothing waits any more.
 *
 * @param applied whether a model holds it
 */
function lastEnding(
  given: Ending,
  applied: boolean,
  ended: "stopped" | "finished" | undefined,
): Ending {
  if (ended === undefined || (ended === "stopped" && applied)) return given;
  const { fate } = given;
  return fate.outcome === "kept"
    ? { fate: { outcome: "expired", rule: "session-ended" }, retained: false }
    : { fate, retained: false };
}

function decided(fate: Exclude<Fate, { outcome: "kept" }>): NonNullable<Settlement["fate"]> {
  if (fate.outcome === "expired") return fate;
  if (fate.model === null) throw new Error("a Partial that was kept ends in no model");
  return { outcome: "merged", model: fate.model };
}

/** How many contributions end how. */
export function outcomesOf({
  contributions,
  settled,
}: Pick<Settling, "contributions" | "settled">) {
  const counts = { merged: 0, kept: 0, expired: 0 };
  for (const { outcome } of contributions) counts[outcome === "model" ? "merged" : outcome]++;
  for (const { fate, contributions: keys } of settled)
    if (fate !== null) counts[fate.outcome] += keys.length;
  return counts;
}
