import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { HeldPartial, LiveRound } from "./live-round.js";
import type { RoundEffect } from "./round.js";
import type { ContributionRow, PartialRow } from "./store/rows.js";

export type Close = Extract<RoundEffect, { kind: "close" }>;

/** What becomes of a Partial's contributions. */
export type Fate =
  | { readonly outcome: "merged"; readonly model: string | null }
  | { readonly outcome: "expired"; readonly rule: string };

/** The rows that record a Partial and each of its contributions. */
export function partialRows(
  round: string,
  held: HeldPartial,
  fate: Fate,
): { readonly partial: PartialRow; readonly contributions: ContributionRow[] } {
  const { identity, digest, bytes, site, base, samples, contributors, receivedAtMs } = held;
  const { session } = split(round);
  const rule = fate.outcome === "expired" ? fate.rule : null;
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
      outcome: fate.outcome,
      rule,
      retained: false,
      receivedAtMs,
    },
    contributions: contributors.map((contributor) => ({
      session,
      round: split(contributor.round).number,
      device: contributor.device,
      gateway: identity.gateway,
      samples: contributor.samples,
      updates: contributor.updates,
      outcome: fate.outcome === "merged" ? "model" : "expired",
      rule,
      model: fate.outcome === "merged" ? fate.model : null,
    })),
  };
}

function split(round: string) {
  const parts = splitNumberedId(round);
  if (parts === undefined) throw new Error(`${round} is no round`);
  return parts;
}

/** The rows of everything a round accepted. `model` is what the merged ones are in. */
export function closeRows(live: LiveRound, close: Close, model: string | null) {
  const partials: PartialRow[] = [];
  const contributions: ContributionRow[] = [];
  const record = (identity: string, fate: Fate) => {
    const held = live.held(identity);
    if (held === undefined) throw new Error(`${live.row.id} closes with an unknown ${identity}`);
    const rows = partialRows(live.row.id, held, fate);
    partials.push(rows.partial);
    contributions.push(...rows.contributions);
  };
  for (const identity of close.merged) record(identity, { outcome: "merged", model });
  for (const { identity, rule } of close.expired) record(identity, { outcome: "expired", rule });
  return { partials, contributions };
}

export function heldFrom(
  announcement: {
    readonly identity: HeldPartial["identity"];
    readonly digest: string;
    readonly totalBytes: number;
  },
  partial: Pick<Sum, "site" | "base" | "contributors" | "weight">,
  receivedAtMs: number,
): HeldPartial {
  return {
    identity: announcement.identity,
    digest: announcement.digest,
    bytes: announcement.totalBytes,
    site: partial.site,
    base: partial.base,
    samples: Number(partial.weight),
    contributors: partial.contributors,
    receivedAtMs,
  };
}
