import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { Sql } from "./sql.js";

/**
 * Ids compare by code unit (COLLATE "C"), so that lists have one order on every server.
 * The schema, step by step: entry i leads from version i to i + 1. An entry that was released never
 * changes; what is new is a further entry.
 */
const migrations: readonly (readonly string[])[] = [
  [
    `CREATE TABLE sessions (
      id text COLLATE "C" PRIMARY KEY,
      params jsonb NOT NULL,
      state text NOT NULL,
      reason text,
      head text NOT NULL,
      next_round integer NOT NULL,
      failed_rounds integer NOT NULL,
      evaluated text,
      created_at_ms bigint NOT NULL,
      updated_at_ms bigint NOT NULL)`,
    `CREATE TABLE rounds (
      id text COLLATE "C" PRIMARY KEY,
      session text COLLATE "C" NOT NULL REFERENCES sessions,
      number integer NOT NULL,
      task text NOT NULL,
      base text NOT NULL,
      state text NOT NULL,
      rule text,
      model text,
      sites integer NOT NULL,
      roster integer NOT NULL,
      partials integer NOT NULL,
      merged integer NOT NULL,
      expired integer NOT NULL,
      opened_at_ms bigint NOT NULL,
      closed_at_ms bigint,
      plan bytea NOT NULL,
      rosters jsonb NOT NULL,
      UNIQUE (session, number))`,
    "CREATE INDEX rounds_open ON rounds (session, number) WHERE state = 'open'",
    `CREATE TABLE models (
      sequence bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
      id text COLLATE "C" PRIMARY KEY,
      digest text NOT NULL,
      bytes bigint NOT NULL,
      parameters bigint NOT NULL,
      parent text COLLATE "C" REFERENCES models,
      session text COLLATE "C",
      round text,
      state text NOT NULL,
      weight bigint NOT NULL,
      contributors integer NOT NULL,
      metrics jsonb NOT NULL,
      sum_digest text,
      fraction_bits jsonb,
      created_at_ms bigint NOT NULL)`,
    "CREATE INDEX models_session ON models (session, sequence)",
    "CREATE INDEX models_digest ON models (digest)",
    `CREATE TABLE contributions (
      session text COLLATE "C" NOT NULL,
      round integer NOT NULL,
      device text COLLATE "C" NOT NULL,
      gateway text NOT NULL,
      samples bigint NOT NULL,
      outcome text NOT NULL,
      rule text,
      model text,
      PRIMARY KEY (session, round, device))`,
    `CREATE TABLE partials (
      gateway text NOT NULL,
      incarnation text NOT NULL,
      sequence bigint NOT NULL,
      digest text NOT NULL,
      round text NOT NULL,
      bytes bigint NOT NULL,
      weight bigint NOT NULL,
      contributors integer NOT NULL,
      outcome text NOT NULL,
      rule text,
      received_at_ms bigint NOT NULL,
      PRIMARY KEY (gateway, incarnation, sequence))`,
    `CREATE TABLE evaluations (
      sequence bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
      round text PRIMARY KEY,
      session text COLLATE "C" NOT NULL,
      model text NOT NULL,
      against text,
      passed boolean NOT NULL,
      weight bigint NOT NULL,
      contributors integer NOT NULL,
      metrics jsonb NOT NULL,
      at_ms bigint NOT NULL)`,
    "CREATE INDEX evaluations_session ON evaluations (session, sequence)",
    "CREATE INDEX evaluations_model ON evaluations (model, sequence)",
    `CREATE TABLE gateways (
      id text COLLATE "C" PRIMARY KEY,
      site text NOT NULL,
      incarnation text NOT NULL,
      software_version text NOT NULL,
      attached boolean NOT NULL,
      connected_devices integer NOT NULL,
      outbox_partials integer NOT NULL,
      outbox_bytes bigint NOT NULL,
      oldest_age_ms bigint NOT NULL,
      free_disk_bytes bigint NOT NULL,
      refusals jsonb NOT NULL,
      duplicates_dropped bigint NOT NULL,
      first_seen_ms bigint NOT NULL,
      last_seen_ms bigint NOT NULL)`,
    `CREATE TABLE devices (
      id text COLLATE "C" PRIMARY KEY,
      site text NOT NULL,
      gateway text NOT NULL,
      sdk text NOT NULL,
      attributes jsonb NOT NULL,
      connected boolean NOT NULL,
      first_seen_ms bigint NOT NULL,
      last_seen_ms bigint NOT NULL)`,
    "CREATE INDEX devices_gateway ON devices (gateway, id)",
    "CREATE INDEX devices_site ON devices (site, id)",
    `CREATE TABLE events (
      sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      at_ms bigint NOT NULL,
      level text NOT NULL,
      name text NOT NULL,
      fields jsonb NOT NULL)`,
  ],
  [
    "ALTER TABLE models ADD COLUMN version integer, ADD COLUMN groups jsonb",
    `WITH RECURSIVE line AS (
       SELECT id, 0 AS version FROM models WHERE parent IS NULL
       UNION ALL
       SELECT m.id, line.version + 1 FROM models m JOIN line ON m.parent = line.id)
     UPDATE models SET version = line.version FROM line WHERE models.id = line.id`,
    "ALTER TABLE models ALTER COLUMN version SET NOT NULL",
    "ALTER TABLE rounds ADD COLUMN incarnations jsonb NOT NULL DEFAULT '{}'",
    "ALTER TABLE contributions ADD COLUMN updates integer NOT NULL DEFAULT 1",
    "CREATE INDEX contributions_model ON contributions (model) WHERE model IS NOT NULL",
    `ALTER TABLE partials
       ADD COLUMN session text COLLATE "C",
       ADD COLUMN site text,
       ADD COLUMN base text,
       ADD COLUMN retained boolean NOT NULL DEFAULT false`,
    "UPDATE partials SET session = split_part(round, '.', 1)",
    "ALTER TABLE partials ALTER COLUMN session SET NOT NULL",
    "CREATE INDEX partials_retained ON partials (session) WHERE retained",
    `ALTER TABLE gateways
       ADD COLUMN budget_bytes bigint NOT NULL DEFAULT 0,
       ADD COLUMN round_trip_ms bigint NOT NULL DEFAULT 0,
       ADD COLUMN clock_offset_ms bigint NOT NULL DEFAULT 0,
       ADD COLUMN classes jsonb NOT NULL DEFAULT '{}'`,
    "ALTER TABLE devices ADD COLUMN via text",
    "UPDATE devices SET via = gateway",
    "ALTER TABLE devices ALTER COLUMN via SET NOT NULL",
    `CREATE TABLE samples (
      sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      gateway text COLLATE "C" NOT NULL,
      at_ms bigint NOT NULL,
      fields jsonb NOT NULL)`,
    "CREATE INDEX samples_gateway ON samples (gateway, sequence)",
    `CREATE TABLE telemetry_marks (
      gateway text COLLATE "C" NOT NULL,
      incarnation text NOT NULL,
      class text NOT NULL,
      sequence bigint NOT NULL,
      at_ms bigint NOT NULL,
      PRIMARY KEY (gateway, class, incarnation))`,
  ],
  [
    "ALTER TABLE contributions ADD COLUMN stretch integer NOT NULL DEFAULT 0",
    "ALTER TABLE contributions DROP CONSTRAINT contributions_pkey",
    "ALTER TABLE contributions ADD PRIMARY KEY (session, round, stretch, device)",
  ],
  [
    `ALTER TABLE rounds
       ADD COLUMN kept integer NOT NULL DEFAULT 0,
       ADD COLUMN from_earlier integer NOT NULL DEFAULT 0`,
    `UPDATE rounds r SET kept = c.kept
     FROM (SELECT session, round, count(*) AS kept FROM contributions
       WHERE outcome = 'kept' GROUP BY session, round) c
     WHERE c.session = r.session AND c.round = r.number`,
    `UPDATE rounds r SET from_earlier = c.earlier
     FROM (SELECT o.id, count(*) AS earlier FROM rounds o JOIN contributions m
         ON m.session = o.session AND m.model = o.model AND m.round <> o.number
       GROUP BY o.id) c
     WHERE c.id = r.id`,
  ],
  [
    `CREATE TABLE claims (
      id text COLLATE "C" PRIMARY KEY,
      secret_digest text NOT NULL,
      kind text NOT NULL,
      name text NOT NULL,
      site text NOT NULL,
      uses integer NOT NULL,
      used integer NOT NULL,
      approval boolean NOT NULL,
      state text NOT NULL,
      created_at_ms bigint NOT NULL,
      expires_at_ms bigint NOT NULL)`,
    `CREATE TABLE enrolments (
      id text COLLATE "C" PRIMARY KEY,
      claim text COLLATE "C" NOT NULL REFERENCES claims ON DELETE CASCADE,
      thumbprint text NOT NULL,
      kind text NOT NULL,
      name text NOT NULL,
      site text NOT NULL,
      state text NOT NULL,
      serial text,
      requested_at_ms bigint NOT NULL,
      decided_at_ms bigint,
      UNIQUE (claim, thumbprint))`,
    `CREATE TABLE identities (
      kind text COLLATE "C" NOT NULL,
      name text COLLATE "C" NOT NULL,
      site text NOT NULL,
      thumbprint text NOT NULL,
      jwk jsonb NOT NULL,
      state text NOT NULL,
      claim text NOT NULL,
      enrolled_at_ms bigint NOT NULL,
      changed_at_ms bigint NOT NULL,
      PRIMARY KEY (kind, name))`,
    `CREATE TABLE certificates (
      serial text PRIMARY KEY,
      kind text COLLATE "C" NOT NULL,
      name text COLLATE "C" NOT NULL,
      site text NOT NULL,
      thumbprint text NOT NULL,
      certificate text NOT NULL,
      not_before_ms bigint NOT NULL,
      not_after_ms bigint NOT NULL,
      issued_at_ms bigint NOT NULL)`,
    "CREATE INDEX certificates_identity ON certificates (kind, name, issued_at_ms)",
    `CREATE TABLE denials (
      kind text COLLATE "C" NOT NULL,
      name text COLLATE "C" NOT NULL,
      before bigint NOT NULL,
      sequence bigint NOT NULL,
      at_ms bigint NOT NULL,
      PRIMARY KEY (kind, name))`,
  ],
  ["ALTER TABLE rounds ADD COLUMN site_rosters jsonb NOT NULL DEFAULT '{}'"],
  [
    `CREATE TABLE audit (
      sequence bigint PRIMARY KEY,
      at_ms bigint NOT NULL,
      actor text NOT NULL,
      action text NOT NULL,
      target text NOT NULL,
      project text,
      outcome text NOT NULL,
      detail jsonb NOT NULL,
      prev text NOT NULL,
      hash text NOT NULL)`,
    `CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$`,
    `CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
      FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()`,
    `CREATE TABLE tokens (
      id text COLLATE "C" PRIMARY KEY,
      subject text COLLATE "C" NOT NULL,
      name text NOT NULL,
      roles jsonb NOT NULL,
      state text NOT NULL,
      created_by text NOT NULL,
      created_at_ms bigint NOT NULL,
      expires_at_ms bigint NOT NULL)`,
    "CREATE INDEX tokens_ends ON tokens (expires_at_ms)",
    `CREATE TABLE projects (
      id text COLLATE "C" PRIMARY KEY,
      name text NOT NULL,
      created_at_ms bigint NOT NULL)`,
    "INSERT INTO projects (id, name, created_at_ms) VALUES ('default', 'default', 0)",
    `CREATE TABLE sites (
      site text COLLATE "C" PRIMARY KEY,
      project text COLLATE "C" NOT NULL REFERENCES projects)`,
    `CREATE TABLE members (
      project text COLLATE "C" NOT NULL,
      subject text COLLATE "C" NOT NULL,
      name text NOT NULL,
      role text NOT NULL,
      added_by text NOT NULL,
      added_at_ms bigint NOT NULL,
      PRIMARY KEY (project, subject))`,
    "CREATE INDEX members_subject ON members (subject)",
    `CREATE TABLE invitations (
      id text COLLATE "C" PRIMARY KEY,
      secret_digest text NOT NULL,
      project text COLLATE "C" NOT NULL,
      role text NOT NULL,
      state text NOT NULL,
      invited_by text NOT NULL,
      accepted_by text,
      created_at_ms bigint NOT NULL,
      expires_at_ms bigint NOT NULL)`,
    "ALTER TABLE models ADD COLUMN project text NOT NULL DEFAULT 'default'",
  ],
  [
    `CREATE TABLE packages (
      id text COLLATE "C" PRIMARY KEY,
      project text NOT NULL,
      digest text NOT NULL,
      bytes bigint NOT NULL,
      signer text NOT NULL,
      statement text NOT NULL,
      uploaded_at_ms bigint NOT NULL)`,
  ],
];

/** The schema that this build writes. */
export const SCHEMA_VERSION = migrations.length;

/**
 * Brings the schema to this build's version, each step in a transaction of its own. A schema that
 * a newer build wrote is refused: `store-version`.
 *
 * @param to an older version, as a test of what comes after it needs
 */
export async function migrate(sql: Sql, to: number = SCHEMA_VERSION): Promise<void> {
  await sql.write("durable", (query) =>
    query(`CREATE TABLE IF NOT EXISTS schema_versions (
      version integer PRIMARY KEY,
      applied_at timestamptz NOT NULL DEFAULT now())`),
  );
  const [row] = await sql.read("SELECT coalesce(max(version), 0) AS version FROM schema_versions");
  const found = Number(row?.version);
  if (found > SCHEMA_VERSION)
    throw new TributaryError(
      "store-version",
      `the store has schema version ${found}; this build knows up to ${SCHEMA_VERSION}: use the build that wrote it, or a newer one`,
    );
  for (const [index, statements] of migrations.slice(found, to).entries()) {
    await sql.write("durable", async (query) => {
      for (const statement of statements) await query(statement);
      await query("INSERT INTO schema_versions (version) VALUES ($1)", [found + index + 1]);
    });
  }
}
