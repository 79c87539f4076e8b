import { TributaryError } from "@tributary/proto/wire/errors.js";
import pg from "pg";
import { storeFailure } from "./failure.js";
import { storeLimits } from "./limits.js";
import type { Durability, Query, Sql, SqlRow } from "./sql.js";

/** Advisory lock that the one cloud using a database holds; the number is arbitrary and fixed. */
const LOCK = 7_305_410;

const INT8 = 20;

/** int8 as a number: every count kept here is within 2^53. */
const types = {
  getTypeParser: ((oid: number, format?: "text" | "binary") =>
    oid === INT8 ? Number : pg.types.getTypeParser(oid, format)) as typeof pg.types.getTypeParser,
};

/**
 * Connects to a PostgreSQL server (version 13 or newer) by URL. One connection writes, and holds a
 * lock that keeps a second cloud off the same database (`store-in-use`); it is made again after it
 * broke. A few others read.
 */
export async function openServer(url: string): Promise<Sql> {
  const options = {
    connectionString: url,
    types,
    application_name: "tributary-cloud",
    connectionTimeoutMillis: storeLimits.serverConnectMs,
    statement_timeout: storeLimits.serverStatementMs,
    keepAlive: true,
  };
  const readers = new pg.Pool({ ...options, max: storeLimits.serverReaders });
  // A reader that breaks while idle is replaced by the pool; the next query tells if none can be made.
  readers.on("error", () => undefined);
  const writer = createWriter(options);
  const sql: Sql = {
    read: (statement, parameters = []) =>
      readers.query<SqlRow>(statement, [...parameters]).then(({ rows }) => rows, fail),
    write: (durability, body) => writer.run(durability, body).catch(fail),
    async close() {
      await writer.close();
      await readers.end();
    },
  };
  try {
    await sql.write("lazy", async () => undefined);
    return sql;
  } catch (error) {
    await sql.close();
    throw error;
  }
}

function fail(cause: unknown): never {
  throw storeFailure(cause);
}

function createWriter(options: pg.ClientConfig) {
  let client: pg.Client | undefined;
  let last: Promise<unknown> = Promise.resolve();

  const connect = async (): Promise<pg.Client> => {
    if (client !== undefined) return client;
    const fresh = new pg.Client(options);
    fresh.on("error", () => {
      if (client === fresh) client = undefined;
    });
    await fresh.connect();
    const { rows } = await fresh.query("SELECT pg_try_advisory_lock($1) AS held", [LOCK]);
    if (rows[0]?.held !== true) {
      await fresh.end();
      throw new TributaryError("store-in-use", "another cloud uses this database", {
        retryable: true,
      });
    }
    client = fresh;
    return fresh;
  };

  const transact = async <T>(durability: Durability, body: (query: Query) => Promise<T>) => {
    const own = await connect();
    const query: Query = async (statement, parameters = []) =>
      (await own.query<SqlRow>(statement, [...parameters])).rows;
    await query("BEGIN");
    try {
      if (durability === "lazy") await query("SET LOCAL synchronous_commit = off");
      const result = await body(query);
      await query("COMMIT");
      return result;
    } catch (error) {
      // A connection that cannot roll back is given up: the server rolls back when it ends.
      await query("ROLLBACK").catch(() => {
        client = undefined;
        return own.end().catch(() => undefined);
      });
      throw error;
    }
  };

  return {
    run<T>(durability: Durability, body: (query: Query) => Promise<T>): Promise<T> {
      const turn = last.then(() => transact(durability, body));
      last = turn.catch(() => undefined);
      return turn;
    },
    async close() {
      await last;
      await client?.end();
      client = undefined;
    },
  };
}
