import { isSecret, secretDigest } from "@tributary/proto/identity/claim.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { AccessStore } from "../store/access.js";
import type { InvitationRow, MemberRow, ProjectRow, SiteRow } from "../store/access-rows.js";
import type { Page, Slice } from "../store/store.js";
import { accessLimits } from "./limits.js";
import { type Caller, DEFAULT_PROJECT, FLEET, mayGive, type Role } from "./permissions.js";
import type { AccessPorts } from "./ports.js";

export type InvitationView = Omit<InvitationRow, "secretDigest">;

export type ProjectCode =
  | "unknown-project"
  | "project-exists"
  | "unknown-member"
  | "member-exists"
  | "unknown-invitation"
  | "invitation-ended"
  | "forbidden"
  | "busy";

/** Workspaces: a project has its own sites, sessions and models, and its members. */
export type Projects = {
  /** The project of a site; `default` where it was given to none. */
  ofSite(site: string): string;
  /** Undefined for a model that is not there. */
  ofModel(model: string): Promise<string | undefined>;
  listModels: AccessStore["listModels"];
  exists(id: string): Promise<boolean>;
  list(page: Page<string>): Promise<Slice<ProjectRow, string>>;
  create(id: string, name: string): Promise<Verdict<{ readonly project: ProjectRow }, ProjectCode>>;
  sitesOf(project: string): readonly string[];
  /** Moves a site; rounds that open from now on see it there. */
  giveSite(
    project: string,
    site: string,
  ): Promise<Verdict<{ readonly site: SiteRow }, ProjectCode>>;
  members(project: string, page: Page<string>): Promise<Slice<MemberRow, string>>;
  removeMember(
    project: string,
    subject: string,
    by: Caller,
  ): Promise<Verdict<{ readonly member: MemberRow }, ProjectCode>>;
  invitations(project: string, page: Page<string>): Promise<Slice<InvitationView, string>>;
  /** Makes an invitation; its text, which holds the secret, is not kept. `*` is all projects. */
  invite(
    to: { readonly project: string; readonly role: Role; readonly lifeMs: number },
    by: Caller,
  ): Promise<Verdict<{ readonly invitation: InvitationView; readonly text: string }, ProjectCode>>;
  revokeInvitation(
    project: string,
    id: string,
  ): Promise<Verdict<{ readonly invitation: InvitationView }, ProjectCode>>;
  /** Makes who shows an invitation a member. */
  accept(text: string, by: Caller): Promise<Verdict<{ readonly member: MemberRow }, ProjectCode>>;
};

export async function createProjects(
  ports: Pick<AccessPorts, "store" | "clock" | "random">,
): Promise<Projects> {
  const { store, clock } = ports;
  // One cloud process has the store, so this is all there is.
  const sites = new Map((await store.sites()).map(({ site, project }) => [site, project]));
  return {
    ofSite: (site) => sites.get(site) ?? DEFAULT_PROJECT,
    ofModel: (model) => store.projectOfModel(model),
    listModels: (filter, page) => store.listModels(filter, page),
    exists: async (id) => (await store.project(id)) !== undefined,
    list: (page) => store.listProjects(page),
    create: (id, name) =>
      store.change(async (rows) => {
        if ((await rows.countProjects()) >= accessLimits.projects)
          return refuse("busy", `there are ${accessLimits.projects} projects already`);
        const project = { id, name, createdAtMs: clock.nowMs() };
        return (await rows.addProject(project))
          ? { ok: true, project }
          : refuse("project-exists", `a project ${id} exists`);
      }),
    sitesOf: (project) => [...sites].flatMap(([site, of]) => (of === project ? [site] : [])).sort(),
    async giveSite(project, site) {
      const given = await store.change(async (rows) => {
        if ((await rows.project(project)) === undefined) return unknownProject(project);
        await rows.saveSite({ site, project });
        return { ok: true as const, site: { site, project } };
      });
      if (given.ok) sites.set(site, project);
      return given;
    },
    ...membersOf(ports),
  };
}

function unknownProject(id: string) {
  return refuse("unknown-project", `no project ${id}`);
}

