import { createServer, type Socket } from "node:net";
import type { Clock } from "@tributary/proto/host/clock.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { isId } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import {
  type AllKind,
  allTopic,
  type DownKind,
  downTopic,
  parseTopic,
  type UpKind,
} from "@tributary/proto/wire/topics.js";
import { Aedes, type AedesPublishPacket, type AuthenticateError, type Client } from "aedes";
import { type AddressBounds, createAddresses } from "./addresses.js";
import { type Allowance, type AllowanceBounds, createAllowances } from "./allowances.js";
import type { DropReason } from "./drops.js";
import { limits } from "./limits.js";
import { type MeteredReading, meterReading } from "./metered-reading.js";
import { createTopicAccess, type TopicAccess } from "./topic-access.js";

/** The gateway's side of the device link: messages of one site's devices, in order per device. */
export type DeviceLink = {
  /** Lets devices in; resolves with the port. Rejects with `port-in-use`. 0 picks a free port. */
  listen(host: string, port: number): Promise<number>;
  /**
   * Hands bytes to a connected device; a no-op for any other. `sent` is called once, when the
   * socket has taken them or the device is gone: what paces transfers.
   */
  send(device: string, kind: DownKind, bytes: Uint8Array, sent?: () => void): void;
  /** Sends one device what `broadcast` sent to all before it connected. */
  sendAll(device: string, kind: AllKind, bytes: Uint8Array): void;
  broadcast(kind: AllKind, bytes: Uint8Array): void;
  /**
   * Ends connections of devices whose certificates or tokens, given at a time in seconds since 1970,
   * are void; returns how many. Left out where nobody shows any.
   */
  cut?(isVoid: (device: string, givenAt: number) => boolean): number;
  close(): Promise<void>;
};

export type DeviceHandlers = {
  /** `kind` is undefined for a kind that the protocol does not have. May not keep `bytes`. */
  onMessage(device: string, kind: UpKind | undefined, bytes: Uint8Array): void;
  onConnected(device: string): void;
  onDisconnected(device: string): void;
  /**
   * A connection, or what came on one, was refused: the client id where one is known, why, and what
   * it was.
   */
  onRefused(device: string, reason: DropReason, detail: string): void;
};

export type BrokerOptions = {
  readonly site: string;
  readonly handlers: DeviceHandlers;
  readonly clock: Pick<Clock, "setTimer" | "monotonicMs">;
  /** In place of those in `limits.ts`. */
  readonly bounds?: { readonly addresses?: AddressBounds; readonly allowance?: AllowanceBounds };
  /** In place of the site's own rules, so that a test sees each check alone. */
  readonly access?: TopicAccess;
};

/** What the library has and its types leave out. */
type Pausable = Client & { pause(): void; resume(): void };
type Connect = { clientId: string; clean?: boolean; keepalive?: number; will?: unknown };

/** CONNACK return codes (MQTT 3.1.1, 3.2.2.3). */
const IDENTIFIER_REJECTED = 2;
const SERVER_UNAVAILABLE = 3;
const NOT_AUTHORIZED = 5;

const nothing = Buffer.alloc(0);

type ConnectRefusal = {
  readonly returnCode: number;
  readonly reason: DropReason;
  readonly message: string;
};

/** Why this CONNECT is not taken; undefined when it is. */
function judgeConnect({ clientId, will, keepalive = 0 }: Connect): ConnectRefusal | undefined {
  const refuse = (returnCode: number, reason: DropReason, message: string): ConnectRefusal => ({
    returnCode,
    reason,
    message,
  });
  if (!isId(clientId))
    return refuse(IDENTIFIER_REJECTED, "client-id", "the client id is no device id");
  if (will) return refuse(NOT_AUTHORIZED, "will", "wills are not used here");
  if (keepalive < 1 || keepalive > limits.keepaliveSecondsMax) {
    const range = `1 to ${limits.keepaliveSecondsMax} s`;
    return refuse(NOT_AUTHORIZED, "keepalive", `a keepalive of ${keepalive} s; ask for ${range}`);
  }
  return undefined;
}

/** What ends a connection by our own rules, and is told where they are applied. */
class Refused extends Error {}

