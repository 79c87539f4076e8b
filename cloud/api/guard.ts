import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { FastifyContextConfig, FastifyReply, FastifyRequest } from "fastify";
import { localCaller } from "../access/access.js";
import {
  type Caller,
  DEFAULT_PROJECT,
  may,
  type Permission,
  projectsWith,
} from "../access/permissions.js";
import type { AuditEntry } from "../audit/chain.js";
import { auditLimits } from "../audit/limits.js";
import { type PendingLine, withPending } from "../audit/pending.js";
import { apiLimits } from "./limits.js";
import type { Api, ApiPorts } from "./ports.js";
import { isProblemCode, problem, sendProblem } from "./problem.js";

/** Where a permission is needed for a route. */
export type Scope =
  /** In all projects: what it is about belongs to none. */
  | "fleet"
  /** In any: the route shows what is of the caller's projects alone. */
  | "any"
  /** In the project of the session, model, gateway or project that `:id` names. */
  | "session"
  | "model"
  | "gateway"
  | "project"
  /** In the project that `project` names in the body, or the query; `default` where it names none. */
  | "body"
  | "query";

declare module "fastify" {
  interface FastifyContextConfig {
    /** What a caller must be permitted; `anybody` who shows a good token; `public`: no token at all. */
    permission?: Permission | "anybody" | "public";
    /** `fleet` where it is left out. */
    scope?: Scope;
    /** Members of the body or the query that the audit line tells; none of them a secret. */
    noted?: readonly string[];
  }
  interface FastifyInstance {
    /** Every route that there is, with what it needs. */
    guarded: GuardedRoute[];
  }
  interface FastifyRequest {
    caller: Caller;
    /** That the route is about; null where it is about the fleet, or nobody knows. */
    project: string | null;
    /** The code of the problem that it was answered with. */
    problem: string | null;
    pending: PendingLine | null;
  }
}

export type GuardedRoute = {
  readonly method: string;
  readonly url: string;
  readonly permission: NonNullable<FastifyContextConfig["permission"]>;
};

const nobody: Caller = { subject: "nobody", name: "nobody", grants: [] };

/**
 * Stands before every route: finds out who asks, whether he may, and puts changes and refusals on the
 * audit log. A route that does not say what it needs stops the start.
 */
export function guardRoutes(api: Api, ports: ApiPorts): void {
  const { access } = ports;
  api.decorateRequest("caller");
  api.decorateRequest("project", null);
  api.decorateRequest("problem", null);
  api.decorateRequest("pending", null);
  api.decorate("guarded", []);
  api.addHook("onRoute", ({ method, url, config }) => {
    const permission = config?.permission;
    for (const one of [method].flat())
      if (permission !== undefined) api.guarded.push({ method: one, url, permission });
    if (permission === undefined)
      throw new TributaryError(
        "route-unguarded",
        `the route ${method} ${url} names no permission: set config.permission (see access/permissions.ts)`,
      );
  });
  api.addHook("onRequest", async (request, reply) => {
    request.caller = nobody;
    if (request.is404) return undefined;
    const { permission } = request.routeOptions.config;
    const { secured } = access;
    if (secured === undefined) {
      request.caller = localCaller;
      return undefined;
    }
    request.caller = { ...nobody, subject: `address:${request.ip}` };
    if (permission === "public") return undefined;
    const shown = await secured.authenticate(request.headers.authorization);
    if (!shown.ok) {
      reply.header("www-authenticate", "Bearer");
      return refuse(request, reply, shown.code, shown.message);
    }
    request.caller = shown.caller;
    // Before the body is read: who may do it nowhere sends it for nothing.
    if (permission === "anybody" || permission === undefined) return undefined;
    const somewhere = projectsWith(shown.caller, permission);
    return somewhere?.length === 0 ? forbid(request, reply, permission) : undefined;
  });
  api.addHook("preHandler", async (request, reply) => {
    if (request.is404) return undefined;
    const { permission, scope = "fleet" } = request.routeOptions.config;
    const project = await projectOf(ports, request, scope);
    request.project = project ?? null;
    if (permission === "public" || permission === "anybody" || permission === undefined)
      return undefined;
    if (scope === "any" || may(request.caller, permission, project)) return undefined;
    return forbid(request, reply, permission);
  });
  if (ports.audit !== undefined) auditRoutes(api, ports, ports.audit);
}

