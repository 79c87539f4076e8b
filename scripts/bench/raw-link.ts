import { connect } from "node:net";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import {
  type DownKind,
  deviceFilters,
  parseTopic,
  type UpKind,
  upTopic,
} from "@tributary/proto/wire/topics.js";

/**
 * A device's connection, written to the socket by hand so that sending costs next to nothing: a
 * payload is never copied, and all devices may share one. Speaks as much of MQTT 3.1.1 as a
 * gateway's device needs; clause numbers are of that specification.
 */
export type RawLink = {
  /** Publishes with QoS 1; `acknowledged` is called at its PUBACK. */
  publish(kind: UpKind, header: object, payload?: Uint8Array, acknowledged?: () => void): void;
  /** Keeps an idle connection from being closed. */
  ping(): void;
  close(): void;
};

export type RawLinkOptions = {
  readonly port: number;
  readonly site: string;
  readonly device: string;
  /** Subscribed to its topics. */
  readonly onUp: () => void;
  readonly onMessage: (kind: DownKind, bytes: Uint8Array) => void;
  /** The connection is gone though nobody closed it. */
  readonly onLost: () => void;
};

/** Types of control packets with their fixed flags (2.2.1, 2.2.2). */
const packets = {
  connect: 0x10,
  connack: 2,
  publish: 3,
  publishQos1: 0x32,
  puback: 4,
  subscribe: 0x82,
  suback: 9,
  pingreq: 0xc0,
  pingresp: 13,
} as const;

const PACKET_IDS = 0xffff;

export function openRawLink(options: RawLinkOptions): RawLink {
  const { site, device } = options;
  const socket = connect({ host: "127.0.0.1", port: options.port, noDelay: true });
  const waiting = new Map<number, () => void>();
  let nextId = 1;
  let isClosed = false;

  socket.on("error", () => {});
  socket.on("close", () => {
    if (!isClosed) options.onLost();
  });
  socket.on("connect", () => {
    const variable = Buffer.from([...text("MQTT"), 4, 0b10, ...short(wire.mqttKeepaliveSeconds)]);
    socket.write(packet(packets.connect, variable, text(device)));
  });
  const take = (type: number, body: Buffer): void => {
    switch (type) {
      case packets.connack: {
        const filters = deviceFilters(site, device).map((f) => Buffer.from([...text(f), 0]));
        socket.write(packet(packets.subscribe, short(nextId++), ...filters));
        return;
      }
      case packets.suback:
        return options.onUp();
      case packets.puback: {
        const id = body.readUInt16BE(0);
        const acknowledged = waiting.get(id);
        waiting.delete(id);
        return acknowledged?.();
      }
      case packets.publish: {
        // Always QoS 0, so no packet id stands between topic and payload (3.3.2.2).
        const topicEnd = 2 + body.readUInt16BE(0);
        const topic = parseTopic(body.toString("utf8", 2, topicEnd));
        if (topic?.way === "down") options.onMessage(topic.kind, body.subarray(topicEnd));
        return;
      }
      case packets.pingresp:
        return;
      default:
        socket.destroy(new Error(`a packet of type ${type}`));
    }
  };
  socket.on("data", packetReader(take));

  return {
    publish(kind, header, payload, acknowledged) {
      const id = nextId;
      nextId = (nextId % PACKET_IDS) + 1;
      if (acknowledged !== undefined) waiting.set(id, acknowledged);
      const topic = text(upTopic(site, device, kind));
      const envelope = encodeEnvelope(header);
      const length = topic.length + 2 + envelope.length + (payload?.length ?? 0);
      socket.cork();
      socket.write(
        Buffer.concat([fixedHeader(packets.publishQos1, length), topic, short(id), envelope]),
      );
      if (payload !== undefined) socket.write(payload);
      socket.uncork();
    },
    ping: () => void socket.write(Buffer.from([packets.pingreq, 0])),
    close() {
      isClosed = true;
      socket.destroy();
    },
  };
}

function short(value: number): Buffer {
  return Buffer.from([value >> 8, value & 0xff]);
}

/** A UTF-8 string with its length before it (1.5.3). */
function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([short(bytes.length), bytes]);
}

/** Type, flags and the remaining length, seven bits a byte (2.2.3). */
function fixedHeader(type: number, length: number): Buffer {
  const bytes = [type];
  let rest = length;
  do {
    const more = rest >= 128;
    bytes.push((rest & 127) | (more ? 128 : 0));
    rest >>>= 7;
  } while (rest > 0);
  return Buffer.from(bytes);
}

function packet(type: number, ...parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  return Buffer.concat([fixedHeader(type, body.length), body]);
}

/** Cuts a stream of bytes into packets; a packet is joined once, when all of it is there. */
function packetReader(take: (type: number, body: Buffer) => void): (bytes: Buffer) => void {
  let held: Buffer[] = [];
  let heldBytes = 0;
  let wantedBytes = 2;

  return (bytes) => {
    held.push(bytes);
    heldBytes += bytes.length;
    if (heldBytes < wantedBytes) return;
    let all = held.length === 1 ? bytes : Buffer.concat(held);
    for (;;) {
      const length = remainingLength(all);
      wantedBytes = length === undefined ? all.length + 1 : length.bodyAt + length.bytes;
      if (length === undefined || all.length < wantedBytes) break;
      take((all[0] as number) >> 4, all.subarray(length.bodyAt, wantedBytes));
      all = all.subarray(wantedBytes);
    }
    held = all.length > 0 ? [all] : [];
    heldBytes = all.length;
  };
}

function remainingLength(bytes: Buffer): { bodyAt: number; bytes: number } | undefined {
  let value = 0;
  for (let i = 1; i <= 4 && i < bytes.length; i++) {
    const byte = bytes[i] as number;
    value += (byte & 127) * 128 ** (i - 1);
    if (byte < 128) return { bodyAt: i + 1, bytes: value };
  }
  return undefined;
}
