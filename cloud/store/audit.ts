import {
  type AuditEntry,
  type AuditLine,
  type ChainHead,
  chainRoot,
  linkLine,
} from "../audit/chain.js";
import { pendingLine } from "../audit/pending.js";
import { askFor, sliceOf } from "./slice.js";
import type { Query, Sql } from "./sql.js";
import type { Page, Slice } from "./store.js";
import { columnsOf, fromRow, insertRows, storable } from "./tables.js";

export type AuditFilter = {
  /** Lines of these projects alone. */
  readonly projects?: readonly string[] | undefined;
  readonly actor?: string | undefined;
  /** Actions that begin so. */
  readonly action?: string | undefined;
  readonly outcome?: string | undefined;
  readonly sinceMs?: number | undefined;
  readonly untilMs?: number | undefined;
};

/** The audit log: append-only, also for the database (a trigger), and chained by hashes. */
export type AuditStore = {
  /** Appends in a durable transaction of its own. */
  append(entry: AuditEntry): Promise<void>;
  /** Oldest first; the key is a sequence. */
  list(filter: AuditFilter, page: Page<number>): Promise<Slice<AuditLine, number>>;
};

export function auditQueries({ read, write }: Sql): AuditStore {
  return {
    append: (entry) => write("durable", (query) => appendLine(query, entry)),
    async list(filter, { after, limit }) {
      const { projects, actor, action, outcome, sinceMs, untilMs } = filter;
      const rows = await read(
        `SELECT ${columnsOf("audit")} FROM audit
         WHERE ($1::bigint IS NULL OR sequence > $1)
           AND ($2::jsonb IS NULL OR project IN (SELECT jsonb_array_elements_text($2::jsonb)))
           AND ($3::text IS NULL OR actor = $3) AND ($4::text IS NULL OR starts_with(action, $4))
           AND ($5::text IS NULL OR outcome = $5)
           AND ($6::bigint IS NULL OR at_ms >= $6) AND ($7::bigint IS NULL OR at_ms < $7)
         ORDER BY sequence LIMIT $8`,
        [
          after ?? null,
          projects === undefined ? null : JSON.stringify(projects),
          actor ?? null,
          action ?? null,
          outcome ?? null,
          sinceMs ?? null,
          untilMs ?? null,
          askFor(limit),
        ],
      );
      return sliceOf(rows.map(fromRow<AuditLine>), limit, ({ sequence }) => sequence, same);
    },
  };
}

const same = <T>(row: T): T => row;

/** Transactions run one at a time, so nobody else puts a line after the same head. */
async function appendLine(query: Query, entry: AuditEntry): Promise<void> {
  const [row] = await query("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1");
  const head = row === undefined ? chainRoot : fromRow<ChainHead>(row);
  await insertRows(query, "audit", [linkLine(head, storableEntry(entry))]);
}

/** As the database gives it back, or the hash would not be that of what is read. */
function storableEntry({ detail, ...entry }: AuditEntry): AuditEntry {
  const pairs = Object.entries(detail).map(([name, value]) => [storable(name), storable(value)]);
  return {
    ...entry,
    actor: storable(entry.actor),
    action: storable(entry.action),
    target: storable(entry.target),
    detail: Object.fromEntries(pairs),
  };
}

/**
 * The driver, with the line that a request is to leave in the transaction that makes its change. One that
 * ends with a refusal changed nothing worth a line, and one that fails leaves it to the next try.
 */
export function audited(sql: Sql): Sql {
  return {
    ...sql,
    async write(durability, body) {
      const pending = durability === "durable" ? pendingLine() : undefined;
      const entry = pending?.entry;
      if (pending === undefined || entry === undefined) return sql.write(durability, body);
      pending.entry = undefined;
      let written = false;
      try {
        return await sql.write(durability, async (query) => {
          const result = await body(query);
          if (refuses(result)) return result;
          await appendLine(query, entry);
          written = true;
          return result;
        });
      } catch (error) {
        written = false;
        throw error;
      } finally {
        if (!written) pending.entry = entry;
      }
    },
  };
}

function refuses(result: unknown): boolean {
  if (result === false) return true;
  return typeof result === "object" && result !== null && "ok" in result && result.ok === false;
}
