import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo, isIP } from "node:net";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { GatewayConfig } from "./config.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import { renderPage } from "./page.js";
import { pagePolicy } from "./page-frame.js";
import type { StatusView } from "./status-view.js";

type StatusServer = { readonly port: number; close(): Promise<void> };

/**
 * Starts the page where it is wanted. A gateway does its work without one: what keeps it from
 * listening is reported, and no more.
 */
export async function openStatusPage(
  config: GatewayConfig["status"],
  view: () => StatusView,
  events: GatewayEvents,
): Promise<StatusServer | undefined> {
  if (!config.enabled) return undefined;
  try {
    const server = await listenStatus(config, view);
    const host = config.host.includes(":") ? `[${config.host}]` : config.host;
    events({ level: "info", name: "status-started", url: `http://${host}:${server.port}/` });
    return server;
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    events({ level: "warn", name: "status-unavailable", message });
    return undefined;
  }
}

/**
 * Serves the status as a page at `/` and as JSON at `/status.json`, to GET and HEAD, and nothing
 * else. Rejects with `port-in-use`, or with `listen-failed` for an address that is not this machine's.
 */
async function listenStatus(
  { host, port }: { readonly host: string; readonly port: number },
  view: () => StatusView,
): Promise<StatusServer> {
  const server = createServer(
    {
      maxHeaderSize: limits.statusHeaderBytes,
      headersTimeout: limits.statusRequestMs,
      requestTimeout: limits.statusRequestMs,
      keepAliveTimeout: limits.statusIdleMs,
      connectionsCheckingInterval: 1_000,
    },
    (request, response) => answer(request, response, view),
  );
  server.maxConnections = limits.statusConnections;
  server.maxRequestsPerSocket = limits.statusRequestsPerSocket;
  // A client that does not read what it asked for.
  server.setTimeout(limits.statusIdleMs, (socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause: NodeJS.ErrnoException) => reject(failure(host, port, cause)));
    server.listen(port, host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function failure(host: string, port: number, cause: NodeJS.ErrnoException): TributaryError {
  const used = cause.code === "EADDRINUSE";
  const why = used ? "the port is in use" : cause.message;
  const code = used ? "port-in-use" : "listen-failed";
  return new TributaryError(code, `cannot listen on ${host}, port ${port}: ${why}`, { cause });
}

function answer(request: IncomingMessage, response: ServerResponse, view: () => StatusView): void {
  const { method = "", url = "" } = request;
  response.setHeader("cache-control", "no-store");
  response.setHeader("x-content-type-options", "nosniff");
  response.setHeader("referrer-policy", "no-referrer");
  response.setHeader("cross-origin-resource-policy", "same-origin");
  if (!isOwnHost(request.headers.host)) return plain(request, response, 421, "not this host");
  if (method !== "GET" && method !== "HEAD") {
    response.setHeader("allow", "GET, HEAD");
    return plain(request, response, 405, "only GET and HEAD");
  }
  if (carriesBody(request)) return plain(request, response, 413, "no body belongs here");
  const path = url.split("?", 1)[0];
  if (path === "/status.json") {
    return send(request, response, 200, "application/json", JSON.stringify(view()));
  }
  if (path === "/") {
    response.setHeader("content-security-policy", pagePolicy);
    return send(request, response, 200, "text/html; charset=utf-8", renderPage(view()));
  }
  return plain(request, response, 404, "there is / and /status.json");
}

/**
 * Whether the request names this listener by an address or by a name that no public DNS serves. A
 * page of another origin that has its own name resolve to this address (DNS rebinding) does not.
 */
function isOwnHost(host: string | undefined): boolean {
  if (host === undefined) return false;
  const name = host.replace(/:\d{1,5}$/, "").toLowerCase();
  if (isIP(name.replace(/^\[(.*)\]$/, "$1")) !== 0) return true;
  return /^[a-z0-9-]+(\.(local|lan|internal|home\.arpa))?$/.test(name);
}

function carriesBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}

function plain(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  text: string,
): void {
  // What else may come on this connection is not looked at.
  response.setHeader("connection", "close");
  send(request, response, status, "text/plain; charset=utf-8", `${text}\n`);
}

function send(
  { method }: IncomingMessage,
  response: ServerResponse,
  status: number,
  type: string,
  text: string,
): void {
  const bytes = Buffer.from(text);
  response.writeHead(status, { "content-type": type, "content-length": bytes.length });
  response.end(method === "HEAD" ? undefined : bytes);
}
