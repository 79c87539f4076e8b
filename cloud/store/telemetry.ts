import { storeLimits } from "./limits.js";
import type { SampleRow } from "./rows.js";
import { askFor, sliceOf } from "./slice.js";
import type { Query, Sql } from "./sql.js";
import type { Store, TelemetryBatch } from "./store.js";
import { columnsOf, fromRow, insertRows } from "./tables.js";

const columns = `sequence, ${columnsOf("samples")}`;

type TelemetryQueries = Pick<Store, "takeTelemetry" | "listSamples">;

/** What gateways noted while they could not send it: each entry once, the newest kept. */
export function telemetryQueries({ read, write }: Sql): TelemetryQueries {
  return {
    takeTelemetry: (batch) => write("durable", (query) => take(query, batch)),
    async listSamples(gateway, { after, limit }) {
      const rows = await read(
        `SELECT ${columns} FROM samples
         WHERE gateway = $1 AND ($2::bigint IS NULL OR sequence < $2)
         ORDER BY sequence DESC LIMIT $3`,
        [gateway, after ?? null, askFor(limit)],
      );
      return sliceOf(
        rows.map(fromRow<SampleRow>),
        limit,
        ({ sequence }) => sequence,
        (row) => row,
      );
    },
  };
}

async function take(query: Query, batch: TelemetryBatch): Promise<void> {
  const { gateway, incarnation, last, atMs } = batch;
  const [mark] = await query(
    "SELECT sequence FROM telemetry_marks WHERE gateway = $1 AND incarnation = $2 AND class = $3",
    [gateway, incarnation, batch.class],
  );
  const taken = mark === undefined ? -1 : Number(mark.sequence);
  if (last <= taken) return;
  if (batch.class === "metrics") {
    const fresh = batch.entries.filter(({ sequence }) => sequence > taken);
    await insertRows(
      query,
      "samples",
      fresh.map((entry) => ({ ...entry, gateway })),
    );
    await sweepSamples(query, gateway);
  } else {
    const fresh = batch.entries.filter(({ sequence }) => sequence > taken);
    await insertRows(query, "events", fresh);
    await sweepEvents(query);
  }
  await query(
    `INSERT INTO telemetry_marks (gateway, incarnation, class, sequence, at_ms)
     VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (gateway, class, incarnation) DO UPDATE SET sequence = $4, at_ms = $5`,
    [gateway, incarnation, batch.class, last, atMs],
  );
  if (mark === undefined) await sweepMarks(query, gateway, batch.class);
}

async function sweepSamples(query: Query, gateway: string): Promise<void> {
  await query(
    `DELETE FROM samples WHERE gateway = $1 AND sequence <= (
       SELECT sequence FROM samples WHERE gateway = $1 ORDER BY sequence DESC OFFSET $2 LIMIT 1)`,
    [gateway, storeLimits.samplesOfGateway],
  );
  await query(
    "DELETE FROM samples WHERE sequence <= (SELECT max(sequence) FROM samples) - $1::bigint",
    [storeLimits.samplesKept],
  );
}

export async function sweepEvents(query: Query): Promise<void> {
  await query("DELETE FROM events WHERE sequence <= (SELECT max(sequence) FROM events) - $1", [
    storeLimits.eventsKept,
  ]);
}

/** Of a gateway, the incarnations heard last; of all, no more than there are gateways kept. */
async function sweepMarks(query: Query, gateway: string, name: string): Promise<void> {
  await query(
    `DELETE FROM telemetry_marks WHERE gateway = $1 AND class = $2 AND incarnation IN (
       SELECT incarnation FROM telemetry_marks WHERE gateway = $1 AND class = $2
       ORDER BY at_ms DESC, incarnation OFFSET $3)`,
    [gateway, name, storeLimits.incarnationsMarked],
  );
  await query(
    `DELETE FROM telemetry_marks WHERE gateway <> $1 AND gateway NOT IN (SELECT id FROM gateways)`,
    [gateway],
  );
}
