import { createServer } from "node:https";
import type { TierIdentity } from "@tributary/proto/tier/peer.js";
import type { FastifyServerFactory } from "fastify";
import { apiLimits } from "./limits.js";

/**
 * Makes the API's server one over TLS 1.3, that shows the cloud's certificate, the newest one on each
 * new connection. It asks callers for none: they show a token, or sign what they ask for.
 */
export function secureServers(identity: TierIdentity): FastifyServerFactory {
  const context = () => ({
    key: identity.key.export({ type: "pkcs8", format: "pem" }),
    cert: identity.certificate,
    minVersion: "TLSv1.3" as const,
  });
  return (handler) => {
    const server = createServer({ ...context(), handshakeTimeout: apiLimits.handshakeMs }, handler);
    // As fastify sets them on a server of its own.
    server.requestTimeout = apiLimits.requestMs;
    server.setTimeout(apiLimits.idleMs);
    const stop = identity.onChange(() => server.setSecureContext(context()));
    server.on("close", stop);
    return server;
  };
}
