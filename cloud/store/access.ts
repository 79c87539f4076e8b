import type { Grant } from "../access/permissions.js";
import type { InvitationRow, MemberRow, ProjectRow, SiteRow, TokenRow } from "./access-rows.js";
import { selectModels } from "./models.js";
import type { ModelRow, ModelState } from "./rows.js";
import { askFor, sliceOf } from "./slice.js";
import type { Query, Sql } from "./sql.js";
import type { Page, Slice } from "./store.js";
import { columnsOf, fromRow, insertRows, replacing, type Table } from "./tables.js";

/** Tokens, projects and their members, as one transaction sees them. */
export type AccessRows = {
  token(id: string): Promise<TokenRow | undefined>;
  /** Adds or replaces. */
  saveToken(token: TokenRow): Promise<void>;
  /** The roles of all tokens of a subject that are good at a time. */
  rolesOf(subject: string, atMs: number): Promise<readonly Grant[]>;
  /** Removes tokens that ended before a time; resolves to how many are left. */
  sweepTokens(endedBeforeMs: number): Promise<number>;
  project(id: string): Promise<ProjectRow | undefined>;
  countProjects(): Promise<number>;
  /** Resolves to false and changes nothing when its id is taken. */
  addProject(project: ProjectRow): Promise<boolean>;
  /** Gives a site to a project. */
  saveSite(site: SiteRow): Promise<void>;
  member(project: string, subject: string): Promise<MemberRow | undefined>;
  /** What somebody is a member of, by project. */
  memberships(subject: string): Promise<readonly MemberRow[]>;
  countMembers(project: string): Promise<number>;
  /** Adds or replaces. */
  saveMember(member: MemberRow): Promise<void>;
  removeMember(project: string, subject: string): Promise<boolean>;
  invitation(id: string): Promise<InvitationRow | undefined>;
  /** Adds or replaces. */
  saveInvitation(invitation: InvitationRow): Promise<void>;
  /** Removes invitations that ended before a time; resolves to how many are left. */
  sweepInvitations(endedBeforeMs: number): Promise<number>;
};

/** Who may do what, and which project things belong to. */
export type AccessStore = {
  /** Runs a durable transaction; one at a time, and nothing changes when the body throws. */
  change<T>(body: (rows: AccessRows) => Promise<T>): Promise<T>;
  token(id: string): Promise<TokenRow | undefined>;
  /** By id. */
  listTokens(page: Page<string>): Promise<Slice<TokenRow, string>>;
  project(id: string): Promise<ProjectRow | undefined>;
  /** By id. */
  listProjects(page: Page<string>): Promise<Slice<ProjectRow, string>>;
  /** All sites that were given to a project. */
  sites(): Promise<readonly SiteRow[]>;
  /** What somebody is a member of. */
  memberships(subject: string): Promise<readonly MemberRow[]>;
  invitation(id: string): Promise<InvitationRow | undefined>;
  /** By subject. */
  listMembers(project: string, page: Page<string>): Promise<Slice<MemberRow, string>>;
  /** By id. */
  listInvitations(project: string, page: Page<string>): Promise<Slice<InvitationRow, string>>;
  /** The project of a model: its session's, or the one that it was imported into. */
  projectOfModel(model: string): Promise<string | undefined>;
  /** As the store's own list, of these projects alone. */
  listModels(
    filter: {
      readonly projects: readonly string[];
      readonly session?: string | undefined;
      readonly state?: ModelState | undefined;
    },
    page: Page<number>,
  ): Promise<Slice<ModelRow, number>>;
};

/** Of a row of models. */
const PROJECT_OF_MODEL =
  "coalesce((SELECT s.params->>'project' FROM sessions s WHERE s.id = models.session), models.project)";

