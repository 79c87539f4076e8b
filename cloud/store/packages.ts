import { askFor, sliceOf } from "./slice.js";
import type { Query, Sql } from "./sql.js";
import type { Page, Slice } from "./store.js";
import { columnsOf, fromRow, insertRows } from "./tables.js";

/** A compute package, as it was uploaded; nothing of it ever changes. */
export type PackageRow = {
  /** `<name>.<version>`. */
  readonly id: string;
  /** The workspace that it belongs to. */
  readonly project: string;
  /** SHA-256 of the archive, and its bytes. */
  readonly digest: string;
  readonly bytes: number;
  /** Thumbprint of the key that signed it. */
  readonly signer: string;
  /** The signed statement: a compact JWS. */
  readonly statement: string;
  readonly uploadedAtMs: number;
};

/** Packages as one transaction sees them. */
type PackageRows = {
  package(id: string): Promise<PackageRow | undefined>;
  count(): Promise<number>;
  add(row: PackageRow): Promise<void>;
  remove(id: string): Promise<void>;
};

export type PackageStore = {
  /** Runs a durable transaction; one at a time, and nothing changes when the body throws. */
  change<T>(body: (rows: PackageRows) => Promise<T>): Promise<T>;
  package(id: string): Promise<PackageRow | undefined>;
  /** By id; of some projects, where they are given. */
  listPackages(
    filter: { readonly projects?: readonly string[] | undefined },
    page: Page<string>,
  ): Promise<Slice<PackageRow, string>>;
  /** Digests of all archives that a package has. */
  packageDigests(): Promise<ReadonlySet<string>>;
};

export function packageQueries({ read, write }: Sql): PackageStore {
  return {
    change: (body) => write("durable", (query) => body(rowsOf(query))),
    package: rowsOf(read).package,
    async listPackages({ projects }, { after, limit }) {
      const rows = await read(
        `SELECT ${columnsOf("packages")} FROM packages
         WHERE ($1::jsonb IS NULL OR project IN (SELECT jsonb_array_elements_text($1::jsonb)))
           AND ($2::text IS NULL OR id > $2)
         ORDER BY id LIMIT $3`,
        [projects === undefined ? null : JSON.stringify(projects), after ?? null, askFor(limit)],
      );
      const same = (row: PackageRow) => row;
      return sliceOf(rows.map(fromRow<PackageRow>), limit, ({ id }) => id, same);
    },
    async packageDigests() {
      const rows = await read("SELECT DISTINCT digest FROM packages");
      return new Set(rows.map(({ digest }) => String(digest)));
    },
  };
}

function rowsOf(query: Query): PackageRows {
  return {
    async package(id) {
      const [row] = await query(`SELECT ${columnsOf("packages")} FROM packages WHERE id = $1`, [
        id,
      ]);
      return row && fromRow<PackageRow>(row);
    },
    async count() {
      const [row] = await query("SELECT count(*)::integer AS count FROM packages");
      return Number(row?.count);
    },
    async add(row) {
      await insertRows(query, "packages", [row]);
    },
    async remove(id) {
      await query("DELETE FROM packages WHERE id = $1", [id]);
    },
  };
}