/** Whether the library closes a connection for what came on it; an end of other kinds is no drop. */
function dropOf(error: Error): DropReason | undefined {
  if (error instanceof Refused || "code" in error) return undefined;
  switch (error.message) {
    case "keep alive timeout":
    case "connection closed":
      return undefined;
    case "connect did not arrive in time":
      return "connect-timeout";
    case "drain timeout":
      return "drain-timeout";
    default:
      return "protocol";
  }
}

const packetBounds = {
  publishBytes: wire.mqttPacketBytes,
  controlBytes: limits.controlPacketBytes,
} as const;

/** Serves MQTT 3.1.1 to one site's devices, once it listens. */
export async function createBroker(options: BrokerOptions): Promise<DeviceLink> {
  const { site, handlers, clock, bounds = {} } = options;
  const access = options.access ?? createTopicAccess(site);
  const addresses = createAddresses(bounds.addresses ?? limits.addresses, clock);
  const allowances = createAllowances(bounds.allowance ?? limits.allowance, clock);
  const connected = new Map<string, Pausable>();
  const verdicts = new WeakMap<Client, ConnectRefusal | "taken">();
  /** Of connections whose CONNECT was accepted. */
  const spending = new WeakMap<Client, Allowance>();
  const readings = new WeakMap<Client, MeteredReading & { welcomed(): void }>();

  const broker = await Aedes.createBroker({
    // Unbounded in the library's sense: a publish matches at most the `all` subscribers, and a
    // bound would queue up-going messages behind one slow device.
    concurrency: 0,
    connectTimeout: limits.connectTimeoutMs,
    drainTimeout: limits.drainTimeoutMs,
    maxClientsIdLength: wire.idChars,
    maxTopicLevels: limits.topicLevels,
    preConnect(client, packet, done) {
      const connect = packet as unknown as Connect;
      const message = "too much came of this device just now";
      const barred = { returnCode: SERVER_UNAVAILABLE, reason: "allowance", message } as const;
      const refusal = judgeConnect(connect);
      const open = allowances.barred(connect.clientId) ? barred : "taken";
      verdicts.set(client, refusal ?? open);
      // A server may discard session state (MQTT 3.1.1, 3.1.2.4). Kept sessions would queue
      // messages for absent devices without a bound; every message here is safe to repeat.
      connect.clean = true;
      // An answer can be given only by `authenticate`: what is refused here goes no further there.
      done(null, true);
    },
    authenticate(client, _username, _password, done) {
      const verdict = verdicts.get(client);
      if (verdict === "taken") return done(null, true);
      const { returnCode = NOT_AUTHORIZED, reason, message } = verdict ?? {};
      handlers.onRefused(client.id, reason ?? "client-id", message ?? "a CONNECT nobody judged");
      done(Object.assign(new Refused(message), { returnCode }) as AuthenticateError, false);
    },
    authorizeSubscribe(client, subscription, done) {
      const allowed = access.maySubscribe(client.id, subscription.topic);
      if (!allowed) {
        handlers.onRefused(client.id, "subscribe", subscription.topic.slice(0, 256));
        noteRefusal(client);
      }
      done(null, allowed ? subscription : null);
    },
    authorizePublish(client, packet, done) {
      const problem = client === null ? "publish" : takePublish(client as Pausable, packet);
      if (problem !== undefined) {
        handlers.onRefused(client?.id ?? "", problem, packet.topic.slice(0, 256));
        if (client !== null) noteRefusal(client);
      }
      // An error closes the connection: MQTT 3.1.1 has no other way to refuse a publish.
      done(problem === undefined ? null : new Refused(problem));
    },
    authorizeForward(client, packet) {
      return access.mayReceive(client.id, packet.topic) ? packet : null;
    },
  });
  broker.on("error" as "closed", () => {});
  for (const failing of ["clientError", "connectionError"] as const) {
    broker.on(failing, (client, error) => {
      const reason = dropOf(error);
      if (reason !== undefined) handlers.onRefused(client.id ?? "", reason, error.message);
    });
  }
  broker.on("client", (client) => {
    const older = connected.get(client.id);
    connected.set(client.id, client as Pausable);
    const allowance = allowances.take(client.id);
    allowance.greet();
    spending.set(client, allowance);
    // The library closes the older one, but loses sight of it when three come close together.
    if (older !== undefined && older !== client) {
      older.conn.destroy();
      handlers.onDisconnected(client.id);
    }
    handlers.onConnected(client.id);
  });
  broker.on("connackSent", ({ returnCode }, client) => {
    const allowance = spending.get(client);
    if (returnCode !== 0 || allowance === undefined) return;
    readings.get(client)?.welcomed();
    readings.get(client)?.admit(allowance);
  });

  /** Cuts a device off whose messages are refused time and again. */
  function noteRefusal(client: Client): void {
    if (spending.get(client)?.refuse() !== false || client.conn.destroyed) return;
    handlers.onRefused(client.id, "refusals", "too much of it is refused");
    client.conn.destroy();
  }

  /** Why a publish is not allowed at all; undefined when it was handed on. */
  function takePublish(
    client: Pausable,
    packet: AedesPublishPacket | object,
  ): DropReason | undefined {
    const { topic, qos, retain, payload } = packet as AedesPublishPacket;
    if (!access.mayPublish(client.id, topic)) return "publish";
    if (retain) return "retain";
    if (qos > 1) return "qos";
    if (connected.get(client.id) !== client || client.conn.destroyed) return "replaced";
    const parsed = parseTopic(topic);
    const kind = parsed?.way === "up" ? parsed.kind : undefined;
    if (kind === "hello") spending.get(client)?.greet();
    const bytes = typeof payload === "string" ? Buffer.from(payload) : payload;
    handlers.onMessage(client.id, kind, bytes);
    // Nobody subscribes to `up` topics; without this the payload would live until the library's
    // own delivery is through.
    (packet as AedesPublishPacket).payload = nothing;
    holdBack(client);
    return undefined;
  }

  /** Reads no more from a device that does not read: its requests would pile up as answers. */
  function holdBack(client: Pausable): void {
    const socket = client.conn as Socket;
    if (socket.writableLength <= limits.deviceBacklogBytes) return;
    client.pause();
    socket.once("drain", () => client.resume());
  }

  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    const { remoteAddress = "" } = socket;
    const visit = addresses.enter(remoteAddress);
    if (typeof visit === "string") {
      handlers.onRefused("", visit, remoteAddress);
      socket.on("error", () => {});
      socket.resetAndDestroy();
      return;
    }
    sockets.add(socket);
    socket.setNoDelay(true);
    const reading = meterReading(socket, packetBounds, clock, () =>
      handlers.onRefused(client.id ?? "", "packet", remoteAddress),
    );
    const client = broker.handle(socket);
    readings.set(client, { ...reading, welcomed: visit.welcomed });
    // The library's own disconnect event is skipped when a newer connection took the id over.
    socket.once("close", () => {
      sockets.delete(socket);
      visit.left();
      const allowance = spending.get(client);
      if (allowance !== undefined) allowances.giveBack(client.id, allowance);
      if (connected.get(client.id) !== client) return;
      connected.delete(client.id);
      handlers.onDisconnected(client.id);
    });
  });
  server.maxConnections = limits.connections;
  server.on("drop", (data) =>
    handlers.onRefused("", "connections", data?.remoteAddress ?? "an address unknown"),
  );

  const deliver = (device: string, topic: string, bytes: Uint8Array, sent?: () => void) => {
    const client = connected.get(device);
    if (client === undefined) return sent?.();
    const payload = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    spending.get(client)?.spend(0, bytes.length);
    client.publish(publication(topic, payload), () => sent?.());
  };
  return {
    listen: (host, port) => listen(server, host, port),
    send(device, kind, bytes, sent) {
      deliver(device, downTopic(site, device, kind), bytes, sent);
      const client = connected.get(device);
      if (kind === "refusal" && client !== undefined) noteRefusal(client);
    },
    sendAll: (device, kind, bytes) => deliver(device, allTopic(site, kind), bytes),
    broadcast(kind, bytes) {
      const payload = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      broker.publish(publication(allTopic(site, kind), payload), () => {});
    },
    async close() {
      // Closing a server that does not listen calls back with an error: it is closed all the same.
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await new Promise<void>((resolve) => broker.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** QoS 0: TCP carries it as reliably, and what a broken connection loses is asked for again. */
function publication(topic: string, payload: Buffer) {
  return { cmd: "publish", topic, payload, qos: 0, retain: false, dup: false } as const;
}

function listen(server: ReturnType<typeof createServer>, host: string, port: number) {
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
