import { idSchema } from "@tributary/proto/wire/ids.js";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import { filteredSlice } from "../access/filtered-slice.js";
import { accessLimits } from "../access/limits.js";
import { projectsWith } from "../access/permissions.js";
import { nameSchema, projectOrAllSchema, refused, roleSchema } from "./access.js";
import { pageQuery, sliceSchema, toAnswer } from "./cursor.js";
import type { Api, ApiPorts } from "./ports.js";
import { problem, problemResponses, sendProblem } from "./problem.js";

const timeMs = z.number().describe("milliseconds since 1970");
const projectSchema = z.object({ id: z.string(), name: z.string(), createdAtMs: timeMs });
const siteSchema = z.object({ site: z.string(), project: z.string() });
/** `oidc:` and whatever its provider calls somebody, or `user:` and an id. */
const subjectSchema = z
  .string()
  .min(1)
  .max(accessLimits.subjectChars + "oidc:".length);
const memberSchema = z.object({
  project: z.string(),
  subject: z.string(),
  name: z.string(),
  role: roleSchema,
  addedBy: z.string(),
  addedAtMs: timeMs,
});
const invitationSchema = z.object({
  id: z.string(),
  project: z.string(),
  role: roleSchema,
  state: z.enum(["open", "accepted", "revoked"]),
  invitedBy: z.string(),
  acceptedBy: z.string().nullable(),
  createdAtMs: timeMs,
  expiresAtMs: timeMs,
});
const one = z.object({ id: idSchema });
const oneOrAll = z.object({ id: projectOrAllSchema });

/** Workspaces, their sites and their members. */
export function projectRoutes(api: Api, ports: ApiPorts): void {
  const { projects } = ports.access;

  api.get(
    "/projects",
    {
      config: { permission: "anybody" },
      schema: {
        tags: ["projects"],
        summary: "Projects in which one has a role, by id",
        querystring: z.strictObject(pageQuery(idSchema)),
        response: { 200: sliceSchema(projectSchema), ...problemResponses },
      },
    },
    async ({ caller: { grants }, query: { cursor, limit } }, reply) => {
      if (projects === undefined) return noProjects(reply);
      const mine = new Set(grants.map(({ project }) => project));
      const seen = ({ id }: { readonly id: string }) => mine.has("*") || mine.has(id);
      const page = { after: cursor, limit };
      return toAnswer(
        await filteredSlice(
          (rest) => projects.list(rest),
          seen,
          ({ id }) => id,
          page,
        ),
      );
    },
  );

  api.post(
    "/projects",
    {
      config: { permission: "access.manage", noted: ["id", "name"] },
      schema: {
        tags: ["projects"],
        summary: "Make a project",
        body: z.strictObject({ id: idSchema, name: nameSchema.optional() }),
        response: { 201: projectSchema, ...problemResponses },
      },
    },
    async ({ body: { id, name = id } }, reply) => {
      if (projects === undefined) return noProjects(reply);
      const made = await projects.create(id, name);
      return made.ok ? reply.code(201).send(made.project) : refused(reply, made);
    },
  );

  api.get(
    "/projects/:id/sites",
    {
      config: { permission: "fleet.read", scope: "project" },
      schema: {
        tags: ["projects"],
        summary: "Sites that were given to a project; `default` has all others besides",
        params: one,
        response: { 200: z.object({ items: z.array(z.string()).readonly() }), ...problemResponses },
      },
    },
    async ({ params: { id } }, reply) =>
      projects === undefined ? noProjects(reply) : { items: projects.sitesOf(id) },
  );

  api.post(
    "/projects/:id/sites",
    {
      config: { permission: "access.manage", noted: ["site"] },
      schema: {
        tags: ["projects"],
        summary: "Give a site to a project, which takes it from the one before",
        params: one,
        body: z.strictObject({ site: idSchema }),
        response: { 200: siteSchema, ...problemResponses },
      },
    },
    async ({ params: { id }, body: { site } }, reply) => {
      if (projects === undefined) return noProjects(reply);
      const given = await projects.giveSite(id, site);
      return given.ok ? given.site : refused(reply, given);
    },
  );
  memberRoutes(api, ports);
  invitationRoutes(api, ports);
}

