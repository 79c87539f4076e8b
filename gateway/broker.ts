import type { Socket } from "node:net";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
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
import {
  type Connect,
  type ConnectRefusal,
  isPetitioner,
  judgeConnect,
  type Session,
  unavailable,
  unjudged,
} from "./broker-connect.js";
import { type Arrival, createListener, type ShownIdentity } from "./broker-listener.js";
import { createPetitioners } from "./broker-petitioners.js";
import type { Credential, DeviceAccess } from "./device-access.js";
import type { Petitioner } from "./device-enrol.js";
import type { DropReason } from "./drops.js";
import { limits } from "./limits.js";
import { type MeteredReading, meterReading } from "./metered-reading.js";
import { createPetitionAccess, createTopicAccess, type TopicAccess } from "./topic-access.js";

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
  /** @param credential what it has shown, where anything is asked for */
  onConnected(device: string, credential?: Credential): void;
  onDisconnected(device: string): void;
  /** One that is no device yet, or no more, asks for a certificate. May not keep `bytes`. */
  onPetition?(petitioner: Petitioner, asks: "enrol" | "renew", bytes: Uint8Array): void;
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
  /** What the gateway shows in TLS. Without it the listener is plain. */
  readonly identity?: ShownIdentity;
  /** Decides who may connect. Without it everybody is who they say. */
  readonly admission?: DeviceAccess;
  /** In place of the site's own rules, so that a test sees each check alone. */
  readonly access?: TopicAccess;
};

