import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { EvaluationRow, ModelRow } from "./rows.js";
import { askFor, sliceOf } from "./slice.js";
import type { Query, Sql } from "./sql.js";
import type { ModelDecision, Page, Slice, Store } from "./store.js";
import { columnsOf, fromRow, insertRows, toJson } from "./tables.js";

const columns = columnsOf("models");
const evaluationColumns = columnsOf("evaluations");

type ModelQueries = Pick<
  Store,
  | "addModel"
  | "model"
  | "decideModel"
  | "listModels"
  | "trail"
  | "knownDigests"
  | "evaluations"
  | "evaluationOf"
>;

type Keyed<T> = { readonly key: number; readonly row: T };

export function modelQueries({ read, write }: Sql): ModelQueries {
  return {
    addModel: (model, project) =>
      write("durable", async (query) => {
        if ((await insertRows(query, "models", [model], "ON CONFLICT (id) DO NOTHING")) === 0)
          return false;
        if (project !== undefined)
          await query("UPDATE models SET project = $2 WHERE id = $1", [model.id, project]);
        return true;
      }),
    async model(id) {
      const [row] = await read(`SELECT ${columns} FROM models WHERE id = $1`, [id]);
      return row && fromRow<ModelRow>(row);
    },
    decideModel: (decision) => write("durable", (query) => updateDecision(query, decision)),
    listModels: (filter, page) => selectModels(read, filter, page),
    async trail(model, { after = 0, limit }) {
      const rows = await read(
        `WITH RECURSIVE line AS (
           SELECT m.*, 1::bigint AS key FROM models m WHERE id = $1
           UNION ALL
           SELECT m.*, line.key + 1 FROM models m JOIN line ON m.id = line.parent
           WHERE line.key < $2::bigint + $3::bigint)
         SELECT key, ${columns} FROM line WHERE key > $2::bigint ORDER BY key`,
        [model, after, askFor(limit)],
      );
      return sliceOf(rows.map(keyed<ModelRow>), limit, keyOf, rowOf);
    },
    async knownDigests(digests) {
      const rows = await read(
        `SELECT DISTINCT digest FROM models
         WHERE digest IN (SELECT jsonb_array_elements_text($1::jsonb))`,
        [toJson(digests)],
      );
      return new Set(rows.map(({ digest }) => String(digest)));
    },
    async evaluations(session, { after, limit }) {
      const rows = await read(
        `SELECT sequence AS key, ${evaluationColumns} FROM evaluations
         WHERE session = $1 AND ($2::bigint IS NULL OR sequence < $2)
         ORDER BY sequence DESC LIMIT $3`,
        [session, after ?? null, askFor(limit)],
      );
      return sliceOf(rows.map(keyed<EvaluationRow>), limit, keyOf, rowOf);
    },
    async evaluationOf(model) {
      const [row] = await read(
        `SELECT ${evaluationColumns} FROM evaluations WHERE model = $1
         ORDER BY sequence DESC LIMIT 1`,
        [model],
      );
      return row && fromRow<EvaluationRow>(row);
    },
  };
}

/**
 * Models, newest first.
 *
 * @param also a further condition, whose values are from `$5` on
 */
export async function selectModels(
  read: Query,
  { session, state }: Parameters<Store["listModels"]>[0],
  { after, limit }: Page<number>,
  also: { readonly where: string; readonly values: readonly unknown[] } = NO_CONDITION,
): Promise<Slice<ModelRow, number>> {
  const rows = await read(
    `SELECT sequence AS key, ${columns} FROM models
     WHERE ($1::text IS NULL OR session = $1) AND ($2::text IS NULL OR state = $2)
       AND ($3::bigint IS NULL OR sequence < $3) AND ${also.where}
     ORDER BY sequence DESC LIMIT $4`,
    [session ?? null, state ?? null, after ?? null, askFor(limit), ...also.values],
  );
  return sliceOf(rows.map(keyed<ModelRow>), limit, keyOf, rowOf);
}

const NO_CONDITION = { where: "true", values: [] } as const;

function keyed<T>({ key, ...row }: Readonly<Record<string, unknown>>): Keyed<T> {
  return { key: Number(key), row: fromRow<T>(row) };
}

const keyOf = ({ key }: Keyed<unknown>) => key;
const rowOf = <T>({ row }: Keyed<T>) => row;

export async function updateDecision(
  query: Query,
  { model, state, metrics }: ModelDecision,
): Promise<void> {
  const changed = await query(
    "UPDATE models SET state = $2, metrics = metrics || $3::jsonb WHERE id = $1 RETURNING 1",
    [model, state, toJson(metrics)],
  );
  if (changed.length === 0)
    throw new TributaryError("store-unknown", `the store has no model ${model}`);
}
