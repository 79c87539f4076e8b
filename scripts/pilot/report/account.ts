import type { ContributionRow, ModelRow, RoundRow } from "@tributary/cloud/store/rows.js";
import { type Api, firstOf } from "../../cli/api.js";
import {
  type Audit,
  checkContributions,
  checkSums,
  type Findings,
  type ModelClaim,
} from "./oracle.js";
import type { ContributionCounts, RoundEntry } from "./report.js";

/** What the cloud says of the sessions of a run. */
export type Books = {
  readonly rounds: readonly RoundRow[];
  readonly models: readonly ModelRow[];
  readonly contributions: readonly ContributionRow[];
  readonly duplicatesDropped: number;
};

export async function readBooks(api: Api, sessions: readonly string[]): Promise<Books> {
  const rounds: RoundRow[] = [];
  const models: ModelRow[] = [];
  const contributions: ContributionRow[] = [];
  for (const session of sessions) {
    rounds.push(...(await firstOf(api.rounds(session), Number.POSITIVE_INFINITY)).toReversed());
    models.push(...(await firstOf(api.models({ session }), Number.POSITIVE_INFINITY)).toReversed());
    contributions.push(...(await firstOf(api.contributions(session), Number.POSITIVE_INFINITY)));
  }
  const gateways = await firstOf(api.gateways());
  const duplicatesDropped = gateways.reduce((sum, gateway) => sum + gateway.duplicatesDropped, 0);
  return { rounds, models, contributions, duplicatesDropped };
}

const roundOf = (row: ContributionRow) => `${row.session}.${row.round}`;

export function judge(books: Books, audit: Audit): Findings {
  const inModel = new Map<string, ContributionRow[]>();
  for (const row of books.contributions) {
    if (row.outcome !== "model") continue;
    const rows = inModel.get(roundOf(row)) ?? [];
    rows.push(row);
    inModel.set(roundOf(row), rows);
  }
  const claims: ModelClaim[] = books.models.flatMap((model) =>
    model.round === null || model.sumDigest === null
      ? []
      : [
          {
            model: model.id,
            round: model.round,
            sumDigest: model.sumDigest,
            weight: String(model.weight),
            contributors: inModel.get(model.round) ?? [],
          },
        ],
  );
  const inexact = checkSums(audit, claims);
  const { missing, doubled } = checkContributions(
    audit,
    books.contributions.map((row) => ({
      round: roundOf(row),
      device: row.device,
      outcome: row.outcome,
    })),
  );
  return {
    exact: inexact.length === 0 && claims.length > 0,
    modelsChecked: claims.length,
    inexact,
    missing,
    doubled,
  };
}

export function countContributions(books: Books, audit: Audit): ContributionCounts {
  const evaluations = new Set(
    books.rounds.filter(({ task }) => task === "evaluate").map(({ id }) => id),
  );
  const inModel = books.contributions.filter(({ outcome }) => outcome === "model");
  return {
    receipted: audit.receipted.size,
    inModel: inModel.filter((row) => !evaluations.has(roundOf(row))).length,
    inEvaluation: inModel.filter((row) => evaluations.has(roundOf(row))).length,
    expired: books.contributions.length - inModel.length,
    duplicatesDropped: books.duplicatesDropped,
  };
}

/** Rounds for the report; `startMs` is the run's start on the wall clock. */
export function roundEntries(
  books: Books,
  siteOf: ReadonlyMap<string, string>,
  accuracies: ReadonlyMap<string, number>,
  startMs: number,
): RoundEntry[] {
  const models = new Map(books.models.map((model) => [model.id, model]));
  return books.rounds.map((round) => {
    const rows = books.contributions.filter(
      (row) => row.outcome === "model" && roundOf(row) === round.id,
    );
    const sites = [...new Set(rows.map(({ gateway }) => siteOf.get(gateway) ?? gateway))].sort();
    const model =
      round.model === null || round.task === "evaluate" ? undefined : models.get(round.model);
    const accuracy = model === undefined ? undefined : accuracies.get(model.id);
    return {
      round: round.id,
      ...(model === undefined ? {} : { model: model.id, federated: federatedMetrics(model) }),
      state: round.task === "evaluate" ? `${round.state} (evaluation)` : round.state,
      contributors: rows.length,
      sites,
      ...(accuracy === undefined ? {} : { accuracy }),
      startedMs: round.openedAtMs - startMs,
      ...(round.closedAtMs === null ? {} : { endedMs: round.closedAtMs - startMs }),
    };
  });
}

function federatedMetrics({ metrics }: ModelRow): Record<string, number> {
  const prefix = "evaluation.";
  return Object.fromEntries(
    Object.entries(metrics)
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, value]) => [name.slice(prefix.length), value]),
  );
}