/** What the library has and its types leave out. */
type Pausable = Client & { pause(): void; resume(): void };
const nothing = Buffer.alloc(0);

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
  const { site, handlers, clock, admission, bounds = {} } = options;
  const access = {
    device: options.access ?? createTopicAccess(site),
    newcomer: createPetitionAccess(site, "enrol"),
    late: createPetitionAccess(site, "renew"),
  };
  const addresses = createAddresses(bounds.addresses ?? limits.addresses, clock);
  const allowances = createAllowances(bounds.allowance ?? limits.allowance, clock);
  /** By client id: of a petitioner one of its own, so that it takes nobody's place. */
  const connected = new Map<string, Pausable>();
  const petitioners = createPetitioners(clock);
  const arrivals = new WeakMap<Client, Arrival>();
  const verdicts = new WeakMap<Client, ConnectRefusal | Session>();
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
      // A server may discard session state (MQTT 3.1.1, 3.1.2.4). Kept sessions would queue
      // messages for absent devices without a bound; every message here is safe to repeat.
      connect.clean = true;
      // An answer can be given only by `authenticate`: what is refused here goes no further there.
      void admit(client, connect)
        // What cannot even be judged is not taken: nobody who connects ends the process.
        .catch(() => verdicts.delete(client))
        .then(() => done(null, true));
    },
    authenticate(client, _username, _password, done) {
      const verdict = verdicts.get(client) ?? unjudged;
      if (verdict.taken) return done(null, true);
      const { returnCode, reason, message } = verdict;
      handlers.onRefused(deviceOf(client), reason, message);
      done(Object.assign(new Refused(message), { returnCode }) as AuthenticateError, false);
    },
    authorizeSubscribe(client, subscription, done) {
      const allowed = accessOf(client).maySubscribe(deviceOf(client), subscription.topic);
      if (!allowed) {
        handlers.onRefused(deviceOf(client), "subscribe", subscription.topic.slice(0, 256));
        noteRefusal(client);
      }
      done(null, allowed ? subscription : null);
    },
    authorizePublish(client, packet, done) {
      const problem = client === null ? "publish" : takePublish(client as Pausable, packet);
      if (problem !== undefined) {
        const device = client === null ? "" : deviceOf(client);
        handlers.onRefused(device, problem, packet.topic.slice(0, 256));
        if (client !== null) noteRefusal(client);
      }
      // An error closes the connection: MQTT 3.1.1 has no other way to refuse a publish.
      done(problem === undefined ? null : new Refused(problem));
    },
    authorizeForward(client, packet) {
      return accessOf(client).mayReceive(deviceOf(client), packet.topic) ? packet : null;
    },
  });
  broker.on("error" as "closed", () => {});
  for (const failing of ["clientError", "connectionError"] as const) {
    broker.on(failing, (client, error) => {
      const reason = dropOf(error);
      if (reason !== undefined) handlers.onRefused(deviceOf(client), reason, error.message);
    });
  }
  broker.on("client", (client) => {
    const older = connected.get(client.id);
    connected.set(client.id, client as Pausable);
    const allowance = allowances.take(spenderOf(client));
    allowance.greet();
    spending.set(client, allowance);
    const session = sessionOf(client);
    if (session === undefined || isPetitioner(session)) return;
    // The library closes the older one, but loses sight of it when three come close together.
    if (older !== undefined && older !== client) {
      older.conn.destroy();
      handlers.onDisconnected(client.id);
    }
    const { standing } = session;
    handlers.onConnected(client.id, standing.as === "device" ? standing.credential : undefined);
  });
  broker.on("connackSent", ({ returnCode }, client) => {
    const allowance = spending.get(client);
    if (returnCode !== 0 || allowance === undefined) return;
    readings.get(client)?.welcomed();
    readings.get(client)?.admit(allowance);
  });

  /** Judges who comes. A petitioner is called by a name that no device can have. */
  async function admit(client: Client, connect: Connect): Promise<void> {
    const arrival = arrivals.get(client);
    if (arrival === undefined) return;
    if (allowances.barred(connect.clientId)) {
      verdicts.set(client, unavailable("allowance", "too much came of this device just now"));
      return;
    }
    const verdict = await judgeConnect(connect, arrival.certificates, admission);
    if (!verdict.taken || !isPetitioner(verdict)) return void verdicts.set(client, verdict);
    const name = petitioners.enter(arrival, () =>
      handlers.onRefused(verdict.device, "petitioners", "it stayed too long"),
    );
    if (name === undefined) {
      const message = "as many as can be ask for a certificate just now";
      return void verdicts.set(client, unavailable("petitioners", message));
    }
    connect.clientId = name;
    verdicts.set(client, verdict);
  }

  function sessionOf(client: Client): Session | undefined {
    const verdict = verdicts.get(client);
    return verdict?.taken ? verdict : undefined;
  }

  /** The device that a connection is of, or says to be of where nothing is known yet. */
  const deviceOf = (client: Client): string => sessionOf(client)?.device ?? client.id ?? "";

  /** Whose allowance a connection spends: a petitioner's name proves nothing, its address is there. */
  function spenderOf(client: Client): string {
    const session = sessionOf(client);
    const petitions = session !== undefined && isPetitioner(session);
    return petitions ? `~${arrivals.get(client)?.address}` : client.id;
  }

  function accessOf(client: Client): TopicAccess {
    const as = sessionOf(client)?.standing.as;
    return as === "newcomer" || as === "late" ? access[as] : access.device;
  }

  /** Cuts a device off whose messages are refused time and again. */
  function noteRefusal(client: Client): void {
    if (spending.get(client)?.refuse() !== false || client.conn.destroyed) return;
    handlers.onRefused(deviceOf(client), "refusals", "too much of it is refused");
    client.conn.destroy();
  }

  /** Why a publish is not allowed at all; undefined when it was handed on. */
  function takePublish(
    client: Pausable,
    packet: AedesPublishPacket | object,
  ): DropReason | undefined {
    const { topic, qos, retain, payload } = packet as AedesPublishPacket;
    if (!accessOf(client).mayPublish(deviceOf(client), topic)) return "publish";
    if (retain) return "retain";
    if (qos > 1) return "qos";
    if (connected.get(client.id) !== client || client.conn.destroyed) return "replaced";
    const parsed = parseTopic(topic);
    const kind = parsed?.way === "up" ? parsed.kind : undefined;
    if (kind === "hello") spending.get(client)?.greet();
    const bytes = typeof payload === "string" ? Buffer.from(payload) : payload;
    if (!handOver(client, kind, bytes)) return "publish";
    // Nobody subscribes to `up` topics; without this the payload would live until the library's
    // own delivery is through.
    (packet as AedesPublishPacket).payload = nothing;
    holdBack(client);
    return undefined;
  }

  function handOver(client: Pausable, kind: UpKind | undefined, bytes: Uint8Array): boolean {
    const session = sessionOf(client);
    if (session === undefined) return false;
    const { device, standing } = session;
    if (!isPetitioner(session)) {
      handlers.onMessage(device, kind, bytes);
      return true;
    }
    if (kind !== "enrol" && kind !== "renew") return false;
    const claim = standing.as === "newcomer" ? standing.claim : undefined;
    const send: Petitioner["send"] = (answer, message) => {
      if (connected.get(client.id) !== client) return;
      deliver(client.id, downTopic(site, device, answer), message);
      if (answer === "refusal") noteRefusal(client);
    };
    handlers.onPetition?.({ device, claim, send }, kind, bytes);
    return true;
  }

  /** Reads no more from a device that does not read: its requests would pile up as answers. */
  function holdBack(client: Pausable): void {
    const socket = client.conn as Socket;
    if (socket.writableLength <= limits.deviceBacklogBytes) return;
    client.pause();
    socket.once("drain", () => client.resume());
  }

  const listener = createListener({
    addresses,
    identity: options.identity,
    onRefused: (reason, detail) => handlers.onRefused("", reason, detail),
    onArrival(arrival) {
      const { socket, visit, address } = arrival;
      const reading = meterReading(socket, packetBounds, clock, () =>
        handlers.onRefused(deviceOf(client), "packet", address),
      );
      const client = broker.handle(socket);
      arrivals.set(client, arrival);
      readings.set(client, { ...reading, welcomed: visit.welcomed });
      // The library's own disconnect event is skipped when a newer connection took the id over.
      socket.once("close", () => {
        petitioners.left(arrival);
        const allowance = spending.get(client);
        if (allowance !== undefined) allowances.giveBack(spenderOf(client), allowance);
        if (connected.get(client.id) !== client) return;
        connected.delete(client.id);
        const session = sessionOf(client);
        if (session !== undefined && !isPetitioner(session)) handlers.onDisconnected(client.id);
      });
    },
  });

  /** Ends connections that may not go on. */
  function cutWhere(objection: (session: Session) => string | undefined): number {
    let count = 0;
    for (const client of connected.values()) {
      const session = sessionOf(client);
      const why = session && objection(session);
      if (why === undefined || client.conn.destroyed) continue;
      handlers.onRefused(deviceOf(client), "credential", why);
      client.conn.destroy();
      count++;
    }
    return count;
  }

  let sweeping: Timer | undefined;
  function sweep(by: DeviceAccess): void {
    sweeping = clock.setTimer(limits.accessSweepMs, () => {
      cutWhere(({ device, standing }) => {
        const refusal = by.objection(device, standing);
        return refusal && `${refusal.code}: ${refusal.message}`;
      });
      sweep(by);
    });
  }
  if (admission !== undefined) sweep(admission);

  const deliver = (device: string, topic: string, bytes: Uint8Array, sent?: () => void) => {
    const client = connected.get(device);
    if (client === undefined) return sent?.();
    const payload = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    spending.get(client)?.spend(0, bytes.length);
    client.publish(publication(topic, payload), () => sent?.());
  };
  return {
    listen: listener.listen,
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
    cut: (isVoid) =>
      cutWhere(({ device, standing }) => {
        if (standing.as !== "device" && standing.as !== "late") return undefined;
        const { by, givenAt } = standing.credential;
        return isVoid(device, givenAt) ? `${by}-revoked: the device was revoked` : undefined;
      }),
    async close() {
      sweeping?.cancel();
      petitioners.close();
      await listener.close(() => new Promise((resolve) => broker.close(() => resolve())));
    },
  };
}

/** QoS 0: TCP carries it as reliably, and what a broken connection loses is asked for again. */
function publication(topic: string, payload: Buffer) {
  return { cmd: "publish", topic, payload, qos: 0, retain: false, dup: false } as const;
}