export function accessQueries({ read, write }: Sql): AccessStore {
  const looking = rowsOf(read);
  const listBy = async <T>(
    table: Table,
    key: keyof T & string,
    where: string,
    page: Page<string>,
    of?: string,
  ) => {
    const rows = await read(
      `SELECT ${columnsOf(table)} FROM ${table}
       WHERE ($1::text IS NULL OR ${key} > $1) AND ${where} ORDER BY ${key} LIMIT $2`,
      [page.after ?? null, askFor(page.limit), ...(of === undefined ? [] : [of])],
    );
    return sliceOf(rows.map(fromRow<T>), page.limit, (row) => String(row[key]), same);
  };
  return {
    change: (body) => write("durable", (query) => body(rowsOf(query))),
    token: looking.token,
    listTokens: (page) => listBy<TokenRow>("tokens", "id", "true", page),
    project: looking.project,
    listProjects: (page) => listBy<ProjectRow>("projects", "id", "true", page),
    async sites() {
      const rows = await read(`SELECT ${columnsOf("sites")} FROM sites ORDER BY site`);
      return rows.map(fromRow<SiteRow>);
    },
    memberships: looking.memberships,
    invitation: looking.invitation,
    listMembers: (project, page) =>
      listBy<MemberRow>("members", "subject", "project = $3", page, project),
    listInvitations: (project, page) =>
      listBy<InvitationRow>("invitations", "id", "project = $3", page, project),
    async projectOfModel(model) {
      const [row] = await read(`SELECT ${PROJECT_OF_MODEL} AS project FROM models WHERE id = $1`, [
        model,
      ]);
      return row === undefined ? undefined : String(row.project);
    },
    listModels: ({ projects, ...filter }, page) =>
      selectModels(read, filter, page, {
        where: `${PROJECT_OF_MODEL} IN (SELECT jsonb_array_elements_text($5::jsonb))`,
        values: [JSON.stringify(projects)],
      }),
  };
}

const same = <T>(row: T): T => row;

function rowsOf(query: Query): AccessRows {
  const one = async <T>(table: Table, where: string, values: readonly string[]) => {
    const statement = `SELECT ${columnsOf(table)} FROM ${table} WHERE ${where}`;
    const [row] = await query(statement, values);
    return row === undefined ? undefined : fromRow<T>(row);
  };
  const save = async (table: Table, key: string, row: object) => {
    await insertRows(query, table, [row], replacing(table, key, []));
  };
  const count = async (table: Table, where: string, values: readonly string[] = []) => {
    const statement = `SELECT count(*)::integer AS count FROM ${table} WHERE ${where}`;
    return Number((await query(statement, values))[0]?.count);
  };
  const sweep = async (table: "tokens" | "invitations", endedBeforeMs: number) => {
    await query(`DELETE FROM ${table} WHERE expires_at_ms < $1`, [endedBeforeMs]);
    return count(table, "true");
  };
  return {
    token: (id) => one("tokens", "id = $1", [id]),
    saveToken: (token) => save("tokens", "id", token),
    async rolesOf(subject, atMs) {
      const statement = `SELECT ${columnsOf("tokens")} FROM tokens
         WHERE subject = $1 AND state = 'active' AND expires_at_ms > $2`;
      const rows = await query(statement, [subject, atMs]);
      return rows.map(fromRow<TokenRow>).flatMap(({ roles }) => roles);
    },
    sweepTokens: (endedBeforeMs) => sweep("tokens", endedBeforeMs),
    project: (id) => one("projects", "id = $1", [id]),
    countProjects: () => count("projects", "true"),
    addProject: async (project) =>
      (await insertRows(query, "projects", [project], "ON CONFLICT (id) DO NOTHING")) > 0,
    saveSite: (site) => save("sites", "site", site),
    member: (project, subject) =>
      one("members", "project = $1 AND subject = $2", [project, subject]),
    async memberships(subject) {
      const statement = `SELECT ${columnsOf("members")} FROM members WHERE subject = $1 ORDER BY project`;
      return (await query(statement, [subject])).map(fromRow<MemberRow>);
    },
    countMembers: (project) => count("members", "project = $1", [project]),
    saveMember: (member) => save("members", "project, subject", member),
    async removeMember(project, subject) {
      const statement = "DELETE FROM members WHERE project = $1 AND subject = $2 RETURNING 1";
      return (await query(statement, [project, subject])).length > 0;
    },
    invitation: (id) => one("invitations", "id = $1", [id]),
    saveInvitation: (invitation) => save("invitations", "id", invitation),
    sweepInvitations: (endedBeforeMs) => sweep("invitations", endedBeforeMs),
  };
}
