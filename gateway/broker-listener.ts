import { constants, type X509Certificate } from "node:crypto";
import { createServer, type Server, type Socket } from "node:net";
import {
  createServer as createTlsServer,
  type SecureContextOptions,
  type TLSSocket,
  type Server as TlsServer,
} from "node:tls";
import { shownCertificates } from "@tributary/proto/identity/shown.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { Addresses, Visit } from "./addresses.js";
import type { DropReason } from "./drops.js";
import type { GatewayIdentity } from "./identity.js";
import { limits } from "./limits.js";

/** A connection on which MQTT may begin. */
export type Arrival = {
  readonly socket: Socket;
  readonly address: string;
  readonly visit: Visit;
  /** What was shown in the TLS handshake, the own certificate first; empty where nothing was. */
  readonly certificates: readonly X509Certificate[];
};

export type Listener = {
  /** Resolves with the port. Rejects with `port-in-use`. 0 picks a free port. */
  listen(host: string, port: number): Promise<number>;
  /** Takes no more, has those that are here end by `farewell`, and ends the rest. */
  close(farewell: () => Promise<void>): Promise<void>;
};

export type ListenerOptions = {
  readonly addresses: Addresses;
  /** What it shows in TLS; without it what is said goes over the network as it is. */
  readonly identity: ShownIdentity | undefined;
  onArrival(arrival: Arrival): void;
  onRefused(reason: DropReason, detail: string): void;
};

export type ShownIdentity = Pick<GatewayIdentity, "key" | "certificate" | "anchors" | "onChange">;

/** Takes connections, as many as each address may have, and has TLS done before MQTT begins. */
export function createListener(options: ListenerOptions): Listener {
  const { addresses, identity, onArrival, onRefused } = options;
  const sockets = new Set<Socket>();
  /** Of connections whose handshake is not done yet, by where they come from. */
  const arriving = new Map<string, Visit>();
  const secure = identity && createSecure(identity);

  const server = createServer((socket) => {
    const { remoteAddress = "" } = socket;
    const visit = addresses.enter(remoteAddress);
    if (typeof visit === "string") {
      onRefused(visit, remoteAddress);
      socket.on("error", () => {});
      socket.resetAndDestroy();
      return;
    }
    sockets.add(socket);
    socket.setNoDelay(true);
    const place = placeOf(socket);
    socket.once("close", () => {
      sockets.delete(socket);
      if (arriving.get(place) === visit) arriving.delete(place);
      visit.left();
    });
    if (secure === undefined) {
      onArrival({ socket, visit, address: remoteAddress, certificates: [] });
      return;
    }
    arriving.set(place, visit);
    // Its errors are the TLS socket's, which has them handled; none may end the process.
    socket.on("error", () => {});
    secure.server.emit("connection", socket);
  });
  server.maxConnections = limits.connections;
  server.on("drop", (data) =>
    onRefused("connections", data?.remoteAddress ?? "an address unknown"),
  );

  secure?.server.on("secureConnection", (socket) => {
    socket.on("error", () => {});
    const visit = arriving.get(placeOf(socket));
    if (visit === undefined) return void socket.destroy();
    arriving.delete(placeOf(socket));
    const certificates = shownBy(socket);
    if (certificates === undefined) {
      onRefused("credential", `certificate-untrusted: ${socket.authorizationError}`);
      return void socket.destroy();
    }
    onArrival({ socket, visit, address: socket.remoteAddress ?? "", certificates });
  });
  secure?.server.on("tlsClientError", (error, socket) => {
    onRefused("tls", `${socket.remoteAddress ?? ""} ${error.message}`.trim().slice(0, 256));
    socket.destroy();
  });

  return {
    listen: (host, port) => listen(server, host, port),
    async close(farewell) {
      secure?.close();
      // Closing a server that does not listen calls back with an error: it is closed all the same.
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await farewell();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** Names a connection while it lasts. */
function placeOf({ remoteAddress, remotePort, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localPort}`;
}

function createSecure(identity: ShownIdentity): { server: TlsServer; close(): void } {
  const context = (): SecureContextOptions => ({
    key: identity.key.export({ type: "pkcs8", format: "pem" }),
    // Also the authorities: a newcomer knows the right one by its digest, and has nothing else yet.
    cert: [identity.certificate, ...identity.anchors].join("\n"),
    ca: identity.anchors.map(String),
    minVersion: "TLSv1.2",
    // What was shown is looked at in each handshake: none is resumed, and none goes on differently.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
  });
  const server = createTlsServer({
    ...context(),
    requestCert: true,
    // Newcomers, and devices with a token, have none to show; who may do what is decided at CONNECT.
    rejectUnauthorized: false,
    handshakeTimeout: limits.connectTimeoutMs,
  });
  const close = identity.onChange(() => server.setSecureContext(context()));
  return { server, close };
}

/** What the TLS library objects to, and we may know better: the site's time is not the machine's. */
const dates = ["CERT_HAS_EXPIRED", "CERT_NOT_YET_VALID"];

/** The certificates that a peer showed; undefined when they are none of an authority that we trust. */
function shownBy(socket: TLSSocket): readonly X509Certificate[] | undefined {
  try {
    const shown = shownCertificates(socket);
    const objection = socket.authorized ? undefined : String(socket.authorizationError);
    const isObjected = objection !== undefined && !dates.includes(objection);
    return shown.length > 0 && isObjected ? undefined : shown;
  } catch {
    return undefined; // parts of it that cannot be read
  }
}

function listen(server: Server, host: string, port: number): Promise<number> {
  return new Promise<number>((resolve, reject) => {
    server.once("error", (cause) => {
      reject(
        new TributaryError("port-in-use", `cannot listen on ${host}:${port}`, {
          retryable: true,
          cause,
        }),
      );
    });
    server.listen(port, host, () => {
      const address = server.address();
      resolve(typeof address === "object" && address !== null ? address.port : port);
    });
  });
}
