import {
  logVerbosity,
  Server,
  ServerCredentials,
  ServerInterceptingCall,
  type ServerInterceptor,
  setLogVerbosity,
} from "@grpc/grpc-js";
import { ReducerServiceService } from "../gen/tributary/v1/reducer.js";
import type { Clock } from "../host/clock.js";
import { TributaryError } from "../wire/errors.js";
import { limits as wireLimits } from "../wire/limits.js";
import type { LinkEvents } from "./events.js";
import { grpcService } from "./grpc-service.js";
import { statusError } from "./grpc-status.js";
import { limits } from "./limits.js";
import type { TierIdentity } from "./peer.js";
import type { Service } from "./service.js";
import { listenTls, type Peers } from "./tls-server.js";

export type GrpcServer = {
  readonly port: number;
  /** Waits for open calls, for a bounded time, then ends them. */
  close(): Promise<void>;
};

/** What a server shows over TLS, and judges those who attach by. */
export type TierSecurity = {
  readonly identity: TierIdentity;
  /** In milliseconds since 1970, as this side knows it. */
  readonly nowMs: () => number;
};

type Address = { readonly host: string; readonly port: number };

/**
 * Serves gateways at an address: over TLS those that show a certificate of the fleet, without
 * `security` everybody, in the clear. Failure: `port-in-use`.
 */
export async function listenGrpc(
  service: Service,
  address: Address,
  clock: Clock,
  events: LinkEvents,
  security?: TierSecurity,
): Promise<GrpcServer> {
  // What fails is thrown or ends a call; the library's own lines on stderr would say it twice.
  setLogVerbosity(logVerbosity.NONE);
  let peers: Peers | undefined;
  const server = new Server({
    "grpc.max_receive_message_length": wireLimits.grpcMessageBytes,
    "grpc.max_send_message_length": wireLimits.grpcMessageBytes,
    "grpc.max_concurrent_streams": limits.callsPerConnection,
    "grpc.keepalive_time_ms": wireLimits.keepaliveIntervalMs,
    "grpc.keepalive_timeout_ms": wireLimits.keepaliveTimeoutMs,
    "grpc.keepalive_permit_without_calls": 1,
    ...(security && { interceptors: [refuseStrangers(() => peers)] }),
  });
  const peerOf = (call: { getPeer(): string }) => {
    const known = peers?.(call.getPeer());
    return known?.ok ? known.peer : undefined;
  };
  server.addService(ReducerServiceService, grpcService(service, clock, events, peerOf));
  const bound = await (security === undefined
    ? listenPlain(server, address)
    : listenSecure(server, address, security, clock));
  peers = bound.peers;
  return {
    port: bound.port,
    close: () =>
      new Promise((resolve) => {
        bound.stop();
        const timer = clock.setTimer(limits.shutdownMs, () => {
          server.forceShutdown();
          resolve();
        });
        server.tryShutdown(() => {
          timer.cancel();
          resolve();
        });
      }),
  };
}

/** Answers each call of a connection that is refused with the reason, whichever method it is for. */
function refuseStrangers(peers: () => Peers | undefined): ServerInterceptor {
  return (_method, call) => {
    const known = peers()?.(call.getPeer());
    if (known === undefined || known.ok) return new ServerInterceptingCall(call);
    const { code, details, metadata } = statusError(known);
    return new ServerInterceptingCall(call, {
      start(next) {
        next({ onReceiveMetadata: () => call.sendStatus({ code, details, metadata }) });
      },
    });
  };
}

type Bound = { readonly port: number; readonly peers?: Peers; stop(): void };

async function listenSecure(
  server: Server,
  address: Address,
  security: TierSecurity,
  clock: Clock,
): Promise<Bound> {
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const { port, peers, close } = await listenTls(address, security, clock, (socket) =>
    injector.injectConnection(socket),
  );
  return { port, peers, stop: close };
}

async function listenPlain(server: Server, address: Address): Promise<Bound> {
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(
      `${host}:${address.port}`,
      ServerCredentials.createInsecure(),
      (cause, bound) => {
        if (cause === null) return resolve(bound);
        // The library wraps the system's error in words of its own.
        const used = cause.message.includes("EADDRINUSE");
        const why = used ? "the port is in use" : cause.message;
        const message = `cannot listen on ${host}:${address.port}: ${why}`;
        reject(new TributaryError("port-in-use", message, { cause }));
      },
    );
  });
  return { port, stop() {} };
}
