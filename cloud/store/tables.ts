import type { Query, SqlRow } from "./sql.js";

type ColumnType = "text" | "integer" | "bigint" | "boolean" | "jsonb" | "bytea";

/** Columns as a row's fields name them; the column's own name is the same in snake case. */
type Columns = Readonly<Record<string, ColumnType>>;

const text = "text";
const integer = "integer";
const bigint = "bigint";
const boolean = "boolean";
const jsonb = "jsonb";
const bytea = "bytea";

export const tables = {
  sessions: {
    id: text,
    params: jsonb,
    state: text,
    reason: text,
    head: text,
    nextRound: integer,
    failedRounds: integer,
    evaluated: text,
    createdAtMs: bigint,
    updatedAtMs: bigint,
  },
  rounds: {
    id: text,
    session: text,
    number: integer,
    task: text,
    base: text,
    state: text,
    rule: text,
    model: text,
    sites: integer,
    roster: integer,
    partials: integer,
    merged: integer,
    kept: integer,
    expired: integer,
    fromEarlier: integer,
    openedAtMs: bigint,
    closedAtMs: bigint,
    plan: bytea,
    rosters: jsonb,
    siteRosters: jsonb,
    incarnations: jsonb,
  },
  models: {
    id: text,
    digest: text,
    bytes: bigint,
    parameters: bigint,
    parent: text,
    version: integer,
    session: text,
    round: text,
    state: text,
    weight: bigint,
    contributors: integer,
    metrics: jsonb,
    sumDigest: text,
    groups: jsonb,
    fractionBits: jsonb,
    createdAtMs: bigint,
  },
  contributions: {
    session: text,
    round: integer,
    stretch: integer,
    device: text,
    gateway: text,
    samples: bigint,
    updates: integer,
    outcome: text,
    rule: text,
    model: text,
  },
  partials: {
    gateway: text,
    incarnation: text,
    sequence: bigint,
    digest: text,
    session: text,
    round: text,
    site: text,
    base: text,
    bytes: bigint,
    weight: bigint,
    contributors: integer,
    outcome: text,
    rule: text,
    retained: boolean,
    receivedAtMs: bigint,
  },
  evaluations: {
    round: text,
    session: text,
    model: text,
    against: text,
    passed: boolean,
    weight: bigint,
    contributors: integer,
    metrics: jsonb,
    atMs: bigint,
  },
  gateways: {
    id: text,
    site: text,
    incarnation: text,
    softwareVersion: text,
    attached: boolean,
    connectedDevices: integer,
    outboxPartials: integer,
    outboxBytes: bigint,
    oldestAgeMs: bigint,
    freeDiskBytes: bigint,
    refusals: jsonb,
    duplicatesDropped: bigint,
    budgetBytes: bigint,
    roundTripMs: bigint,
    clockOffsetMs: bigint,
    classes: jsonb,
    firstSeenMs: bigint,
    lastSeenMs: bigint,
  },
  devices: {
    id: text,
    site: text,
    gateway: text,
    via: text,
    sdk: text,
    attributes: jsonb,
    connected: boolean,
    firstSeenMs: bigint,
    lastSeenMs: bigint,
  },
  events: { atMs: bigint, level: text, name: text, fields: jsonb },
  samples: { gateway: text, atMs: bigint, fields: jsonb },
  claims: {
    id: text,
    secretDigest: text,
    kind: text,
    name: text,
    site: text,
    uses: integer,
    used: integer,
    approval: boolean,
    state: text,
    createdAtMs: bigint,
    expiresAtMs: bigint,
  },
  enrolments: {
    id: text,
    claim: text,
    thumbprint: text,
    kind: text,
    name: text,
    site: text,
    state: text,
    serial: text,
    requestedAtMs: bigint,
    decidedAtMs: bigint,
  },
  identities: {
    kind: text,
    name: text,
    site: text,
    thumbprint: text,
    jwk: jsonb,
    state: text,
    claim: text,
    enrolledAtMs: bigint,
    changedAtMs: bigint,
  },
  certificates: {
    serial: text,
    kind: text,
    name: text,
    site: text,
    thumbprint: text,
    certificate: text,
    notBeforeMs: bigint,
    notAfterMs: bigint,
    issuedAtMs: bigint,
  },
  denials: { kind: text, name: text, before: bigint, sequence: bigint, atMs: bigint },
  audit: {
    sequence: bigint,
    atMs: bigint,
    actor: text,
    action: text,
    target: text,
    project: text,
    outcome: text,
    detail: jsonb,
    prev: text,
    hash: text,
  },
  tokens: {
    id: text,
    subject: text,
    name: text,
    roles: jsonb,
    state: text,
    createdBy: text,
    createdAtMs: bigint,
    expiresAtMs: bigint,
  },
  projects: { id: text, name: text, createdAtMs: bigint },
  sites: { site: text, project: text },
  members: {
    project: text,
    subject: text,
    name: text,
    role: text,
    addedBy: text,
    addedAtMs: bigint,
  },
  invitations: {
    id: text,
    secretDigest: text,
    project: text,
    role: text,
    state: text,
    invitedBy: text,
    acceptedBy: text,
    createdAtMs: bigint,
    expiresAtMs: bigint,
  },
  packages: {
    id: text,
    project: text,
    digest: text,
    bytes: bigint,
    signer: text,
    statement: text,
    uploadedAtMs: bigint,
  },
} as const satisfies Record<string, Columns>;

