import type { SessionView } from "@tributary/cloud/session-view.js";
import type {
  ContributionRow,
  ModelGroup,
  ModelRow,
  RoundRow,
} from "@tributary/cloud/store/rows.js";
import { type Api, firstOf } from "../../cli/api.js";
import {
  type Audit,
  type Contribution,
  checkContributions,
  checkSums,
  type Findings,
  type GroupClaim,
  type ModelClaim,
} from "./oracle.js";
import type { ContributionCounts, RoundEntry } from "./report.js";

/** What the cloud says of the sessions of a run. */
export type Books = {
  readonly sessions: readonly SessionView[];
  readonly rounds: readonly RoundRow[];
  readonly models: readonly ModelRow[];
  readonly contributions: readonly ContributionRow[];
  readonly duplicatesDropped: number;
};

export async function readBooks(api: Api, ids: readonly string[]): Promise<Books> {
  const sessions: SessionView[] = [];
  const rounds: RoundRow[] = [];
  const models: ModelRow[] = [];
  const contributions: ContributionRow[] = [];
  for (const session of ids) {
    sessions.push(await api.session(session));
    rounds.push(...(await firstOf(api.rounds(session), Number.POSITIVE_INFINITY)).toReversed());
    models.push(...(await firstOf(api.models({ session }), Number.POSITIVE_INFINITY)).toReversed());
    contributions.push(...(await firstOf(api.contributions(session), Number.POSITIVE_INFINITY)));
  }
  const gateways = await firstOf(api.gateways());
  const duplicatesDropped = gateways.reduce((sum, gateway) => sum + gateway.duplicatesDropped, 0);
  return { sessions, rounds, models, contributions, duplicatesDropped };
}

const roundOf = (row: ContributionRow) => `${row.session}.${row.round}`;

export function judge(books: Books, audit: Audit): Findings {
  const held = heldFirst(books);
  const claims = books.models.flatMap((model) => claimOf(model, books, held));
  const outside = books.contributions.filter(({ outcome }) => outcome !== "model");
  const inexact = checkSums(
    audit,
    claims,
    outside.map((row) => ({ ...row, round: roundOf(row) })),
  );
  const { missing, doubled } = checkContributions(
    audit,
    books.contributions.map((row) => ({
      round: roundOf(row),
      stretch: row.stretch,
      device: row.device,
      updates: row.updates,
      outcome: row.outcome,
    })),
  );
  return {
    exact: inexact.length === 0 && claims.length > 0,
    modelsChecked: claims.length,
    sumsChecked: claims.reduce((sum, { groups }) => sum + groups.length, 0),
    inexact,
    missing,
    doubled,
  };
}

/** Nothing for a model that no round made. */
function claimOf(model: ModelRow, { sessions }: Books, held: HeldFirst): ModelClaim[] {
  const { id, session, sumDigest, groups } = model;
  if (session === null || sumDigest === null || groups === null) return [];
  const range = sessions.find((other) => other.id === session)?.params.grid.range;
  if (range === undefined) throw new Error(`the books lack session ${session}`);
  const own = held.get(id) ?? [];
  return [{ model: id, sumDigest, groups: groups.map((group) => groupOf(group, own, range)) }];
}

function groupOf(group: ModelGroup, held: readonly Held[], range: number): GroupClaim {
  const { age, coefficient, sumDigest, samples } = group;
  return {
    age,
    coefficient,
    sumDigest,
    weight: String(samples),
    range,
    contributors: held.filter(({ base }) => base === group.base),
  };
}

type Held = Contribution & { readonly base: string };
/** By model. */
type HeldFirst = ReadonlyMap<string, readonly Held[]>;

/** The training contributions that each model is the first to hold, with the base of their round. */
function heldFirst({ rounds, contributions }: Books): HeldFirst {
  const bases = new Map(
    rounds.filter(({ task }) => task === "train").map(({ id, base }) => [id, base]),
  );
  const held = new Map<string, Held[]>();
  for (const row of contributions) {
    const { stretch, device, gateway, samples, updates, model } = row;
    const round = roundOf(row);
    const base = bases.get(round);
    if (row.outcome !== "model" || model === null || base === undefined) continue;
    const rows = held.get(model) ?? [];
    rows.push({ round, stretch, device, gateway, samples, updates, base });
    held.set(model, rows);
  }
  return held;
}

export function countContributions(books: Books, audit: Audit): ContributionCounts {
  const evaluations = new Set(
    books.rounds.filter(({ task }) => task === "evaluate").map(({ id }) => id),
  );
  const madeIn = new Map(books.models.map(({ id, round }) => [id, round]));
  const inModel = books.contributions.filter(({ outcome }) => outcome === "model");
  const trained = inModel.filter((row) => !evaluations.has(roundOf(row)));
  return {
    receipted: audit.receipted.size,
    inModel: updatesIn(trained),
    late: updatesIn(trained.filter((row) => madeIn.get(row.model ?? "") !== roundOf(row))),
    inEvaluation: updatesIn(inModel) - updatesIn(trained),
    expired: updatesIn(books.contributions.filter(({ outcome }) => outcome === "expired")),
    duplicatesDropped: books.duplicatesDropped,
  };
}

/** Receipts that the contributions stand for. */
function updatesIn(rows: readonly ContributionRow[]): number {
  return rows.reduce((sum, { updates }) => sum + updates, 0);
}

/** Rounds for the report; `startMs` is the run's start on the wall clock. */
export function roundEntries(
  books: Books,
  siteOf: ReadonlyMap<string, string>,
  accuracies: ReadonlyMap<string, number>,
  startMs: number,
): RoundEntry[] {
  const models = new Map(books.models.map((model) => [model.id, model]));
  const held = heldFirst(books);
  return books.rounds.map((round) => {
    const trained = round.task === "train" ? (held.get(round.model ?? "") ?? []) : [];
    const evaluated = books.contributions.filter(
      (row) => round.task === "evaluate" && row.outcome === "model" && roundOf(row) === round.id,
    );
    const rows = [...trained, ...evaluated];
    const sites = [...new Set(rows.map(({ gateway }) => siteOf.get(gateway) ?? gateway))].sort();
    const model =
      round.model === null || round.task === "evaluate" ? undefined : models.get(round.model);
    const accuracy = model === undefined ? undefined : accuracies.get(model.id);
    return {
      round: round.id,
      ...(model === undefined ? {} : { model: model.id, federated: federatedMetrics(model) }),
      state: round.task === "evaluate" ? `${round.state} (evaluation)` : round.state,
      contributors: rows.length,
      late: trained.filter((row) => row.round !== round.id).length,
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
