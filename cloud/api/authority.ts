import { namePatternSchema } from "@tributary/proto/identity/claim.js";
import type { Grant } from "@tributary/proto/identity/grant.js";
import { ed25519JwkSchema } from "@tributary/proto/identity/keys.js";
import { identityLimits } from "@tributary/proto/identity/limits.js";
import { kindSchema } from "@tributary/proto/identity/names.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import type { Authority } from "../authority/authority.js";
import { authorityLimits } from "../authority/limits.js";
import { pageQuery, sliceSchema, toAnswer } from "./cursor.js";
import type { Api, ApiPorts } from "./ports.js";
import { isProblemCode, problem, problemResponses, sendProblem } from "./problem.js";

const timeMs = z.number().describe("milliseconds since 1970");
const pem = z.string().describe("PEM");
const params = z.object({ id: idSchema });
const claimTextSchema = z.string().max(256);
const requestSchema = z
  .string()
  .max(identityLimits.requestChars)
  .describe("a signing request: a compact JWS");

const jwksSchema = z.object({
  keys: z.array(
    ed25519JwkSchema.extend({ kid: z.string(), alg: z.literal("EdDSA"), use: z.literal("sig") }),
  ),
});

const grantSchema = z.object({
  certificate: pem,
  serial: z.string(),
  notAfterMs: timeMs,
  chain: z.array(pem).readonly(),
  anchors: z.array(pem).readonly(),
  token: z.string().nullable().describe("a device's; null for others"),
  jwks: jwksSchema,
  denylist: z.string().describe("a compact JWS"),
});

const claimSchema = z.object({
  id: z.string(),
  kind: kindSchema,
  name: z.string(),
  site: z.string(),
  uses: z.number(),
  used: z.number(),
  approval: z.boolean(),
  state: z.enum(["open", "revoked"]),
  createdAtMs: timeMs,
  expiresAtMs: timeMs,
});

const stateSchema = z.enum(["pending", "accepted", "rejected", "done"]);
const enrolmentSchema = z.object({
  id: z.string(),
  claim: z.string(),
  kind: kindSchema,
  name: z.string(),
  site: z.string(),
  thumbprint: z.string(),
  state: stateSchema,
  serial: z.string().nullable(),
  requestedAtMs: timeMs,
  decidedAtMs: timeMs.nullable(),
});

const identitySchema = z.object({
  kind: kindSchema,
  name: z.string(),
  site: z.string(),
  thumbprint: z.string(),
  state: z.enum(["active", "revoked"]),
  claim: z.string(),
  enrolledAtMs: timeMs,
  changedAtMs: timeMs,
});

const denylistSchema = z.object({
  sequence: z.number(),
  issuedAtMs: timeMs,
  entries: z.array(z.object({ kind: kindSchema, name: z.string(), before: z.number() })).readonly(),
  text: z.string().describe("the list as it travels: a compact JWS"),
});

/** Who may join, who did, and who is shut out. Without an authority each answers `no-authority`. */
export function authorityRoutes(api: Api, { authority }: ApiPorts): void {
  enrolmentRoutes(api, authority);
  claimRoutes(api, authority);
  denylistRoutes(api, authority);
}

/** The public keys, at the address where others look for them; outside of the API's prefix. */
export function publicKeyRoute(api: Api, { authority }: ApiPorts): void {
  api.get(
    "/.well-known/jwks.json",
    {
      config: { permission: "public" },
      schema: {
        tags: ["identity"],
        summary: "The public keys that tokens and denylists are checked with (RFC 7517)",
        response: { 200: jwksSchema, ...problemResponses },
      },
    },
    async (_request, reply) => authority?.jwks() ?? none(reply),
  );
}

function enrolmentRoutes(api: Api, authority: Authority | undefined): void {
  api.post(
    "/enrolments",
    {
      config: { permission: "public" },
      schema: {
        tags: ["identity"],
        summary: "Enrol with a claim; the same key may ask again",
        body: z.strictObject({ claim: claimTextSchema, request: requestSchema }),
        response: { 201: grantSchema, ...problemResponses },
      },
    },
    async ({ ip, body: { claim, request } }, reply) => {
      if (authority === undefined) return none(reply);
      const enrolled = await authority.enrol(claim, request, ip);
      return enrolled.ok ? granted(reply, enrolled.grant) : refused(reply, enrolled);
    },
  );

  api.post(
    "/renewals",
    {
      config: { permission: "public" },
      schema: {
        tags: ["identity"],
        summary: "Get the next certificate, with the key of the one before",
        body: z.strictObject({ request: requestSchema }),
        response: { 201: grantSchema, ...problemResponses },
      },
    },
    async ({ ip, body: { request } }, reply) => {
      if (authority === undefined) return none(reply);
      const renewed = await authority.renew(request, ip);
      return renewed.ok ? granted(reply, renewed.grant) : refused(reply, renewed);
    },
  );

  api.get(
    "/enrolments",
    {
      config: { permission: "enrolment.read" },
      schema: {
        tags: ["identity"],
        summary: "Who asked to enrol, by id",
        querystring: z.strictObject({ state: stateSchema.optional(), ...pageQuery(idSchema) }),
        response: { 200: sliceSchema(enrolmentSchema), ...problemResponses },
      },
    },
    async ({ query: { state, cursor, limit } }, reply) =>
      authority === undefined
        ? none(reply)
        : toAnswer(await authority.listEnrolments({ state }, { after: cursor, limit })),
  );

  const decisions = { accept: "accepted", reject: "rejected" } as const;
  for (const action of ["accept", "reject"] as const)
    api.post(
      `/enrolments/:id/${action}`,
      {
        config: { permission: "enrolment.manage" },
        schema: {
          tags: ["identity"],
          summary: `${action === "accept" ? "Accept" : "Reject"} an enrolment that waits`,
          params,
          response: { 200: enrolmentSchema, ...problemResponses },
        },
      },
      async ({ params: { id } }, reply) => {
        if (authority === undefined) return none(reply);
        const decided = await authority.decide(id, decisions[action]);
        return decided.ok ? decided.enrolment : refused(reply, decided);
      },
    );

  api.get(
    "/identities",
    {
      config: { permission: "enrolment.read" },
      schema: {
        tags: ["identity"],
        summary: "Who is enrolled, by kind and name",
        querystring: z.strictObject(pageQuery(z.tuple([kindSchema, idSchema]))),
        response: { 200: sliceSchema(identitySchema), ...problemResponses },
      },
    },
    async ({ query: { cursor, limit } }, reply) =>
      authority === undefined
        ? none(reply)
        : toAnswer(await authority.listIdentities({ after: cursor, limit })),
  );
}

