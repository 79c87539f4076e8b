import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { ContributionRow } from "./rows.js";
import type { Query } from "./sql.js";
import type { Settlement } from "./store.js";
import { toJson } from "./tables.js";

/**
 * Says what becomes of Partials that were kept, and of each of their contributions. One whose
 * outcome is decided already undoes the whole transaction: an outcome is decided once.
 */
export async function settlePartials(
  query: Query,
  session: string,
  settled: readonly Settlement[],
): Promise<void> {
  if (settled.length === 0) return;
  const partials = settled.map(({ gateway, incarnation, sequence, fate, retained }) => ({
    gateway,
    incarnation,
    sequence,
    outcome: fate?.outcome ?? null,
    rule: fate?.outcome === "expired" ? fate.rule : null,
    retained,
  }));
  const changed = await query(
    `UPDATE partials p SET outcome = coalesce(s.outcome, p.outcome),
       rule = coalesce(s.rule, p.rule), retained = s.retained
     FROM jsonb_to_recordset($2::jsonb) AS s(gateway text, incarnation text, sequence bigint,
       outcome text, rule text, retained boolean)
     WHERE p.session = $1 AND p.gateway = s.gateway AND p.incarnation = s.incarnation
       AND p.sequence = s.sequence AND p.retained AND (s.outcome IS NULL OR p.outcome = 'kept')
     RETURNING 1`,
    [session, toJson(partials)],
  );
  checkAll(changed.length, settled.length, "Partials");
  const contributions = settled.flatMap(({ fate, contributions: keys }) =>
    fate === null ? [] : keys.map((key) => ({ ...key, ...outcomeOf(fate) })),
  );
  const decided = await query(
    `UPDATE contributions c SET outcome = s.outcome, rule = s.rule, model = s.model
     FROM jsonb_to_recordset($2::jsonb) AS s(round integer, stretch integer, device text,
       outcome text, rule text, model text)
     WHERE c.session = $1 AND c.round = s.round AND c.stretch = s.stretch AND c.device = s.device
       AND c.outcome = 'kept'
     RETURNING 1`,
    [session, toJson(contributions)],
  );
  checkAll(decided.length, contributions.length, "contributions");
  await countOutcomes(query, session, contributions, "kept");
}

function outcomeOf(fate: NonNullable<Settlement["fate"]>) {
  return fate.outcome === "merged"
    ? ({ outcome: "model", rule: null, model: fate.model } as const)
    : ({ outcome: "expired", rule: fate.rule, model: null } as const);
}

function checkAll(changed: number, expected: number, what: string): void {
  if (changed !== expected)
    throw new TributaryError(
      "store-conflict",
      `${expected - changed} of ${expected} ${what} are not kept: they were decided before`,
    );
}

/**
 * Adds contributions to the counts of the rounds that they were made to.
 *
 * @param before what they were counted as until now
 */
export async function countOutcomes(
  query: Query,
  session: string,
  contributions: readonly Pick<ContributionRow, "round" | "outcome">[],
  before?: "kept",
): Promise<void> {
  const counts = new Map<number, { merged: number; kept: number; expired: number }>();
  for (const { round, outcome } of contributions) {
    const count = counts.get(round) ?? { merged: 0, kept: 0, expired: 0 };
    count[outcome === "model" ? "merged" : outcome]++;
    if (before !== undefined) count[before]--;
    counts.set(round, count);
  }
  if (counts.size === 0) return;
  await query(
    `UPDATE rounds r SET merged = r.merged + s.merged, kept = r.kept + s.kept,
       expired = r.expired + s.expired
     FROM jsonb_to_recordset($2::jsonb)
       AS s(number integer, merged integer, kept integer, expired integer)
     WHERE r.session = $1 AND r.number = s.number`,
    [session, toJson([...counts].map(([number, count]) => ({ number, ...count })))],
  );
}