function memberRoutes(api: Api, { access: { projects } }: ApiPorts): void {
  api.get(
    "/projects/:id/members",
    {
      config: { permission: "access.read", scope: "project" },
      schema: {
        tags: ["projects"],
        summary: "Members of a project by subject; of `*`, those of all projects",
        params: oneOrAll,
        querystring: z.strictObject(pageQuery(subjectSchema)),
        response: { 200: sliceSchema(memberSchema), ...problemResponses },
      },
    },
    async ({ params: { id }, query: { cursor, limit } }, reply) =>
      projects === undefined
        ? noProjects(reply)
        : toAnswer(await projects.members(id, { after: cursor, limit })),
  );

  api.post(
    "/projects/:id/members/remove",
    {
      config: { permission: "anybody", scope: "project", noted: ["subject"] },
      schema: {
        tags: ["projects"],
        summary: "Take a member's role: one's own, or one that one could give",
        params: oneOrAll,
        body: z.strictObject({ subject: subjectSchema }),
        response: { 200: memberSchema, ...problemResponses },
      },
    },
    async ({ params: { id }, body: { subject }, caller }, reply) => {
      if (projects === undefined) return noProjects(reply);
      const seen = projectsWith(caller, "access.manage");
      // Who may not see members learns of none.
      if (subject !== caller.subject && !(seen?.includes(id) ?? true))
        return refused(reply, { code: "forbidden", message: "this is for who manages access" });
      const removed = await projects.removeMember(id, subject, caller);
      return removed.ok ? removed.member : refused(reply, removed);
    },
  );
}

function invitationRoutes(api: Api, { access: { projects } }: ApiPorts): void {
  api.get(
    "/projects/:id/invitations",
    {
      config: { permission: "access.read", scope: "project" },
      schema: {
        tags: ["projects"],
        summary: "Invitations by id, without their secrets",
        params: oneOrAll,
        querystring: z.strictObject(pageQuery(idSchema)),
        response: { 200: sliceSchema(invitationSchema), ...problemResponses },
      },
    },
    async ({ params: { id }, query: { cursor, limit } }, reply) =>
      projects === undefined
        ? noProjects(reply)
        : toAnswer(await projects.invitations(id, { after: cursor, limit })),
  );

  api.post(
    "/projects/:id/invitations",
    {
      config: { permission: "access.manage", scope: "project", noted: ["role"] },
      schema: {
        tags: ["projects"],
        summary: "Invite somebody; the invitation is in this answer and nowhere else",
        params: oneOrAll,
        body: z.strictObject({
          role: roleSchema,
          lifeMs: z
            .number()
            .int()
            .min(1_000)
            .max(accessLimits.invitationMsMax)
            .default(accessLimits.invitationMs),
        }),
        response: {
          201: z.object({ invitation: invitationSchema, text: z.string() }),
          ...problemResponses,
        },
      },
    },
    async ({ params: { id: project }, body, caller }, reply) => {
      if (projects === undefined) return noProjects(reply);
      const made = await projects.invite({ project, ...body }, caller);
      if (!made.ok) return refused(reply, made);
      const { invitation, text } = made;
      return reply.code(201).header("cache-control", "no-store").send({ invitation, text });
    },
  );

  api.post(
    "/projects/:id/invitations/:invitation/revoke",
    {
      config: { permission: "access.manage", scope: "project" },
      schema: {
        tags: ["projects"],
        summary: "Take an invitation back that nobody accepted yet",
        params: oneOrAll.extend({ invitation: idSchema }),
        response: { 200: invitationSchema, ...problemResponses },
      },
    },
    async ({ params: { id, invitation } }, reply) => {
      if (projects === undefined) return noProjects(reply);
      const revoked = await projects.revokeInvitation(id, invitation);
      return revoked.ok ? revoked.invitation : refused(reply, revoked);
    },
  );

  api.post(
    "/invitations/accept",
    {
      config: { permission: "anybody" },
      schema: {
        tags: ["projects"],
        summary: "Become a member with an invitation",
        body: z.strictObject({ invitation: z.string().max(128) }),
        response: { 200: memberSchema, ...problemResponses },
      },
    },
    async ({ body: { invitation }, caller }, reply) => {
      if (projects === undefined) return noProjects(reply);
      const accepted = await projects.accept(invitation, caller);
      return accepted.ok ? accepted.member : refused(reply, accepted);
    },
  );
}

function noProjects(reply: FastifyReply): FastifyReply {
  return sendProblem(reply, problem("no-access", "this cloud's store keeps no projects"));
}
