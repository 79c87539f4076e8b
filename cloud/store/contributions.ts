import type { ContributionRow, PartialRow } from "./rows.js";
import { countOutcomes } from "./settlement.js";
import { askFor, sliceOf } from "./slice.js";
import type { Sql } from "./sql.js";
import type { RecordedContribution, Store } from "./store.js";
import { columnsOf, fromRow, insertRows, toJson } from "./tables.js";

const columns = columnsOf("contributions");
const partialColumns = columnsOf("partials");

type ContributionQueries = Pick<
  Store,
  "recordPartial" | "partial" | "retainedPartials" | "knownContributions" | "listContributions"
>;

export function contributionQueries({ read, write }: Sql): ContributionQueries {
  return {
    recordPartial: (partial, contributions) =>
      write("durable", async (query) => {
        const added = await insertRows(
          query,
          "partials",
          [partial],
          "ON CONFLICT (gateway, incarnation, sequence) DO NOTHING",
        );
        if (added === 0) return;
        await insertRows(query, "contributions", contributions);
        await countOutcomes(query, partial.session, contributions);
      }),
    async partial({ gateway, incarnation, sequence }) {
      const [row] = await read(
        `SELECT ${partialColumns} FROM partials
         WHERE gateway = $1 AND incarnation = $2 AND sequence = $3`,
        [gateway, incarnation, sequence],
      );
      return row && fromRow<PartialRow>(row);
    },
    async retainedPartials(session) {
      const rows = await read(
        `SELECT ${partialColumns} FROM partials WHERE session = $1 AND retained
         ORDER BY received_at_ms, gateway, incarnation, sequence`,
        [session],
      );
      return rows.map(fromRow<PartialRow>);
    },
    async knownContributions(session, keys) {
      const rows = await read(
        `SELECT c.round, c.stretch, c.device, c.updates FROM contributions c
         JOIN (SELECT DISTINCT round, device
               FROM jsonb_to_recordset($2::jsonb) AS given(round integer, device text)) s
           ON c.round = s.round AND c.device = s.device
         WHERE c.session = $1 ORDER BY c.round, c.stretch, c.device`,
        [session, toJson(keys)],
      );
      return rows.map(fromRow<RecordedContribution>);
    },
    async listContributions({ session, round, model, outcome }, { after, limit }) {
      const rows = await read(
        `SELECT ${columns} FROM contributions
         WHERE session = $1 AND ($2::integer IS NULL OR round = $2)
           AND ($3::text IS NULL OR outcome = $3)
           AND ($4::integer IS NULL OR (round, stretch, device) > ($4, $5::integer, $6::text))
           AND ($7::text IS NULL OR model = $7)
         ORDER BY round, stretch, device LIMIT $8`,
        [
          session,
          round ?? null,
          outcome ?? null,
          after?.[0] ?? null,
          after?.[1] ?? null,
          after?.[2] ?? null,
          model ?? null,
          askFor(limit),
        ],
      );
      const keyOf = ({ round, stretch, device }: ContributionRow) =>
        [round, stretch, device] as const;
      return sliceOf(rows.map(fromRow<ContributionRow>), limit, keyOf, (row) => row);
    },
  };
}