function auditRoutes(api: Api, { clock }: ApiPorts, audit: NonNullable<ApiPorts["audit"]>): void {
  api.addHook("preHandler", (request, _reply, done) => {
    if (request.is404 || !changes(request)) return done();
    request.pending = { entry: entryOf(request, "done", clock.nowMs()) };
    withPending(request.pending, done);
  });
  api.addHook("onSend", async (request, reply, payload) => {
    if (request.is404) return payload;
    const { pending, problem: code } = request;
    const left = pending?.entry;
    // What goes on after the answer is nobody's request any more.
    if (pending !== null) pending.entry = undefined;
    request.pending = null;
    const refused = reply.statusCode >= 400;
    if (refused && (changes(request) || [401, 403].includes(reply.statusCode)))
      await audit.refused({
        ...entryOf(request, code ?? `${reply.statusCode}`, clock.nowMs()),
        ...(left && { detail: left.detail }),
      });
    else if (!refused && left !== undefined) await audit.done(left);
    return payload;
  });
}

function changes({ method }: FastifyRequest): boolean {
  return !["GET", "HEAD", "OPTIONS"].includes(method);
}

function entryOf(request: FastifyRequest, outcome: string, atMs: number): AuditEntry {
  const { caller, method, routeOptions, project } = request;
  const cut = (text: string) => text.slice(0, auditLimits.textChars);
  return {
    atMs,
    actor: cut(caller.subject),
    action: `${method} ${(routeOptions.url ?? "").replace(/^\/api\/v1/, "")}`,
    target: cut(request.url.split("?")[0]?.replace(/^\/api\/v1/, "") ?? ""),
    project,
    outcome,
    detail: Object.fromEntries(
      (routeOptions.config.noted ?? []).flatMap((name) => {
        const given = memberOf(request.body, name) ?? memberOf(request.query, name);
        if (given === undefined) return [];
        return [[name, cut(typeof given === "string" ? given : JSON.stringify(given))]];
      }),
    ),
  };
}

function memberOf(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) return undefined;
  return (value as Readonly<Record<string, unknown>>)[name];
}

async function projectOf(
  { sessions, store, access: { projects } }: ApiPorts,
  request: FastifyRequest,
  scope: Scope,
): Promise<string | undefined> {
  const named = memberOf(request.params, "id");
  const id = typeof named === "string" ? named : "";
  switch (scope) {
    case "fleet":
    case "any":
      return undefined;
    case "session":
      return sessions.status(id)?.params.project;
    case "model":
      return projects === undefined ? DEFAULT_PROJECT : projects.ofModel(id);
    case "gateway":
      for (let after: string | undefined; ; ) {
        const slice = await store.listGateways({ after, limit: apiLimits.pageItems });
        const found = slice.items.find((gateway) => gateway.id === id);
        if (found !== undefined) return projects?.ofSite(found.site) ?? DEFAULT_PROJECT;
        if (slice.next === undefined) return undefined;
        after = slice.next;
      }
    case "project":
      return id;
    case "body":
      return projectIn(request.body);
    case "query":
      return projectIn(request.query);
  }
}

/** As the route's schema has read it. */
function projectIn(value: unknown): string {
  const named = memberOf(value, "project");
  return typeof named === "string" ? named : DEFAULT_PROJECT;
}

/** Nothing of what is there, and of whom it is. */
export function forbid(
  request: FastifyRequest,
  reply: FastifyReply,
  permission: Permission,
): FastifyReply {
  return refuse(request, reply, "forbidden", `this takes the permission ${permission}`);
}

function refuse(
  request: FastifyRequest,
  reply: FastifyReply,
  code: string,
  message: string,
): FastifyReply {
  const { "content-length": length, "transfer-encoding": encoding } = request.headers;
  // A body that nobody reads is not awaited for the connection's sake.
  if (encoding !== undefined || Number(length ?? 0) > apiLimits.jsonBytes)
    reply.header("connection", "close");
  return sendProblem(reply, problem(isProblemCode(code) ? code : "unauthenticated", message));
}
