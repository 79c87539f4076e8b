import type { Readable } from "node:stream";
import { idSchema, modelIdSchema } from "@tributary/proto/wire/ids.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import { DEFAULT_PROJECT, projectsWith } from "../access/permissions.js";
import { pageQuery, sliceSchema, toAnswer } from "./cursor.js";
import { sendFile } from "./file.js";
import type { Api, ApiPorts } from "./ports.js";
import { problem, problemResponses, sendProblem } from "./problem.js";
import {
  contributionKeySchema,
  contributionSchema,
  modelSchema,
  modelStateSchema,
  sessionSchema,
} from "./schemas.js";
import { answerWith } from "./sessions.js";
import { refuseUpload } from "./uploads.js";

const params = z.object({ id: modelIdSchema });
const fileResponse = {
  description: "The file's bytes, or the range asked for",
  content: { "application/octet-stream": { schema: z.string().meta({ format: "binary" }) } },
} as const;
const sequenceKey = z.number().int().min(0);

export function modelRoutes(api: Api, ports: ApiPorts): void {
  const { sessions, store, models, access } = ports;

  uploadRoute(api, ports);

  api.get(
    "/models",
    {
      config: { permission: "models.read", scope: "any" },
      schema: {
        tags: ["models"],
        summary: "Models, newest first",
        querystring: z.strictObject({
          session: idSchema.optional(),
          state: modelStateSchema.optional(),
          ...pageQuery(sequenceKey),
        }),
        response: { 200: sliceSchema(modelSchema), ...problemResponses },
      },
    },
    async ({ caller, query: { session, state, cursor, limit } }) => {
      const page = { after: cursor, limit };
      const seen = projectsWith(caller, "models.read");
      return toAnswer(
        seen === undefined || access.projects === undefined
          ? await store.listModels({ session, state }, page)
          : await access.projects.listModels({ projects: seen, session, state }, page),
      );
    },
  );

  api.get(
    "/models/:id",
    {
      config: { permission: "models.read", scope: "model" },
      schema: {
        tags: ["models"],
        summary: "A model",
        params,
        response: { 200: modelSchema, ...problemResponses },
      },
    },
    async ({ params: { id } }, reply) => (await store.model(id)) ?? unknown(reply, id),
  );

  api.get(
    "/models/:id/trail",
    {
      config: { permission: "models.read", scope: "model" },
      schema: {
        tags: ["models"],
        summary: "A model and its ancestors, back to the root",
        params,
        querystring: z.strictObject(pageQuery(sequenceKey)),
        response: { 200: sliceSchema(modelSchema), ...problemResponses },
      },
    },
    async ({ params: { id }, query: { cursor, limit } }, reply) => {
      if ((await store.model(id)) === undefined) return unknown(reply, id);
      return toAnswer(await store.trail(id, { after: cursor, limit }));
    },
  );

  api.get(
    "/models/:id/contributions",
    {
      config: { permission: "models.read", scope: "model" },
      schema: {
        tags: ["models"],
        summary: "The contributions that a model is the first to hold, by round and device",
        params,
        querystring: z.strictObject(pageQuery(contributionKeySchema)),
        response: { 200: sliceSchema(contributionSchema), ...problemResponses },
      },
    },
    async ({ params: { id }, query: { cursor, limit } }, reply) => {
      const model = await store.model(id);
      if (model === undefined) return unknown(reply, id);
      const { session } = model;
      if (session === null) return { items: [], next: null };
      const filter = { session, model: id, outcome: "model" } as const;
      return toAnswer(await store.listContributions(filter, { after: cursor, limit }));
    },
  );

  api.get(
    "/models/:id/file",
    {
      config: { permission: "models.read", scope: "model" },
      schema: {
        tags: ["models"],
        summary: "The model as a safetensors file; honours Range and If-None-Match",
        params,
        response: { 200: fileResponse, 206: fileResponse, ...problemResponses },
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const model = await store.model(id);
      if (model === undefined) return unknown(reply, id);
      return sendFile(request, reply, models, model);
    },
  );

  api.post(
    "/models/:id/activate",
    {
      config: { permission: "models.write", scope: "model", noted: ["session"] },
      schema: {
        tags: ["models"],
        summary: "Make a model its session's head: the next round starts from it",
        params,
        querystring: z.strictObject({ session: idSchema.optional() }),
        response: { 200: sessionSchema, ...problemResponses },
      },
    },
    async ({ params: { id }, query: { session } }, reply) =>
      answerWith(reply, await sessions.activate(id, session)),
  );
}

/** In a scope of its own: only here is an octet-stream taken, unread, and past the JSON bound. */
function uploadRoute(api: Api, { models, clock, access: { projects } }: ApiPorts): void {
  api.register(async (scope: Api) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser("application/octet-stream", (_request, payload, done) =>
      done(null, payload),
    );
    scope.post(
      "/models",
      {
        bodyLimit: wireLimits.modelBytes,
        config: { permission: "models.write", scope: "query", noted: ["name", "project"] },
        schema: {
          tags: ["models"],
          summary: "Import a safetensors file of finite float32 tensors as model <name>.0",
          consumes: ["application/octet-stream"],
          querystring: z.strictObject({
            name: idSchema,
            project: idSchema.default(DEFAULT_PROJECT),
          }),
          response: { 201: modelSchema, ...problemResponses },
        },
      },
      async (request, reply) => {
        const body = request.body as Readable | undefined;
        if (body === undefined)
          return sendProblem(
            reply,
            problem("unsupported-media-type", "send the file as application/octet-stream"),
          );
        if (Number(request.headers["content-length"] ?? 0) > wireLimits.modelBytes)
          return refuseUpload(reply, body, "too-large", "the file is past the bound of a model");
        const { name, project } = request.query;
        if (projects !== undefined && !(await projects.exists(project)))
          return refuseUpload(reply, body, "unknown-project", `no project ${project}`);
        const imported = await models.importFile(name, body, clock.nowMs(), project);
        if (imported.ok)
          return reply
            .code(201)
            .header("location", `/api/v1/models/${imported.model.id}`)
            .send(imported.model);
        return refuseUpload(reply, body, imported.code, imported.message);
      },
    );
  });
}

function unknown(reply: FastifyReply, id: string): FastifyReply {
  return sendProblem(reply, problem("unknown-model", `no model ${id}`));
}
