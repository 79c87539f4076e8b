import type { Kind } from "@tributary/proto/identity/names.js";
import type {
  CertificateRow,
  ClaimRow,
  DenialRow,
  EnrolmentRow,
  IdentityRow,
} from "./identity-rows.js";
import { askFor, sliceOf } from "./slice.js";
import type { Query, Sql } from "./sql.js";
import type { Page, Slice } from "./store.js";
import { columnsOf, fromRow, insertRows, replacing, type Table } from "./tables.js";

/** Claims, enrolments, identities, certificates and denials, as one transaction sees them. */
export type IdentityRows = {
  claim(id: string): Promise<ClaimRow | undefined>;
  /** Adds or replaces. */
  saveClaim(claim: ClaimRow): Promise<void>;
  /** Removes claims that ended before a time, with their enrolments; resolves to how many are left. */
  sweepClaims(endedBeforeMs: number): Promise<number>;
  enrolment(id: string): Promise<EnrolmentRow | undefined>;
  enrolmentOf(claim: string, thumbprint: string): Promise<EnrolmentRow | undefined>;
  /** Adds or replaces. */
  saveEnrolment(enrolment: EnrolmentRow): Promise<void>;
  identity(kind: Kind, name: string): Promise<IdentityRow | undefined>;
  /** Adds or replaces. */
  saveIdentity(identity: IdentityRow): Promise<void>;
  certificate(serial: string): Promise<CertificateRow | undefined>;
  newestCertificate(kind: Kind, name: string): Promise<CertificateRow | undefined>;
  /** Adds one, and removes those of the identity that ended before a time. */
  addCertificate(certificate: CertificateRow, endedBeforeMs: number): Promise<void>;
  denial(kind: Kind, name: string): Promise<DenialRow | undefined>;
  /** By kind and name. */
  denials(): Promise<readonly DenialRow[]>;
  /** Adds or replaces, and removes others that voided only what was given before a time, in seconds. */
  saveDenial(denial: DenialRow, voidBefore: number): Promise<void>;
};

/** Who may enrol, and who did. */
export type IdentityStore = {
  /** Runs a durable transaction; one at a time, and nothing changes when the body throws. */
  change<T>(body: (rows: IdentityRows) => Promise<T>): Promise<T>;
  claim(id: string): Promise<ClaimRow | undefined>;
  denials(): Promise<readonly DenialRow[]>;
  /** Somebody enrolled, with the certificates that are on record, whatever key each is for. */
  holder(
    kind: Kind,
    name: string,
  ): Promise<
    { readonly identity: IdentityRow; readonly certificates: readonly CertificateRow[] } | undefined
  >;
  /** By id. */
  listClaims(page: Page<string>): Promise<Slice<ClaimRow, string>>;
  /** By id; of one state, where one is given. */
  listEnrolments(
    filter: { readonly state?: EnrolmentRow["state"] | undefined },
    page: Page<string>,
  ): Promise<Slice<EnrolmentRow, string>>;
  /** By kind and name. */
  listIdentities(
    page: Page<readonly [Kind, string]>,
  ): Promise<Slice<IdentityRow, readonly [Kind, string]>>;
};

export function identityQueries({ read, write }: Sql): IdentityStore {
  const looking = rowsOf(read);
  return {
    change: (body) => write("durable", (query) => body(rowsOf(query))),
    claim: looking.claim,
    denials: looking.denials,
    async holder(kind, name) {
      const identity = await looking.identity(kind, name);
      if (identity === undefined) return undefined;
      const rows = await read(
        `SELECT ${columnsOf("certificates")} FROM certificates WHERE kind = $1 AND name = $2`,
        [kind, name],
      );
      return { identity, certificates: rows.map(fromRow<CertificateRow>) };
    },
    async listClaims({ after, limit }) {
      const rows = await read(
        `SELECT ${columnsOf("claims")} FROM claims WHERE $1::text IS NULL OR id > $1
         ORDER BY id LIMIT $2`,
        [after ?? null, askFor(limit)],
      );
      return sliceOf(rows.map(fromRow<ClaimRow>), limit, ({ id }) => id, same);
    },
    async listEnrolments({ state }, { after, limit }) {
      const rows = await read(
        `SELECT ${columnsOf("enrolments")} FROM enrolments
         WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR id > $2)
         ORDER BY id LIMIT $3`,
        [state ?? null, after ?? null, askFor(limit)],
      );
      return sliceOf(rows.map(fromRow<EnrolmentRow>), limit, ({ id }) => id, same);
    },
    async listIdentities({ after, limit }) {
      const rows = await read(
        `SELECT ${columnsOf("identities")} FROM identities
         WHERE $1::text IS NULL OR (kind, name) > ($1, $2::text)
         ORDER BY kind, name LIMIT $3`,
        [after?.[0] ?? null, after?.[1] ?? null, askFor(limit)],
      );
      const keyOf = ({ kind, name }: IdentityRow) => [kind, name] as const;
      return sliceOf(rows.map(fromRow<IdentityRow>), limit, keyOf, same);
    },
  };
}

const same = <T>(row: T): T => row;

function rowsOf(query: Query): IdentityRows {
  const one = async <T>(table: Table, where: string, values: readonly string[]) => {
    const statement = `SELECT ${columnsOf(table)} FROM ${table} WHERE ${where} LIMIT 1`;
    const [row] = await query(statement, values);
    return row === undefined ? undefined : fromRow<T>(row);
  };
  const save = async (table: Table, key: string, row: object) => {
    await insertRows(query, table, [row], replacing(table, key, []));
  };
  return {
    claim: (id) => one("claims", "id = $1", [id]),
    saveClaim: (claim) => save("claims", "id", claim),
    async sweepClaims(endedBeforeMs) {
      await query("DELETE FROM claims WHERE expires_at_ms < $1", [endedBeforeMs]);
      const [row] = await query("SELECT count(*)::integer AS count FROM claims");
      return Number(row?.count);
    },
    enrolment: (id) => one("enrolments", "id = $1", [id]),
    enrolmentOf: (claim, thumbprint) =>
      one("enrolments", "claim = $1 AND thumbprint = $2", [claim, thumbprint]),
    saveEnrolment: (enrolment) => save("enrolments", "id", enrolment),
    identity: (kind, name) => one("identities", "kind = $1 AND name = $2", [kind, name]),
    saveIdentity: (identity) => save("identities", "kind, name", identity),
    certificate: (serial) => one("certificates", "serial = $1", [serial]),
    newestCertificate: (kind, name) =>
      one("certificates", "kind = $1 AND name = $2 ORDER BY issued_at_ms DESC, not_after_ms DESC", [
        kind,
        name,
      ]),
    async addCertificate(certificate, endedBeforeMs) {
      const { kind, name } = certificate;
      await query("DELETE FROM certificates WHERE kind = $1 AND name = $2 AND not_after_ms < $3", [
        kind,
        name,
        endedBeforeMs,
      ]);
      await insertRows(query, "certificates", [certificate]);
    },
    denial: (kind, name) => one("denials", "kind = $1 AND name = $2", [kind, name]),
    async denials() {
      const rows = await query(`SELECT ${columnsOf("denials")} FROM denials ORDER BY kind, name`);
      return rows.map(fromRow<DenialRow>);
    },
    async saveDenial(denial, voidBefore) {
      await save("denials", "kind, name", denial);
      // The newest keeps the sequence that the list has.
      await query("DELETE FROM denials WHERE before < $1 AND sequence < $2", [
        voidBefore,
        denial.sequence,
      ]);
    },
  };
}
