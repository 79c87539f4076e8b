import { createServer, type Socket } from "node:net";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { isId } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import {
  type AllKind,
  allTopic,
  type DownKind,
  deviceFilters,
  downTopic,
  parseTopic,
  type UpKind,
  upTopic,
} from "@tributary/proto/wire/topics.js";
import { Aedes, type AedesPublishPacket, type AuthenticateError, type Client } from "aedes";
import { limits } from "./limits.js";
import { createPacketGate } from "./packet-gate.js";

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
  close(): Promise<void>;
};

export type DeviceHandlers = {
  /** `kind` is undefined for a kind that the protocol does not have. May not keep `bytes`. */
  onMessage(device: string, kind: UpKind | undefined, bytes: Uint8Array): void;
  onConnected(device: string): void;
  onDisconnected(device: string): void;
  /** A connection was refused or cut: why, and the client id where one is known. */
  onRefused(device: string, reason: string): void;
};

export type BrokerOptions = {
  readonly site: string;
  readonly handlers: DeviceHandlers;
};

/** What the library has and its types leave out. */
type Pausable = Client & { pause(): void; resume(): void };
type Connect = { clientId: string; clean?: boolean; keepalive?: number; will?: unknown };

/** CONNACK return codes (MQTT 3.1.1, 3.2.2.3). */
const IDENTIFIER_REJECTED = 2;
const NOT_AUTHORIZED = 5;

const nothing = Buffer.alloc(0);

function refuseConnect(returnCode: number, message: string): AuthenticateError {
  return Object.assign(new Error(message), { returnCode }) as AuthenticateError;
}

/** Why this CONNECT is not taken; undefined when it is. */
function judgeConnect({ clientId, will, keepalive = 0 }: Connect): AuthenticateError | undefined {
  if (!isId(clientId)) return refuseConnect(IDENTIFIER_REJECTED, "the client id is no device id");
  if (will) return refuseConnect(NOT_AUTHORIZED, "wills are not used here");
  if (keepalive < 1 || keepalive > limits.keepaliveSecondsMax) {
    const range = `1 to ${limits.keepaliveSecondsMax} s`;
    return refuseConnect(NOT_AUTHORIZED, `a keepalive of ${keepalive} s; ask for ${range}`);
  }
  return undefined;
}

function maySubscribe(site: string, device: string, filter: string): boolean {
  if (deviceFilters(site, device).includes(filter)) return true;
  const topic = parseTopic(filter);
  if (topic?.site !== site) return false;
  return topic.way === "all" || (topic.way === "down" && topic.device === device);
}

/** Serves MQTT 3.1.1 to one site's devices, once it listens. */
export async function createBroker(options: BrokerOptions): Promise<DeviceLink> {
  const { site, handlers } = options;
  const connected = new Map<string, Pausable>();
  const verdicts = new WeakMap<Client, AuthenticateError | undefined>();

  const broker = await Aedes.createBroker({
    // Unbounded in the library's sense: a publish matches at most the `all` subscribers, and a
    // bound would queue up-going messages behind one slow device.
    concurrency: 0,
    connectTimeout: limits.connectTimeoutMs,
    drainTimeout: limits.drainTimeoutMs,
    maxClientsIdLength: wire.idChars,
    preConnect(client, packet, done) {
      const connect = packet as unknown as Connect;
      verdicts.set(client, judgeConnect(connect));
      // A server may discard session state (MQTT 3.1.1, 3.1.2.4). Kept sessions would queue
      // messages for absent devices without a bound; every message here is safe to repeat.
      connect.clean = true;
      done(null, true);
    },
    authenticate(client, _username, _password, done) {
      const refusal = verdicts.get(client);
      if (refusal === undefined) return done(null, true);
      handlers.onRefused(client.id, refusal.message);
      done(refusal, false);
    },
    authorizeSubscribe(client, subscription, done) {
      const allowed = maySubscribe(site, client.id, subscription.topic);
      if (!allowed) handlers.onRefused(client.id, `subscribe to ${subscription.topic}`);
      done(null, allowed ? subscription : null);
    },
    authorizePublish(client, packet, done) {
      const problem = client === null ? "no client" : takePublish(client as Pausable, packet);
      if (problem !== undefined) handlers.onRefused(client?.id ?? "", problem);
      // An error closes the connection: MQTT 3.1.1 has no other way to refuse a publish.
      done(problem === undefined ? null : new Error(problem));
    },
  });
  broker.on("error" as "closed", () => {});
  broker.on("client", (client) => {
    const older = connected.get(client.id);
    connected.set(client.id, client as Pausable);
    // The library closes the older one, but loses sight of it when three come close together.
    if (older !== undefined && older !== client) {
      older.conn.destroy();
      handlers.onDisconnected(client.id);
    }
    handlers.onConnected(client.id);
  });

  /** Why a publish is not allowed at all; undefined when it was handed on. */
  function takePublish(client: Pausable, packet: AedesPublishPacket | object): string | undefined {
    const { topic, qos, retain, payload } = packet as AedesPublishPacket;
    const own = upTopic(site, client.id, "hello").slice(0, -"hello".length);
    if (!topic.startsWith(own) || topic.indexOf("/", own.length) >= 0) {
      return `publish to ${topic.slice(0, 256)}`;
    }
    if (retain) return "a retained publish";
    if (qos > 1) return "a publish with QoS 2";
    if (connected.get(client.id) !== client) return "a publish on a replaced connection";
    const parsed = parseTopic(topic);
    const bytes = typeof payload === "string" ? Buffer.from(payload) : payload;
    handlers.onMessage(client.id, parsed?.way === "up" ? parsed.kind : undefined, bytes);
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
    sockets.add(socket);
    socket.setNoDelay(true);
    gate(socket, handlers);
    const client = broker.handle(socket);
    // The library's own disconnect event is skipped when a newer connection took the id over.
    socket.once("close", () => {
      sockets.delete(socket);
      if (connected.get(client.id) !== client) return;
      connected.delete(client.id);
      handlers.onDisconnected(client.id);
    });
  });
  server.maxConnections = limits.connections;
  server.on("drop", () => handlers.onRefused("", `more than ${limits.connections} connections`));

  const deliver = (device: string, topic: string, bytes: Uint8Array, sent?: () => void) => {
    const client = connected.get(device);
    if (client === undefined) return sent?.();
    const payload = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    client.publish(publication(topic, payload), () => sent?.());
  };
  return {
    listen: (host, port) => listen(server, host, port),
    send: (device, kind, bytes, sent) =>
      deliver(device, downTopic(site, device, kind), bytes, sent),
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

/**
 * The library takes bytes from its connection through `read` alone, so this is the one place to
 * look at them first, without a copy or a second buffer.
 */
function gate(socket: Socket, handlers: DeviceHandlers): void {
  const passes = createPacketGate({
    publishBytes: wire.mqttPacketBytes,
    controlBytes: limits.controlPacketBytes,
  });
  const read = socket.read.bind(socket);
  socket.read = (size?: number) => {
    const bytes: Buffer | null = read(size);
    if (bytes === null || passes(bytes)) return bytes;
    handlers.onRefused("", "an MQTT packet past its bound");
    socket.destroy();
    return null;
  };
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
