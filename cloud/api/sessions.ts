import { idSchema } from "@tributary/proto/wire/ids.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import { projectsWith } from "../access/permissions.js";
import { sessionParamsSchema } from "../params.js";
import type { SessionCode, SessionView } from "../session-view.js";
import { pageQuery, sliceSchema, toAnswer } from "./cursor.js";
import type { Api, ApiPorts } from "./ports.js";
import { problem, problemResponses, sendProblem } from "./problem.js";
import {
  contributionKeySchema,
  contributionSchema,
  evaluationSchema,
  outcomeSchema,
  roundSchema,
  sessionSchema,
} from "./schemas.js";

const params = z.object({ id: idSchema });
const round = z.coerce.number().int().min(1).max(999_999_999);

export function sessionRoutes(api: Api, { sessions, store, access }: ApiPorts): void {
  const { projects } = access;
  api.post(
    "/sessions",
    {
      config: { permission: "sessions.start", scope: "body", noted: ["name", "initialModel"] },
      schema: {
        tags: ["sessions"],
        summary: "Start a session",
        body: sessionParamsSchema,
        response: { 201: sessionSchema, ...problemResponses },
      },
    },
    async (request, reply) => {
      const { project, initialModel } = request.body;
      if (projects !== undefined && !(await projects.exists(project)))
        return sendProblem(reply, problem("unknown-project", `no project ${project}`));
      // A model of another project is none that can be seen from here.
      const foreign = projects !== undefined && (await projects.ofModel(initialModel)) !== project;
      const started = foreign
        ? refuse("unknown-model", `no model ${initialModel} in the project ${project}`)
        : await sessions.start(request.body);
      // The path names nothing here: what is unknown is a field of the body.
      if (!started.ok && started.code === "unknown-model")
        return sendProblem(
          reply,
          problem("invalid-request", started.message, [
            { path: "initialModel", message: started.message },
          ]),
        );
      if (!started.ok) return refused(reply, started);
      return reply
        .code(201)
        .header("location", `/api/v1/sessions/${started.session.id}`)
        .send(started.session);
    },
  );

  api.get(
    "/sessions",
    {
      config: { permission: "sessions.read", scope: "any" },
      schema: {
        tags: ["sessions"],
        summary: "Sessions by id",
        querystring: z.strictObject(pageQuery(idSchema)),
        response: { 200: sliceSchema(sessionSchema), ...problemResponses },
      },
    },
    async ({ caller, query: { cursor, limit } }) => {
      const seen = projectsWith(caller, "sessions.read");
      const rest = sessions
        .list()
        .filter(({ params: { project } }) => seen?.includes(project) ?? true)
        .filter(({ id }) => cursor === undefined || id > cursor);
      const items = rest.slice(0, limit);
      return toAnswer({ items, next: rest.length > limit ? items.at(-1)?.id : undefined });
    },
  );

  api.get(
    "/sessions/:id",
    {
      config: { permission: "sessions.read", scope: "session" },
      schema: {
        tags: ["sessions"],
        summary: "A session's status",
        params,
        response: { 200: sessionSchema, ...problemResponses },
      },
    },
    async (request, reply) => {
      const session = sessions.status(request.params.id);
      return session ?? unknown(reply, request.params.id);
    },
  );

  for (const action of ["stop", "resume"] as const)
    api.post(
      `/sessions/:id/${action}`,
      {
        config: { permission: "sessions.steer", scope: "session" },
        schema: {
          tags: ["sessions"],
          summary:
            action === "stop"
              ? "End the open round, of a failed session too, and stand still"
              : "Go on with a stopped or failed session",
          params,
          response: { 200: sessionSchema, ...problemResponses },
        },
      },
      async (request, reply) => answerWith(reply, await sessions[action](request.params.id)),
    );

  api.get(
    "/sessions/:id/rounds",
    {
      config: { permission: "sessions.read", scope: "session" },
      schema: {
        tags: ["sessions"],
        summary: "Rounds of a session, newest first",
        params,
        querystring: z.strictObject(pageQuery(z.number().int().min(0))),
        response: { 200: sliceSchema(roundSchema), ...problemResponses },
      },
    },
    async ({ params: { id }, query: { cursor, limit } }, reply) => {
      if (sessions.status(id) === undefined) return unknown(reply, id);
      return toAnswer(await store.listRounds(id, { after: cursor, limit }));
    },
  );

  api.get(
    "/sessions/:id/contributions",
    {
      config: { permission: "sessions.read", scope: "session" },
      schema: {
        tags: ["sessions"],
        summary: "Receipted contributions of a session, by round and device",
        params,
        querystring: z.strictObject({
          round: round.optional(),
          outcome: outcomeSchema.optional(),
          ...pageQuery(contributionKeySchema),
        }),
        response: { 200: sliceSchema(contributionSchema), ...problemResponses },
      },
    },
    async ({ params: { id }, query: { round, outcome, cursor, limit } }, reply) => {
      if (sessions.status(id) === undefined) return unknown(reply, id);
      const filter = { session: id, round, outcome };
      return toAnswer(await store.listContributions(filter, { after: cursor, limit }));
    },
  );

  api.get(
    "/sessions/:id/evaluations",
    {
      config: { permission: "sessions.read", scope: "session" },
      schema: {
        tags: ["sessions"],
        summary: "Federated evaluations of a session, newest first",
        params,
        querystring: z.strictObject(pageQuery(z.number().int().min(0))),
        response: { 200: sliceSchema(evaluationSchema), ...problemResponses },
      },
    },
    async ({ params: { id }, query: { cursor, limit } }, reply) => {
      if (sessions.status(id) === undefined) return unknown(reply, id);
      return toAnswer(await store.evaluations(id, { after: cursor, limit }));
    },
  );
}

function unknown(reply: FastifyReply, id: string): FastifyReply {
  return sendProblem(reply, problem("unknown-session", `no session ${id}`));
}

function refused(
  reply: FastifyReply,
  { code, message }: { readonly code: SessionCode; readonly message: string },
): FastifyReply {
  return sendProblem(reply, problem(code, message));
}

export function answerWith(
  reply: FastifyReply,
  answer: Verdict<{ readonly session: SessionView }, SessionCode>,
): SessionView | FastifyReply {
  return answer.ok ? answer.session : refused(reply, answer);
}
