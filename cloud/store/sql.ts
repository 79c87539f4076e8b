/** One row, by column name. */
export type SqlRow = Readonly<Record<string, unknown>>;

/** Runs one statement of PostgreSQL's dialect with `$1`, `$2`, ... and returns its rows. */
export type Query = (statement: string, parameters?: readonly unknown[]) => Promise<SqlRow[]>;

/**
 * `durable`: on disk when it resolves. `lazy`: on disk with the next durable one; a power cut may
 * lose it, never tear it.
 */
export type Durability = "durable" | "lazy";

/**
 * The two ways to run the one set of queries: embedded, and against a server. Writes run one at a
 * time in the order of the calls, each as one transaction; a body that throws leaves no trace.
 */
export type Sql = {
  readonly read: Query;
  write<T>(durability: Durability, body: (query: Query) => Promise<T>): Promise<T>;
  close(): Promise<void>;
};
