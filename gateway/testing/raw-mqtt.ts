import { once } from "node:events";
import { createConnection } from "node:net";
import { until } from "./wait.js";

/** MQTT 3.1.1 packets byte by byte, for what no client library would send. */

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(2);
  length.writeUInt16BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

/** @param first packet type and flags (MQTT 3.1.1, 2.2) */
function packet(first: number, ...parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  const head = [first];
  let rest = body.length;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    head.push(rest > 0 ? low + 128 : low);
  } while (rest > 0);
  return Buffer.concat([Uint8Array.from(head), body]);
}

const twoBytes = (value: number): Uint8Array => Uint8Array.of(value >> 8, value & 255);

export type Will = { readonly topic: string; readonly retain?: boolean };

export function connectPacket(clientId: string, will?: Will): Buffer {
  const clean = 0x02;
  const willFlags = will === undefined ? 0 : 0x04 | (will.retain ? 0x20 : 0);
  const head = [text("MQTT"), Uint8Array.of(4, clean | willFlags), twoBytes(60)];
  const last = will === undefined ? [] : [text(will.topic), text("gone")];
  return packet(0x10, ...head, text(clientId), ...last);
}

/** QoS 0 unless an id is given. */
export function publishPacket(
  topic: string,
  payload: Uint8Array,
  { id, retain = false }: { readonly id?: number; readonly retain?: boolean } = {},
): Buffer {
  const flags = (id === undefined ? 0 : 0x02) | (retain ? 0x01 : 0);
  const named = id === undefined ? [] : [twoBytes(id)];
  return packet(0x30 | flags, text(topic), ...named, payload);
}

export function subscribePacket(id: number, filters: readonly string[]): Buffer {
  const wanted = filters.flatMap((filter) => [text(filter), Uint8Array.of(0)]);
  return packet(0x82, twoBytes(id), ...wanted);
}

/** The beginning of a packet's body is kept: enough for every answer that a test looks into. */
export type RawPacket = { readonly type: number; readonly body: Buffer };
const KEPT_BYTES = 64;

/** A connection on which a test says what it likes, and sees what comes back. */
export type RawMqtt = {
  readonly received: readonly RawPacket[];
  readonly closed: boolean;
  /** False when the socket would rather have the caller wait. */
  send(...bytes: readonly Uint8Array[]): boolean;
  drained(): Promise<void>;
  /** Sends a CONNECT; resolves with the answer's return code (MQTT 3.1.1, 3.2.2.3). */
  connect(clientId: string, will?: Will): Promise<number>;
  /** Return codes of a SUBACK (MQTT 3.1.1, 3.9.3). */
  subscribe(filters: readonly string[]): Promise<number[]>;
  count(type: number): number;
  close(): void;
};

export const packetTypes = { connack: 2, publish: 3, puback: 4, suback: 9, pingresp: 13 } as const;

export const pingPacket = Uint8Array.of(0xc0, 0);

export async function openRawMqtt(port: number): Promise<RawMqtt> {
  const socket = createConnection(port, "127.0.0.1");
  const received: RawPacket[] = [];
  const counts = new Map<number, number>();
  let closed = false;
  let rest: Buffer = Buffer.alloc(0);
  const count = (type: number): number => counts.get(type) ?? 0;
  socket.on("error", () => {});
  socket.once("close", () => {
    closed = true;
  });
  socket.on("data", (bytes: Buffer) => {
    rest = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
    for (let found = take(rest); found !== undefined; found = take(rest)) {
      const { type } = found.packet;
      received.push(found.packet);
      counts.set(type, count(type) + 1);
      rest = rest.subarray(found.bytes);
    }
  });
  await once(socket, "connect").catch(() => {});
  const of = (type: number) => received.filter((p) => p.type === type);
  const answer = async (type: number, before: number): Promise<RawPacket> => {
    await until(`an answer of type ${type}`, () => closed || count(type) > before);
    const last = of(type).at(before);
    if (last === undefined) throw new Error("the connection was closed");
    return last;
  };
  return {
    received,
    get closed() {
      return closed;
    },
    send: (...bytes) => socket.write(Buffer.concat(bytes)),
    async drained() {
      if (socket.writableNeedDrain && !closed) {
        await Promise.race([once(socket, "drain"), once(socket, "close")]).catch(() => {});
      }
    },
    async connect(clientId, will) {
      socket.write(connectPacket(clientId, will));
      return (await answer(packetTypes.connack, 0)).body[1] as number;
    },
    async subscribe(filters) {
      const before = count(packetTypes.suback);
      socket.write(subscribePacket(1, filters));
      return [...(await answer(packetTypes.suback, before)).body.subarray(2)];
    },
    count,
    close: () => socket.destroy(),
  };
}

/** The first packet in the bytes, once it is whole. */
function take(bytes: Buffer): { readonly packet: RawPacket; readonly bytes: number } | undefined {
  let length = 0;
  for (let i = 1; i < bytes.length; i++) {
    const byte = bytes[i] as number;
    length += (byte & 127) * 128 ** (i - 1);
    if (byte >= 128) continue;
    const end = i + 1 + length;
    if (bytes.length < end) return undefined;
    const type = (bytes[0] as number) >> 4;
    return {
      packet: { type, body: Buffer.from(bytes.subarray(i + 1, Math.min(end, i + 1 + KEPT_BYTES))) },
      bytes: end,
    };
  }
  return undefined;
}
