import { TributaryError } from "@tributary/proto/wire/errors.js";
import { updateDecision } from "./models.js";
import type { OpenRound, RoundRow } from "./rows.js";
import { updateProgress } from "./sessions.js";
import { countOutcomes, settlePartials } from "./settlement.js";
import { askFor, sliceOf } from "./slice.js";
import type { Query, Sql } from "./sql.js";
import type { RoundEnd, Store } from "./store.js";
import { columnsOf, fromRow, insertRows } from "./tables.js";

const allColumns = columnsOf("rounds");
/** Without what only a restart needs, and which is large. */
const columns = columnsOf("rounds", ["plan", "rosters", "siteRosters", "incarnations"]);

type RoundQueries = Pick<
  Store,
  "openRound" | "endRound" | "round" | "wholeRound" | "openRounds" | "listRounds"
>;

export function roundQueries({ read, write }: Sql): RoundQueries {
  return {
    openRound: (round) =>
      write("durable", async (query) => {
        await insertRows(query, "rounds", [round]);
        await query(
          `UPDATE sessions SET next_round = greatest(next_round, $2), updated_at_ms = $3 WHERE id = $1`,
          [round.session, round.number + 1, round.openedAtMs],
        );
      }),
    endRound: (end) => write("durable", (query) => endRound(query, end)),
    async round(id) {
      const [row] = await read(`SELECT ${columns} FROM rounds WHERE id = $1`, [id]);
      return row && fromRow<RoundRow>(row);
    },
    async wholeRound(id) {
      const [row] = await read(`SELECT ${allColumns} FROM rounds WHERE id = $1`, [id]);
      return row && fromRow<OpenRound>(row);
    },
    async openRounds(session) {
      const rows = await read(
        `SELECT ${allColumns} FROM rounds WHERE session = $1 AND state = 'open' ORDER BY number`,
        [session],
      );
      return rows.map(fromRow<OpenRound>);
    },
    async listRounds(session, { after, limit }) {
      const rows = await read(
        `SELECT ${columns} FROM rounds WHERE session = $1 AND ($2::integer IS NULL OR number < $2)
         ORDER BY number DESC LIMIT $3`,
        [session, after ?? null, askFor(limit)],
      );
      return sliceOf(
        rows.map(fromRow<RoundRow>),
        limit,
        ({ number }) => number,
        (row) => row,
      );
    },
  };
}

/**
 * The round's row goes first: of two calls that end the same round, the second finds it ended and
 * writes nothing. Contributions and Partials are inserted strictly, so that one that is recorded
 * already undoes the whole transaction rather than be counted twice.
 */
async function endRound(query: Query, end: RoundEnd): Promise<boolean> {
  const [ended] = await query(
    `UPDATE rounds SET state = $2, rule = $3, closed_at_ms = $4, model = $5, partials = $6
     WHERE id = $1 AND state = 'open' RETURNING session, number`,
    [end.round, end.state, end.rule, end.closedAtMs, end.model?.id ?? null, end.partials.length],
  );
  if (ended === undefined) {
    const known = await query("SELECT 1 FROM rounds WHERE id = $1", [end.round]);
    if (known.length > 0) return false;
    throw new TributaryError("store-unknown", `the store has no round ${end.round}`);
  }
  const session = String(ended.session);
  if (end.model !== undefined) await insertRows(query, "models", [end.model]);
  for (const decision of end.decided ?? []) await updateDecision(query, decision);
  await insertRows(query, "partials", end.partials);
  await insertRows(query, "contributions", end.contributions);
  await countOutcomes(query, session, end.contributions);
  await settlePartials(query, session, end.settled ?? []);
  const earlier = contributionsFromEarlier(end, Number(ended.number));
  if (earlier > 0)
    await query("UPDATE rounds SET from_earlier = $2 WHERE id = $1", [end.round, earlier]);
  if (end.evaluation !== undefined) await insertRows(query, "evaluations", [end.evaluation]);
  await updateProgress(query, session, end.progress, end.closedAtMs);
  return true;
}

/** Contributions to other rounds than the one of this number that are first in the model of its end. */
export function contributionsFromEarlier(
  { model, contributions, settled = [] }: Pick<RoundEnd, "model" | "contributions" | "settled">,
  number: number,
): number {
  if (model === undefined) return 0;
  const own = contributions.filter(({ outcome }) => outcome === "model");
  const late = settled.filter(({ fate }) => fate?.outcome === "merged");
  const merged = [...own, ...late.flatMap(({ contributions: keys }) => keys)];
  return merged.filter(({ round }) => round !== number).length;
}
