import { limits as deviceLimits } from "@tributary/device-sdk/limits.js";
import type { Message, OpenLink } from "@tributary/device-sdk/link.js";
import { type Allowance, createAllowances } from "@tributary/gateway/allowances.js";
import type { BrokerOptions, DeviceLink } from "@tributary/gateway/broker.js";
import { limits as gatewayLimits } from "@tributary/gateway/limits.js";
import type { Timer } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import { allSchemas, downSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import {
  type AllKind,
  type DownKind,
  downKinds,
  type UpKind,
  upKinds,
} from "@tributary/proto/wire/topics.js";
import type { Network, Wire } from "./network.js";
import type { Life } from "./node.js";

/**
 * The device link as MQTT 3.1.1 with clean sessions gives it: in order while a connection lasts,
 * QoS 1 upwards with a PUBACK that says that the broker took the message and promises nothing, QoS 0
 * downwards, and nothing kept for who is away. A device that is refused time and again is cut off. What was under way on a connection that broke is lost;
 * a message upwards may come twice, as a redelivery does.
 */

const PORT = "mqtt";

/** Frames: one byte of kind, then the message. */
const frames = { connect: 1, connack: 2, publish: 3, puback: 4, all: 5 } as const;
type FrameKind = (typeof frames)[keyof typeof frames];

const text = new TextEncoder();
const words = new TextDecoder();

function frame(kind: FrameKind, about: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(2 + body.length);
  bytes[0] = kind;
  bytes[1] = about;
  bytes.set(body, 2);
  return bytes;
}

const none = new Uint8Array(0);

/** The gateway's side, in place of the broker. */
export function simulatedBroker(
  network: Network,
  life: Life,
  random: Random,
  duplicateRate: number,
): (options: BrokerOptions) => Promise<DeviceLink> {
  return async ({ handlers, clock }) => {
    const connected = new Map<string, Wire>();
    const allowances = createAllowances(gatewayLimits.allowance, clock);
    const spending = new Map<Wire, Allowance>();
    let stop = () => {};
    const giveBack = (device: string, wire: Wire) => {
      const allowance = spending.get(wire);
      if (spending.delete(wire) && allowance !== undefined) allowances.giveBack(device, allowance);
    };
    const leave = (device: string, wire: Wire) => {
      giveBack(device, wire);
      if (connected.get(device) !== wire) return;
      connected.delete(device);
      handlers.onDisconnected(device);
    };
    const take = (device: string, wire: Wire, bytes: Uint8Array) => {
      if (bytes.length > wireLimits.mqttPacketBytes) {
        handlers.onRefused(device, "packet", "");
        leave(device, wire);
        return wire.close();
      }
      const times = random.next() < duplicateRate ? 2 : 1;
      for (let i = 0; i < times; i++) {
        if (connected.get(device) !== wire) return;
        handlers.onMessage(device, upKinds[bytes[1] as number], bytes.slice(2));
        wire.send(frame(frames.puback, 0, none));
      }
    };
    const accept = (wire: Wire) => {
      let device: string | undefined;
      return {
        onMessage(bytes: Uint8Array) {
          if (bytes[0] === frames.publish && device !== undefined) return take(device, wire, bytes);
          if (bytes[0] !== frames.connect || device !== undefined) return;
          const name = words.decode(bytes.subarray(2));
          if (allowances.barred(name)) {
            handlers.onRefused(name, "allowance", "");
            return wire.close();
          }
          device = name;
          const allowance = allowances.take(device);
          allowance.greet();
          spending.set(wire, allowance);
          const older = connected.get(device);
          connected.set(device, wire);
          if (older !== undefined) {
            giveBack(device, older);
            older.close();
            handlers.onDisconnected(device);
          }
          handlers.onConnected(device);
          wire.send(frame(frames.connack, 0, none));
        },
        onClose() {
          if (device !== undefined) leave(device, wire);
        },
      };
    };
    const deliver = (device: string, bytes: Uint8Array, sent?: () => void) => {
      const wire = connected.get(device);
      if (wire === undefined) sent?.();
      else wire.send(bytes, sent);
    };
    const all = (kind: AllKind, bytes: Uint8Array) => {
      if (kind !== "published") throw new Error(`no frame for ${kind}`);
      return frame(frames.all, 0, bytes);
    };
    return {
      async listen() {
        stop = network.listen(life, PORT, accept);
        return 1;
      },
      send(device, kind, bytes, sent) {
        deliver(device, frame(frames.publish, downKinds.indexOf(kind), bytes), sent);
        const wire = kind === "refusal" ? connected.get(device) : undefined;
        if (wire === undefined || spending.get(wire)?.refuse() !== false) return;
        handlers.onRefused(device, "refusals", "");
        leave(device, wire);
        wire.close();
      },
      sendAll: (device, kind, bytes) => deliver(device, all(kind, bytes)),
      broadcast(kind, bytes) {
        for (const wire of connected.values()) wire.send(all(kind, bytes));
      },
      async close() {
        stop();
        for (const wire of connected.values()) wire.close();
        connected.clear();
      },
    };
  };
}

/** What passes at a device, for who keeps account of it. */
export type DeviceTap = {
  sent(kind: UpKind, header: object, payload: Uint8Array): void;
  received(message: Message): void;
};

/** The device's side, in place of MQTT. @param gateway names the machine that the URL leads to */
export function simulatedLink(
  network: Network,
  life: Life,
  gateway: string,
  tap: DeviceTap,
): OpenLink {
  return ({ device, clock, random, hello, onUp, onDown, onMessage, onUnreadable }) => {
    let wire: Wire | undefined;
    let timer: Timer | undefined;
    let attempt = 0;
    let welcomed = false;
    let closing = false;
    let acked = false;
    let unacknowledged: { resolve(): void; reject(error: Error): void }[] = [];

    const down = (from: Wire | undefined, reason: string) => {
      if (from !== wire || wire === undefined) return;
      wire = undefined;
      welcomed = false;
      acked = false;
      const broken = unacknowledged;
      unacknowledged = [];
      for (const { reject } of broken) reject(new Error("the connection broke"));
      timer?.cancel();
      from?.close();
      if (closing) return;
      const { backoffBaseMs: baseMs, backoffCapMs: capMs } = deviceLimits;
      const retryMs = jitteredBackoff(random, attempt++, { baseMs, capMs });
      timer = clock.setTimer(retryMs, dial);
      onDown(reason, retryMs);
    };
    const publish = (kind: UpKind, header: object, payload: Uint8Array = none) => {
      if (wire === undefined || !acked) return Promise.reject(new Error("not connected"));
      if (unacknowledged.length >= deviceLimits.unacknowledged)
        return Promise.reject(new Error("too much is unacknowledged"));
      tap.sent(kind, header, payload);
      wire.send(frame(frames.publish, upKinds.indexOf(kind), encodeEnvelope(header, payload)));
      return new Promise<void>((resolve, reject) => unacknowledged.push({ resolve, reject }));
    };
    const receive = (kind: DownKind | AllKind, bytes: Uint8Array) => {
      const schema =
        kind === "published" || kind === "denylist" ? allSchemas[kind] : downSchemas[kind];
      const read = decodeEnvelope(schema, bytes, wireLimits.downHeaderBytes);
      if (!read.ok) return onUnreadable(kind, read.code, read.message);
      if (read.payload.length > wireLimits.chunkBytes)
        return onUnreadable(kind, "too-large", `a payload of ${read.payload.length} bytes`);
      // The schema was chosen by the kind, which the type system does not follow through the table.
      const message = { kind, header: read.header, payload: read.payload } as Message;
      tap.received(message);
      if (message.kind !== "welcome") return onMessage(message);
      attempt = 0;
      timer?.cancel();
      const first = !welcomed;
      welcomed = true;
      if (first) onUp(message.header);
    };
    const take = (bytes: Uint8Array) => {
      const body = bytes.slice(2);
      if (bytes[0] === frames.puback) unacknowledged.shift()?.resolve();
      else if (bytes[0] === frames.all) receive("published", body);
      else if (bytes[0] === frames.publish)
        receive(downKinds[bytes[1] as number] as DownKind, body);
      else if (bytes[0] === frames.connack && !acked) {
        acked = true;
        publish("hello", hello()).catch(() => {});
      }
    };
    const dial = () => {
      const keepaliveMs = wireLimits.mqttKeepaliveSeconds * 1_000;
      const dialled = network.dial(life, gateway, PORT, keepaliveMs, {
        onMessage(bytes) {
          if (dialled === wire) take(bytes);
        },
        onClose: (reason) => down(dialled, reason),
      });
      wire = dialled;
      dialled.send(frame(frames.connect, 0, text.encode(device)));
      timer = clock.setTimer(deviceLimits.connectMs, () => down(dialled, "no welcome in time"));
    };

    dial();
    return {
      publish,
      async close() {
        closing = true;
        timer?.cancel();
        const last = wire;
        wire = undefined;
        last?.close();
      },
    };
  };
}
