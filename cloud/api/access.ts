import { identityLimits } from "@tributary/proto/identity/limits.js";
import { roles } from "@tributary/proto/identity/tokens.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import { accessLimits } from "../access/limits.js";
import { pageQuery, sliceSchema, toAnswer } from "./cursor.js";
import type { Api, ApiPorts } from "./ports.js";
import { isProblemCode, problem, problemResponses, sendProblem } from "./problem.js";

const timeMs = z.number().describe("milliseconds since 1970");
export const nameSchema = z.string().min(1).max(identityLimits.displayNameChars);
export const roleSchema = z.enum(roles);
export const projectOrAllSchema = z
  .union([idSchema, z.literal("*")])
  .describe("a project, or * for all and for what belongs to none");
const grantSchema = z.object({ project: projectOrAllSchema, role: roleSchema });

const tokenSchema = z.object({
  id: z.string(),
  subject: z.string(),
  name: z.string(),
  roles: z.array(grantSchema).readonly(),
  state: z.enum(["active", "revoked"]),
  createdBy: z.string(),
  createdAtMs: timeMs,
  expiresAtMs: timeMs,
});

/** Who asks, and the tokens with which people and programs ask. */
export function accessRoutes(api: Api, { access: { secured } }: ApiPorts): void {
  api.get(
    "/whoami",
    {
      config: { permission: "anybody" },
      schema: {
        tags: ["access"],
        summary: "Who the token speaks for, and what for",
        response: {
          200: z.object({
            subject: z.string(),
            name: z.string(),
            roles: z.array(grantSchema).readonly(),
          }),
          ...problemResponses,
        },
      },
    },
    async ({ caller: { subject, name, grants } }) => ({ subject, name, roles: grants }),
  );

  api.post(
    "/tokens",
    {
      config: { permission: "access.manage", scope: "any", noted: ["name", "subject", "roles"] },
      schema: {
        tags: ["access"],
        summary: "Make a token; its text is in this answer and nowhere else",
        body: z.strictObject({
          name: nameSchema,
          subject: idSchema.optional(),
          roles: z.array(grantSchema).max(identityLimits.roles),
          lifeMs: z
            .number()
            .int()
            .min(1_000)
            .max(accessLimits.tokenMsMax)
            .default(accessLimits.tokenMs),
        }),
        response: { 201: z.object({ token: tokenSchema, text: z.string() }), ...problemResponses },
      },
    },
    async ({ body, caller }, reply) => {
      if (secured === undefined) return noAccess(reply);
      const made = await secured.tokens.create(body, caller);
      if (!made.ok) return refused(reply, made);
      const { token, text } = made;
      return reply.code(201).header("cache-control", "no-store").send({ token, text });
    },
  );

  api.get(
    "/tokens",
    {
      config: { permission: "anybody" },
      schema: {
        tags: ["access"],
        summary: "Tokens by id, without their text: one's own, and those whose access one may see",
        querystring: z.strictObject(pageQuery(idSchema)),
        response: { 200: sliceSchema(tokenSchema), ...problemResponses },
      },
    },
    async ({ caller, query: { cursor, limit } }, reply) =>
      secured === undefined
        ? noAccess(reply)
        : toAnswer(await secured.tokens.list(caller, { after: cursor, limit })),
  );

  api.post(
    "/tokens/:id/revoke",
    {
      config: { permission: "anybody" },
      schema: {
        tags: ["access"],
        summary: "Void a token at once: one's own, or one whose roles one could give",
        params: z.object({ id: idSchema }),
        response: { 200: tokenSchema, ...problemResponses },
      },
    },
    async ({ params: { id }, caller }, reply) => {
      if (secured === undefined) return noAccess(reply);
      const revoked = await secured.tokens.revoke(id, caller);
      return revoked.ok ? revoked.token : refused(reply, revoked);
    },
  );
}

function noAccess(reply: FastifyReply): FastifyReply {
  const detail =
    "this cloud asks nobody for a token; make an authority with `tributary cloud init`, and start it again";
  return sendProblem(reply, problem("no-access", detail));
}

export function refused(
  reply: FastifyReply,
  { code, message }: { readonly code: string; readonly message: string },
): FastifyReply {
  return sendProblem(reply, problem(isProblemCode(code) ? code : "invalid-request", message));
}
