import type { AddressInfo } from "node:net";
import swagger from "@fastify/swagger";
import Fastify, { type FastifyReply, type FastifyRequest } from "fastify";
import {
  jsonSchemaTransform,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from "fastify-type-provider-zod";
import { accessRoutes } from "./access.js";
import { alarmRoutes } from "./alarms.js";
import { auditRoutes } from "./audit.js";
import { authorityRoutes, publicKeyRoute } from "./authority.js";
import { bundleRoutes } from "./bundles.js";
import { challengeRoutes } from "./challenges.js";
import { denylistRoutes } from "./denylist.js";
import { createErrorHandler, problemOf } from "./errors.js";
import { fleetRoutes } from "./fleet.js";
import { guardRoutes } from "./guard.js";
import { apiLimits } from "./limits.js";
import { modelRoutes } from "./models.js";
import { packageRoutes } from "./packages.js";
import type { Api, ApiPorts } from "./ports.js";
import { problem, sendProblem } from "./problem.js";
import { projectRoutes } from "./projects.js";
import { secureServers } from "./secure.js";
import { sessionRoutes } from "./sessions.js";

const PREFIX = "/api/v1";

/** The REST API, not yet listening. OpenAPI 3.1 at `/api/v1/openapi.json`. */
export async function createApi(ports: ApiPorts): Promise<Api> {
  const api: Api = Fastify({
    bodyLimit: apiLimits.jsonBytes,
    requestTimeout: apiLimits.requestMs,
    connectionTimeout: apiLimits.idleMs,
    forceCloseConnections: "idle",
    return503OnClosing: true,
    routerOptions: { ignoreTrailingSlash: true },
    ...(ports.identity && { serverFactory: secureServers(ports.identity) }),
    frameworkErrors(error, _request, reply) {
      sendProblem(reply, problemOf(error));
    },
  }).withTypeProvider<ZodTypeProvider>();
  api.server.maxConnections = apiLimits.connections;
  api.setValidatorCompiler(validatorCompiler);
  api.setSerializerCompiler(serializerCompiler);
  api.setErrorHandler(createErrorHandler(ports.events));
  api.setNotFoundHandler((request, reply) =>
    sendProblem(
      reply,
      problem("unknown-route", `no ${request.method} ${request.url.slice(0, 200)}`),
    ),
  );
  guardRoutes(api, ports);
  // After it: what is refused here is on the audit log with who asked.
  api.addHook("onRequest", ports.identity === undefined ? refuseForeign : refuseForeignOrigin);
  await api.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "Tributary cloud",
        version: ports.version,
        description: "Sessions, models, the fleet and events of a federated-learning cloud.",
        license: { name: "Apache-2.0", identifier: "Apache-2.0" },
      },
      components: {
        securitySchemes: { token: { type: "http", scheme: "bearer", bearerFormat: "JWT" } },
      },
    },
    transform: describeRoute,
  });
  await api.register(
    async (scope: Api) => {
      sessionRoutes(scope, ports);
      modelRoutes(scope, ports);
      fleetRoutes(scope, ports);
      authorityRoutes(scope, ports);
      denylistRoutes(scope, ports);
      alarmRoutes(scope, ports);
      challengeRoutes(scope, ports);
      bundleRoutes(scope, ports);
      accessRoutes(scope, ports);
      projectRoutes(scope, ports);
      auditRoutes(scope, ports);
      packageRoutes(scope, ports);
      const document = { config: { permission: "public" }, schema: { hide: true } } as const;
      scope.get("/openapi.json", document, async () => api.swagger());
    },
    { prefix: PREFIX },
  );
  publicKeyRoute(api, ports);
  await api.ready();
  return api;
}

/** A route's schema for the document; a body that is taken unread has no zod schema to tell it. */
const describeRoute: typeof jsonSchemaTransform = (route) => {
  const given = jsonSchemaTransform(route);
  const { permission } = route.route.config ?? {};
  const needs = {
    "x-permission": permission,
    security: permission === "public" ? [] : [{ token: [] }],
  };
  const described = { ...given, schema: { ...given.schema, ...needs } };
  const binary = described.schema?.consumes?.includes("application/octet-stream");
  if (!binary) return described;
  const body = { type: "string", format: "binary" };
  return { ...described, schema: { ...described.schema, body } };
};

const LOOPBACK_HOST = /^(127(\.\d{1,3}){3}|\[::1\]|localhost)(:\d{1,5})?$/i;

/** Over TLS a name that is not this cloud's does not get so far; a page of another origin might. */
async function refuseForeignOrigin(request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  const { host, origin } = request.headers;
  return origin !== undefined && origin !== `https://${host}`
    ? sendProblem(reply, problem("foreign-origin", "requests of other origins are refused"))
    : undefined;
}

/**
 * In the clear callers are not authenticated, so a page in a browser on this machine may not reach the API: not
 * from another origin, and not through a name that its owner points at this machine.
 */
async function refuseForeign(request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  const { host, origin } = request.headers;
  if (host !== undefined && !LOOPBACK_HOST.test(host))
    return sendProblem(reply, problem("foreign-host", "ask by a loopback address"));
  if (origin !== undefined && origin !== `http://${host}`)
    return sendProblem(reply, problem("foreign-origin", "requests of other origins are refused"));
  return undefined;
}

export type RunningApi = {
  readonly port: number;
  /** Stops taking requests and lets those under way end, for a bounded time. */
  close(): Promise<void>;
};

/** Starts the API. Port 0 picks a free one. */
export async function startApi(
  listen: { readonly host: string; readonly port: number },
  ports: ApiPorts,
): Promise<RunningApi> {
  const api = await createApi(ports);
  await api.listen(listen);
  return {
    port: (api.server.address() as AddressInfo).port,
    async close() {
      const late = ports.clock.setTimer(apiLimits.closeMs, () => api.server.closeAllConnections());
      try {
        await api.close();
      } finally {
        late.cancel();
      }
    },
  };
}
