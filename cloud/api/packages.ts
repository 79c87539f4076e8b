import type { Readable } from "node:stream";
import { idSchema, numberedIdSchema } from "@tributary/proto/wire/ids.js";
import { PACKAGE_FILE_BYTES_MAX } from "@tributary/proto/wire/package.js";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import { DEFAULT_PROJECT, may, projectsWith } from "../access/permissions.js";
import type { Packages } from "../packages/packages.js";
import type { PackageStore } from "../store/packages.js";
import { pageQuery, sliceSchema, toAnswer } from "./cursor.js";
import type { Api, ApiPorts } from "./ports.js";
import { problem, problemResponses, sendProblem } from "./problem.js";
import { refuseUpload } from "./uploads.js";

const packageSchema = z.object({
  id: z.string(),
  project: z.string(),
  digest: z.string().describe("SHA-256 of the archive"),
  bytes: z.number(),
  signer: z.string().describe("thumbprint of the key that signed it"),
  statement: z.string().describe("what the package is, signed: a compact JWS"),
  uploadedAtMs: z.number().describe("milliseconds since 1970"),
});
const params = z.object({ id: numberedIdSchema });

/** Compute packages: uploaded once, and what is known of them. */
export function packageRoutes(api: Api, ports: ApiPorts): void {
  const { packages } = ports;
  const find = async (id: string) => packages?.store.package(id);
  uploadRoute(api, ports);

  api.get(
    "/packages",
    {
      config: { permission: "packages.read", scope: "any" },
      schema: {
        tags: ["packages"],
        summary: "Compute packages, by id",
        querystring: z.strictObject(pageQuery(z.string())),
        response: { 200: sliceSchema(packageSchema), ...problemResponses },
      },
    },
    async ({ caller, query: { cursor, limit } }) => {
      const projects = projectsWith(caller, "packages.read");
      if (packages === undefined) return { items: [], next: null };
      return toAnswer(await packages.store.listPackages({ projects }, { after: cursor, limit }));
    },
  );

  api.get(
    "/packages/:id",
    {
      config: { permission: "packages.read", scope: "any" },
      schema: {
        tags: ["packages"],
        summary: "A compute package",
        params,
        response: { 200: packageSchema, ...problemResponses },
      },
    },
    async ({ caller, params: { id } }, reply) => {
      const found = await find(id);
      return found !== undefined && may(caller, "packages.read", found.project)
        ? found
        : unknown(reply, id);
    },
  );

  api.post(
    "/packages/:id/remove",
    {
      config: { permission: "packages.write", scope: "any" },
      schema: {
        tags: ["packages"],
        summary: "Remove a compute package that no session needs any more",
        params,
        response: { 200: packageSchema, ...problemResponses },
      },
    },
    async ({ caller, params: { id } }, reply) => {
      const found = await find(id);
      if (found === undefined || !may(caller, "packages.write", found.project))
        return unknown(reply, id);
      const user = ports.sessions
        .list()
        .find(({ state, params }) => params.package === id && state !== "finished");
      if (user !== undefined)
        return sendProblem(
          reply,
          problem("package-in-use", `session ${user.id}, which is not finished, runs ${id}`),
        );
      return (await packages?.code.remove(id)) ?? unknown(reply, id);
    },
  );
}

/** What the API needs to speak for packages. */
export type PackagePorts = {
  readonly code: Packages;
  readonly store: Pick<PackageStore, "package" | "listPackages">;
};

/** In a scope of its own: only here is an octet-stream taken, unread, and past the JSON bound. */
function uploadRoute(api: Api, { clock, packages, access: { projects } }: ApiPorts): void {
  api.register(async (scope: Api) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser("application/octet-stream", (_request, payload, done) =>
      done(null, payload),
    );
    scope.post(
      "/packages",
      {
        bodyLimit: PACKAGE_FILE_BYTES_MAX,
        config: { permission: "packages.write", scope: "query", noted: ["project"] },
        schema: {
          tags: ["packages"],
          summary: "Upload a signed compute package; it keeps its id for good",
          consumes: ["application/octet-stream"],
          querystring: z.strictObject({ project: idSchema.default(DEFAULT_PROJECT) }),
          response: { 201: packageSchema, ...problemResponses },
        },
      },
      async (request, reply) => {
        const body = request.body as Readable | undefined;
        const { project } = request.query;
        if (body === undefined)
          return sendProblem(
            reply,
            problem("unsupported-media-type", "send the file as application/octet-stream"),
          );
        if (projects !== undefined && !(await projects.exists(project)))
          return refuseUpload(reply, body, "unknown-project", `no project ${project}`);
        if (Number(request.headers["content-length"] ?? 0) > PACKAGE_FILE_BYTES_MAX)
          return refuseUpload(reply, body, "too-large", "the file is past the bound of a package");
        if (packages === undefined)
          return refuseUpload(reply, body, "unavailable", "this cloud keeps no packages");
        const uploaded = await packages.code.upload(body, project, clock.nowMs());
        if (!uploaded.ok) return refuseUpload(reply, body, uploaded.code, uploaded.message);
        const row = uploaded.package;
        return reply.code(201).header("location", `/api/v1/packages/${row.id}`).send(row);
      },
    );
  });
}

function unknown(reply: FastifyReply, id: string): FastifyReply {
  return sendProblem(reply, problem("unknown-package", `no package ${id}`));
}
