import { logVerbosity, Server, ServerCredentials, setLogVerbosity } from "@grpc/grpc-js";
import { ReducerServiceService } from "../gen/tributary/v1/reducer.js";
import type { Clock } from "../host/clock.js";
import { TributaryError } from "../wire/errors.js";
import { limits as wireLimits } from "../wire/limits.js";
import type { LinkEvents } from "./events.js";
import { grpcService } from "./grpc-service.js";
import { limits } from "./limits.js";
import type { Service } from "./service.js";

export type GrpcServer = {
  readonly port: number;
  /** Waits for open calls, for a bounded time, then ends them. */
  close(): Promise<void>;
};

/** Serves gateways at an address. Failure: `port-in-use`. */
export async function listenGrpc(
  service: Service,
  address: { readonly host: string; readonly port: number },
  clock: Clock,
  events: LinkEvents,
): Promise<GrpcServer> {
  // What fails is thrown or ends a call; the library's own lines on stderr would say it twice.
  setLogVerbosity(logVerbosity.NONE);
  const server = new Server({
    "grpc.max_receive_message_length": wireLimits.grpcMessageBytes,
    "grpc.max_send_message_length": wireLimits.grpcMessageBytes,
    "grpc.max_concurrent_streams": limits.callsPerConnection,
    "grpc.keepalive_time_ms": wireLimits.keepaliveIntervalMs,
    "grpc.keepalive_timeout_ms": wireLimits.keepaliveTimeoutMs,
    "grpc.keepalive_permit_without_calls": 1,
  });
  server.addService(ReducerServiceService, grpcService(service, clock, events));
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
  return {
    port,
    close: () =>
      new Promise((resolve) => {
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
