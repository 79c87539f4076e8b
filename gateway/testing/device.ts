import {
  type All,
  allSchemas,
  type Down,
  downSchemas,
  type Up,
} from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import {
  type AllKind,
  type DownKind,
  deviceFilters,
  parseTopic,
  type UpKind,
  upTopic,
} from "@tributary/proto/wire/topics.js";
import { connectAsync, type IClientOptions } from "mqtt";
import type { SampleUpdate } from "./sample.js";
import { until } from "./wait.js";

type Message = { readonly kind: string; readonly header: unknown; readonly payload: Uint8Array };

/** A device as bare as the protocol: nothing is answered or repeated by itself. */
export type TestDevice = {
  readonly device: string;
  readonly messages: readonly Message[];
  readonly connected: boolean;
  /** Headers of one kind received so far. */
  got<K extends DownKind>(kind: K): Down<K>[];
  published(): All<"published">[];
  /** The newest message of a kind, once there are `count`. */
  next<K extends DownKind>(kind: K, count?: number): Promise<Down<K>>;
  say<K extends UpKind>(kind: K, header: Up<K>, payload?: Uint8Array): Promise<void>;
  /** Publishes raw bytes; resolves once acknowledged. */
  raw(kind: string, bytes: Uint8Array): Promise<void>;
  /** Connects' other half: subscribes and says hello; resolves once welcomed. */
  hello(): Promise<void>;
  /** Begins, waits for the grant, sends all chunks. */
  upload(update: SampleUpdate, chunkBytes?: number): Promise<void>;
  close(): Promise<void>;
  /** Drops the connection without a word. */
  cut(): void;
};

export async function connectDevice(
  port: number,
  device: string,
  options: IClientOptions & { readonly site?: string } = {},
): Promise<TestDevice> {
  const { site = "plant", ...connection } = options;
  const client = await connectAsync({
    host: "127.0.0.1",
    port,
    protocolVersion: 4,
    clientId: device,
    keepalive: wire.mqttKeepaliveSeconds,
    reconnectPeriod: 0,
    ...connection,
  });
  client.on("error", () => {});
  const messages: Message[] = [];
  client.on("message", (topic, bytes) => {
    const parsed = parseTopic(topic);
    if (parsed === undefined || parsed.way === "up") throw new Error(`a message on ${topic}`);
    const schema = parsed.way === "down" ? downSchemas[parsed.kind] : allSchemas[parsed.kind];
    const message = decodeEnvelope(schema, bytes, wire.downHeaderBytes);
    if (!message.ok) throw new Error(`${topic}: ${message.message}`);
    messages.push({ kind: parsed.kind, header: message.header, payload: message.payload });
  });
  const of = (kind: DownKind | AllKind) =>
    messages.filter((m) => m.kind === kind).map((m) => m.header);

  const self: TestDevice = {
    device,
    messages,
    get connected() {
      return client.connected;
    },
    got: <K extends DownKind>(kind: K) => of(kind) as Down<K>[],
    published: () => of("published") as All<"published">[],
    async next<K extends DownKind>(kind: K, count = 1) {
      await until(`${device} receives ${kind} ${count}`, () => self.got(kind).length >= count);
      return self.got(kind).at(-1) as Down<K>;
    },
    say: (kind, header, payload) => self.raw(kind, encodeEnvelope(header, payload)),
    async raw(kind, bytes) {
      const topic = upTopic(site, device, "hello").replace(/hello$/, kind);
      await client.publishAsync(topic, Buffer.from(bytes), { qos: 1 });
    },
    async hello() {
      await client.subscribeAsync([...deviceFilters(site, device)], { qos: 1 });
      const before = self.got("welcome").length;
      await self.say("hello", { sdk: "test/1", attributes: { cores: 2 } });
      await self.next("welcome", before + 1);
    },
    async upload({ begin, payload }, chunkBytes = wire.chunkBytes) {
      const before = self.got("grant").length;
      await self.say("begin", begin);
      const { offset: start } = await self.next("grant", before + 1);
      for (let offset = start; offset < payload.length; offset += chunkBytes) {
        const chunk = payload.subarray(offset, offset + chunkBytes);
        await self.say("chunk", { round: begin.round, offset }, chunk);
      }
    },
    close: () => client.endAsync(),
    cut: () => client.stream.destroy(),
  };
  return self;
}
