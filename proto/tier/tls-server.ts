import type { X509Certificate } from "node:crypto";
import type { AddressInfo } from "node:net";
import { createServer, type SecureContextOptions, type TLSSocket } from "node:tls";
import type { Clock } from "../host/clock.js";
import { shownCertificates } from "../identity/shown.js";
import { TributaryError } from "../wire/errors.js";
import { refuse, type Verdict } from "../wire/verdict.js";
import { limits } from "./limits.js";
import { judgePeer, type Peer, type TierIdentity } from "./peer.js";

/** Who is at the other end of a connection, by its address and port. */
export type Peers = (connection: string) => Verdict<{ readonly peer: Peer }>;

export type TlsServer = {
  readonly port: number;
  readonly peers: Peers;
  /** Takes no more connections. */
  close(): void;
};

type Connection = {
  readonly socket: TLSSocket;
  readonly shown: readonly X509Certificate[];
  verdict: Verdict<{ readonly peer: Peer }>;
};

const missing = refuse("certificate-missing", "no certificate was shown");

/**
 * TLS 1.3 in front of a gRPC server. The certificate that a connection shows is judged here, and not by
 * the TLS library: by this side's own time, and so that a refusal can say why. Every call on a
 * connection is answered with that refusal. When the identity changes, all connections are judged
 * again, but for the dates. Failure: `port-in-use`.
 */
export async function listenTls(
  address: { readonly host: string; readonly port: number },
  { identity, nowMs }: { readonly identity: TierIdentity; readonly nowMs: () => number },
  clock: Clock,
  take: (socket: TLSSocket) => void,
): Promise<TlsServer> {
  const connections = new Map<string, Connection>();
  const settle = (connection: Connection, dates: boolean) => {
    connection.verdict = judgePeer(connection.shown, identity, nowMs(), dates);
    if (connection.verdict.ok) return;
    // It has time to hear why.
    const timer = clock.setTimer(limits.refusedMs, () => connection.socket.destroy());
    connection.socket.once("close", () => timer.cancel());
  };
  const server = createServer({
    ...contextOf(identity),
    minVersion: "TLSv1.3",
    ALPNProtocols: ["h2"],
    requestCert: true,
    rejectUnauthorized: false,
    handshakeTimeout: limits.handshakeMs,
  });
  server.maxConnections = limits.connections;
  server.on("secureConnection", (socket) => {
    const name = `${socket.remoteAddress}:${socket.remotePort}`;
    socket.on("error", () => {}); // its close follows
    const connection: Connection = { socket, shown: showing(socket), verdict: missing };
    connections.set(name, connection);
    settle(connection, true);
    socket.on("close", () => {
      if (connections.get(name) === connection) connections.delete(name);
    });
    take(socket);
  });
  server.on("tlsClientError", () => {}); // the connection is closed; who it was is not known
  const stop = identity.onChange(() => {
    server.setSecureContext({ ...contextOf(identity), minVersion: "TLSv1.3" });
    for (const connection of connections.values())
      if (connection.verdict.ok) settle(connection, false);
  });
  await new Promise<void>((resolve, reject) => {
    server.on("error", (cause) => {
      stop();
      const why =
        "code" in cause && cause.code === "EADDRINUSE" ? "the port is in use" : cause.message;
      const message = `cannot listen on ${address.host}:${address.port}: ${why}`;
      reject(new TributaryError("port-in-use", message, { cause }));
    });
    server.listen(address.port, address.host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    peers: (name) => connections.get(name)?.verdict ?? missing,
    close() {
      stop();
      server.close();
    },
  };
}

/** None where they cannot be read: whoever shows them chose what is in them. */
function showing(socket: TLSSocket): readonly X509Certificate[] {
  try {
    return shownCertificates(socket);
  } catch {
    return [];
  }
}

function contextOf({ key, certificate, anchors }: TierIdentity): SecureContextOptions {
  return {
    key: key.export({ type: "pkcs8", format: "pem" }),
    cert: certificate,
    ca: anchors.map((anchor) => anchor.toString()),
  };
}
