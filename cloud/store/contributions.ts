import type { ContributionRow, PartialRow } from "./rows.js";
import { askFor, sliceOf } from "./slice.js";
import type { Sql } from "./sql.js";
import type { Store } from "./store.js";
import { columnsOf, fromRow, insertRows } from "./tables.js";

const columns = columnsOf("contributions");
const partialColumns = columnsOf("partials");

type ContributionQueries = Pick<Store, "recordPartial" | "partial" | "listContributions">;

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
        const count = await insertRows(
          query,
          "contributions",
          contributions,
          "ON CONFLICT (session, round, device) DO NOTHING",
        );
        await query("UPDATE rounds SET expired = expired + $2 WHERE id = $1", [
          partial.round,
          count,
        ]);
      }),
    async partial({ gateway, incarnation, sequence }) {
      const [row] = await read(
        `SELECT ${partialColumns} FROM partials
         WHERE gateway = $1 AND incarnation = $2 AND sequence = $3`,
        [gateway, incarnation, sequence],
      );
      return row && fromRow<PartialRow>(row);
    },
    async listContributions({ session, round, outcome }, { after, limit }) {
      const rows = await read(
        `SELECT ${columns} FROM contributions
         WHERE session = $1 AND ($2::integer IS NULL OR round = $2)
           AND ($3::text IS NULL OR outcome = $3)
           AND ($4::integer IS NULL OR (round, device) > ($4, $5::text))
         ORDER BY round, device LIMIT $6`,
        [
          session,
          round ?? null,
          outcome ?? null,
          after?.[0] ?? null,
          after?.[1] ?? null,
          askFor(limit),
        ],
      );
      const keyOf = ({ round, device }: ContributionRow) => [round, device] as const;
      return sliceOf(rows.map(fromRow<ContributionRow>), limit, keyOf, (row) => row);
    },
  };
}