export type Table = keyof typeof tables;

function snake(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** The select list of a table: each column under its field's name, without those of `leaveOut`. */
export function columnsOf(table: Table, leaveOut: readonly string[] = []): string {
  return Object.keys(tables[table])
    .filter((field) => !leaveOut.includes(field))
    .map((field) => `${snake(field)} AS "${field}"`)
    .join(", ");
}

/**
 * Inserts rows in one statement, whatever their number: they travel as one JSON parameter. Resolves
 * to the number inserted, which `onConflict` may make smaller.
 */
export async function insertRows(
  query: Query,
  table: Table,
  rows: readonly object[],
  onConflict = "",
): Promise<number> {
  if (rows.length === 0) return 0;
  const columns = Object.entries(tables[table]).map(([field, type]) => ({
    name: snake(field),
    field,
    type,
  }));
  const names = columns.map(({ name }) => name).join(", ");
  const typed = columns.map(({ field, type }) => `"${field}" ${type}`).join(", ");
  const values = columns.map(({ field }) => `"${field}"`).join(", ");
  const inserted = await query(
    `INSERT INTO ${table} (${names})
     SELECT ${values} FROM jsonb_to_recordset($1::jsonb) AS given(${typed}) ${onConflict}
     RETURNING 1`,
    [toJson(rows)],
  );
  return inserted.length;
}

/** `ON CONFLICT` that replaces every field of a row but those of `keep`. */
export function replacing(table: Table, key: string, keep: readonly string[]): string {
  const changes = Object.keys(tables[table])
    .filter((field) => field !== key && !keep.includes(field))
    .map((field) => `${snake(field)} = excluded.${snake(field)}`);
  return `ON CONFLICT (${key}) DO UPDATE SET ${changes.join(", ")}`;
}

/** What PostgreSQL's text and jsonb cannot hold: NUL, and half of a surrogate pair. */
const UNSTORABLE = /[\0\p{Cs}]/gu;

/**
 * JSON for a jsonb parameter. What text there cannot hold becomes U+FFFD, as in any decoder: such
 * text comes from outside (attributes, versions) and is only shown. Bytes become bytea's hex form.
 */
export function toJson(value: unknown): string {
  return JSON.stringify(value, function (this: Record<string, unknown>, key, given: unknown) {
    // A Buffer turns itself into an object before a replacer sees it.
    const own = this[key];
    const part = own instanceof Uint8Array ? own : given;
    if (typeof part === "string") return storable(part);
    if (part instanceof Uint8Array) return `\\x${Buffer.from(part).toString("hex")}`;
    if (typeof part !== "object" || part === null || Array.isArray(part)) return part;
    const names = Object.keys(part);
    if (names.every((name) => storable(name) === name)) return part;
    return Object.fromEntries(Object.entries(part).map(([name, own]) => [storable(name), own]));
  });
}

export function storable(text: string): string {
  return text.replace(UNSTORABLE, "\ufffd");
}

/** A driver's row as the rest knows it: bytes as a plain Uint8Array. */
export function fromRow<T>(row: SqlRow): T {
  const entries = Object.entries(row).map(([field, value]) => [
    field,
    value instanceof Uint8Array ? new Uint8Array(value) : value,
  ]);
  return Object.fromEntries(entries) as T;
}