type Members = Pick<
  Projects,
  "members" | "removeMember" | "invitations" | "invite" | "revokeInvitation" | "accept"
>;

function membersOf({
  store,
  clock,
  random,
}: Pick<AccessPorts, "store" | "clock" | "random">): Members {
  return {
    members: (project, page) => store.listMembers(project, page),
    removeMember: (project, subject, by) =>
      store.change(async (rows) => {
        const member = await rows.member(project, subject);
        if (member === undefined)
          return refuse("unknown-member", `${subject} is no member of ${project}`);
        if (subject !== by.subject && !mayGive(by, member, subject))
          return refuse("forbidden", `you may not take ${member.role} of ${project}`);
        await rows.removeMember(project, subject);
        return { ok: true, member };
      }),
    async invitations(project, page) {
      const { items, next } = await store.listInvitations(project, page);
      return { items: items.map(viewInvitation), next };
    },
    async invite({ project, role, lifeMs }, by) {
      const id = random.id(12);
      const secret = Buffer.from(random.bytes(32)).toString("base64url");
      const nowMs = clock.nowMs();
      // To nobody yet: who accepts is looked at then.
      if (!mayGive(by, { project, role }, ""))
        return refuse("forbidden", `you may not give ${role} of ${project}`);
      return store.change(async (rows) => {
        if (project !== FLEET && (await rows.project(project)) === undefined)
          return unknownProject(project);
        const count = await rows.sweepInvitations(nowMs - accessLimits.endedKeptMs);
        if (count >= accessLimits.invitationsKept)
          return refuse("busy", `${count} invitations are on record`);
        const row: InvitationRow = {
          id,
          secretDigest: secretDigest(secret),
          project,
          role,
          state: "open",
          invitedBy: by.subject,
          acceptedBy: null,
          createdAtMs: nowMs,
          expiresAtMs: nowMs + lifeMs,
        };
        await rows.saveInvitation(row);
        return { ok: true, invitation: viewInvitation(row), text: `ti1.${id}.${secret}` };
      });
    },
    revokeInvitation: (project, id) =>
      store.change(async (rows) => {
        const row = await rows.invitation(id);
        if (row?.project !== project) return unknownInvitation();
        if (row.state === "accepted") return refuse("invitation-ended", "it was accepted");
        const invitation: InvitationRow = { ...row, state: "revoked" };
        await rows.saveInvitation(invitation);
        return { ok: true, invitation: viewInvitation(invitation) };
      }),
    accept: (text, by) =>
      store.change(async (rows) => {
        const [, id = "", secret = ""] = invitationPattern.exec(text) ?? [];
        const row = id === "" ? undefined : await rows.invitation(id);
        if (row === undefined || !isSecret(secret, row.secretDigest)) return unknownInvitation();
        const { project, role, invitedBy } = row;
        const nowMs = clock.nowMs();
        if (row.state !== "open" || nowMs >= row.expiresAtMs)
          return refuse("invitation-ended", "the invitation was used, taken back or has ended");
        const { subject, name } = by;
        if (subject === invitedBy && !mayGive(by, { project, role }, subject))
          return refuse("forbidden", "an invitation is for somebody else than who made it");
        if ((await rows.member(project, subject)) !== undefined)
          return refuse("member-exists", `${subject} is a member of ${project} already`);
        if ((await rows.countMembers(project)) >= accessLimits.membersOfProject)
          return refuse("busy", `${project} has too many members`);
        const member = { project, subject, name, role, addedBy: invitedBy, addedAtMs: nowMs };
        await rows.saveInvitation({ ...row, state: "accepted", acceptedBy: subject });
        await rows.saveMember(member);
        return { ok: true, member };
      }),
  };
}

const invitationPattern = /^ti1\.([a-z2-7]{12})\.([A-Za-z0-9_-]{43})$/;

function unknownInvitation() {
  // Of a wrong id and a wrong secret alike.
  return refuse("unknown-invitation", "there is no such invitation");
}

function viewInvitation({ secretDigest: _secret, ...invitation }: InvitationRow): InvitationView {
  return invitation;
}