function claimRoutes(api: Api, authority: Authority | undefined): void {
  api.post(
    "/claims",
    {
      config: {
        permission: "enrolment.manage",
        noted: ["kind", "name", "site", "uses", "approval"],
      },
      schema: {
        tags: ["identity"],
        summary: "Make a claim; its text is in this answer and nowhere else",
        body: z.strictObject({
          kind: kindSchema,
          name: namePatternSchema.describe("a name, in which one * may stand for any characters"),
          site: idSchema,
          uses: z.number().int().min(1).max(authorityLimits.claimUsesMax).default(1),
          lifeMs: z
            .number()
            .int()
            .min(1_000)
            .max(authorityLimits.claimMsMax)
            .default(authorityLimits.claimMs),
          approval: z.boolean().default(false),
        }),
        response: { 201: z.object({ claim: claimSchema, text: z.string() }), ...problemResponses },
      },
    },
    async ({ body }, reply) => {
      if (authority === undefined) return none(reply);
      const made = await authority.createClaim(body);
      if (!made.ok) return refused(reply, made);
      return reply.code(201).send({ claim: made.claim, text: made.text });
    },
  );

  api.get(
    "/claims",
    {
      config: { permission: "enrolment.read" },
      schema: {
        tags: ["identity"],
        summary: "Claims by id, without their secrets",
        querystring: z.strictObject(pageQuery(idSchema)),
        response: { 200: sliceSchema(claimSchema), ...problemResponses },
      },
    },
    async ({ query: { cursor, limit } }, reply) =>
      authority === undefined
        ? none(reply)
        : toAnswer(await authority.listClaims({ after: cursor, limit })),
  );

  api.post(
    "/claims/:id/revoke",
    {
      config: { permission: "enrolment.manage" },
      schema: {
        tags: ["identity"],
        summary: "Take a claim back; who enrolled with it stays",
        params,
        response: { 200: claimSchema, ...problemResponses },
      },
    },
    async ({ params: { id } }, reply) => {
      if (authority === undefined) return none(reply);
      const revoked = await authority.revokeClaim(id);
      return revoked.ok ? revoked.claim : refused(reply, revoked);
    },
  );
}

function denylistRoutes(api: Api, authority: Authority | undefined): void {
  api.get(
    "/denylist",
    {
      config: { permission: "enrolment.read" },
      schema: {
        tags: ["identity"],
        summary: "Whose certificates and tokens are void",
        response: { 200: denylistSchema, ...problemResponses },
      },
    },
    async (_request, reply) => authority?.denylist() ?? none(reply),
  );

  api.post(
    "/denylist",
    {
      config: { permission: "revocation.manage", noted: ["kind", "name"] },
      schema: {
        tags: ["identity"],
        summary: "Void what a gateway or a device was given until now",
        body: z.strictObject({ kind: kindSchema, name: idSchema }),
        response: { 200: denylistSchema, ...problemResponses },
      },
    },
    async ({ body: { kind, name } }, reply) => {
      if (authority === undefined) return none(reply);
      const revoked = await authority.revoke(kind, name);
      return revoked.ok ? revoked.denylist : refused(reply, revoked);
    },
  );
}

/** Holds credentials: nobody on the way may keep it. */
function granted(reply: FastifyReply, grant: Grant): FastifyReply {
  return reply.code(201).header("cache-control", "no-store").send(grant);
}

function none(reply: FastifyReply): FastifyReply {
  const detail =
    "this cloud has no authority; make one with `tributary cloud init`, and start it again";
  return sendProblem(reply, problem("no-authority", detail));
}

function refused(
  reply: FastifyReply,
  { code, message }: { readonly code: string; readonly message: string },
): FastifyReply {
  return sendProblem(reply, problem(isProblemCode(code) ? code : "invalid-request", message));
}
