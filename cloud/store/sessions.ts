import { TributaryError } from "@tributary/proto/wire/errors.js";
import { sessionParamsSchema } from "../params.js";
import type { SessionProgress, SessionRow } from "./rows.js";
import { settlePartials } from "./settlement.js";
import { askFor, sliceOf } from "./slice.js";
import type { Query, Sql, SqlRow } from "./sql.js";
import type { Store } from "./store.js";
import { columnsOf, fromRow, insertRows, storable } from "./tables.js";

const columns = columnsOf("sessions");

type SessionQueries = Pick<
  Store,
  "addSession" | "session" | "listSessions" | "runningSessions" | "saveProgress"
>;

export function sessionQueries({ read, write }: Sql): SessionQueries {
  return {
    addSession: (session) =>
      write("durable", async (query) => {
        return (await insertRows(query, "sessions", [session], "ON CONFLICT (id) DO NOTHING")) > 0;
      }),
    async session(id) {
      const [row] = await read(`SELECT ${columns} FROM sessions WHERE id = $1`, [id]);
      return row && sessionRow(row);
    },
    async listSessions({ after, limit }) {
      const rows = await read(
        `SELECT ${columns} FROM sessions WHERE $1::text IS NULL OR id > $1
         ORDER BY id LIMIT $2`,
        [after ?? null, askFor(limit)],
      );
      return sliceOf(
        rows.map(sessionRow),
        limit,
        ({ id }) => id,
        (row) => row,
      );
    },
    async runningSessions() {
      const rows = await read(
        `SELECT ${columns} FROM sessions WHERE state = 'running' ORDER BY id`,
      );
      return rows.map(sessionRow);
    },
    saveProgress: (session, progress, atMs, settled = []) =>
      write("durable", async (query) => {
        await updateProgress(query, session, progress, atMs);
        await settlePartials(query, session, settled);
      }),
  };
}

/** A session that an older build wrote lacks the parameters that came later: their defaults hold. */
function sessionRow(row: SqlRow): SessionRow {
  const read = fromRow<SessionRow>(row);
  return { ...read, params: sessionParamsSchema.parse(read.params) };
}

export async function updateProgress(
  query: Query,
  session: string,
  progress: SessionProgress,
  atMs: number,
): Promise<void> {
  const { state, reason, head, nextRound, failedRounds, evaluated } = progress;
  const changed = await query(
    `UPDATE sessions SET state = $2, reason = $3, head = $4, next_round = $5, failed_rounds = $6,
       evaluated = $7, updated_at_ms = $8 WHERE id = $1 RETURNING 1`,
    [
      session,
      state,
      reason === null ? null : storable(reason),
      head,
      nextRound,
      failedRounds,
      evaluated,
      atMs,
    ],
  );
  if (changed.length === 0)
    throw new TributaryError("store-unknown", `the store has no session ${session}`);
}
