import { createServer, type Server, type Socket } from "node:net";
import { type Down, downSchemas, type Up, upSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits } from "@tributary/proto/wire/limits.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import {
  allTopic,
  type DownKind,
  downTopic,
  parseTopic,
  type UpKind,
} from "@tributary/proto/wire/topics.js";
import { Aedes } from "aedes";
import { updateDigest } from "../update.js";
import type { SampleModel } from "./sample.js";

export type Received = {
  [K in UpKind]: {
    readonly device: string;
    readonly kind: K;
    readonly header: Up<K>;
    readonly payload: Uint8Array;
  };
}[UpKind];

/** Answers a message in the gateway's place: true when it did. */
type Intercept = (message: Received) => boolean;

/**
 * The smallest gateway that keeps the protocol, on a real broker: it offers what it is told to,
 * serves models, grants one upload at a time, and receipts what has its digest.
 */
export type TestGateway = {
  readonly url: string;
  readonly port: number;
  readonly received: readonly Received[];
  /** Updates that have a receipt: `<round> <device>` to the bytes. */
  readonly receipted: ReadonlyMap<string, Uint8Array>;
  serve(model: SampleModel): void;
  /** Offers to each device that says hello, from now on, and to those that have. */
  offer(plan: Plan, remainingMs?: number): void;
  send<K extends DownKind>(device: string, kind: K, header: Down<K>, payload?: Uint8Array): void;
  publish(model: SampleModel, session: string): void;
  /** Publishes any bytes on any topic. */
  raw(topic: string, bytes: Uint8Array): void;
  intercept(by: Intercept | undefined): void;
  /** Cuts every connection without a word. */
  cut(): void;
  close(): Promise<void>;
};

type Upload = { readonly begin: Up<"begin">; readonly bytes: Uint8Array; at: number };

export async function openTestGateway(site: string, port = 0): Promise<TestGateway> {
  const broker = await Aedes.createBroker();
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    broker.handle(socket);
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  const address = server.address();
  const bound = typeof address === "object" && address !== null ? address.port : 0;

  const models = new Map<string, SampleModel>();
  const uploads = new Map<string, Upload>();
  const receipted = new Map<string, Uint8Array>();
  const digests = new Map<string, string>();
  const received: Received[] = [];
  const devices = new Set<string>();
  let offered: { readonly plan: Plan; readonly remainingMs: number } | undefined;
  let interceptor: Intercept | undefined;

  const publish = (topic: string, bytes: Uint8Array): void =>
    broker.publish(
      { cmd: "publish", topic, payload: Buffer.from(bytes), qos: 1, retain: false, dup: false },
      () => {},
    );
  const send: TestGateway["send"] = (device, kind, header, payload) => {
    downSchemas[kind].parse(header);
    publish(downTopic(site, device, kind), encodeEnvelope(header, payload));
  };
  const settle = (device: string, upload: Upload): void => {
    const { begin, bytes } = upload;
    const key = `${begin.round} ${device}`;
    const { digest, ...head } = begin;
    uploads.delete(key);
    const { round } = begin;
    if (updateDigest(device, head, bytes) !== digest) {
      send(device, "refusal", { about: "chunk", round, code: "digest-mismatch", message: "" });
      return;
    }
    digests.set(key, digest);
    receipted.set(key, bytes);
    send(device, "receipt", { round, digest });
  };

  const answer: { readonly [K in UpKind]: (message: Extract<Received, { kind: K }>) => void } = {
    hello({ device }) {
      devices.add(device);
      send(device, "welcome", { gateway: "gw-1", site, incarnation: "one" });
      if (offered !== undefined) send(device, "offer", { gateway: "gw-1", ...offered });
    },
    fetch({ device, header: { model, digest, offset, length } }) {
      const file = models.get(digest)?.file;
      if (file === undefined)
        send(device, "refusal", { about: "fetch", code: "unknown-model", message: "" });
      else send(device, "part", { model, digest, offset }, file.subarray(offset, offset + length));
    },
    begin({ device, header: begin }) {
      const { round, digest } = begin;
      const key = `${round} ${device}`;
      const known = digests.get(key);
      if (known !== undefined && known !== digest) {
        send(device, "refusal", { about: "begin", round, code: "conflict", message: "" });
      } else if (known !== undefined) {
        send(device, "receipt", { round, digest });
      } else {
        const upload = uploads.get(key) ?? { begin, bytes: new Uint8Array(begin.bytes), at: 0 };
        uploads.set(key, upload);
        if (begin.bytes === 0) settle(device, upload);
        else {
          const windowBytes = 2 * limits.chunkBytes;
          send(device, "grant", { round, offset: upload.at, windowBytes });
        }
      }
    },
    chunk({ device, header: { round, offset }, payload }) {
      const upload = uploads.get(`${round} ${device}`);
      const about = "chunk";
      if (upload === undefined) {
        send(device, "refusal", { about, round, code: "not-granted", message: "" });
      } else if (offset !== upload.at) {
        const expectedOffset = upload.at;
        const code = "chunk-out-of-order";
        send(device, "refusal", { about, round, code, message: "", expectedOffset });
      } else {
        upload.bytes.set(payload, offset);
        upload.at += payload.length;
        if (upload.at === upload.bytes.length) settle(device, upload);
      }
    },
    decline() {},
    enrol() {},
    renew() {},
    denylist() {},
  };

  broker.subscribe(
    `tributary/v1/${site}/up/#`,
    (packet, done) => {
      const topic = parseTopic(packet.topic);
      if (topic?.way === "up") {
        const { device, kind } = topic;
        const bytes = Buffer.isBuffer(packet.payload) ? packet.payload : Buffer.alloc(0);
        const read = decodeEnvelope(upSchemas[kind], bytes, limits.upHeaderBytes);
        if (!read.ok) throw new Error(`the device sent a bad ${kind}: ${read.message}`);
        // The schema was chosen by the kind.
        const message = { device, kind, header: read.header, payload: read.payload } as Received;
        received.push(message);
        const handle = answer[kind] as (message: Received) => void;
        if (!interceptor?.(message)) handle(message);
      }
      done();
    },
    () => {},
  );

  return {
    url: `mqtt://127.0.0.1:${bound}`,
    port: bound,
    received,
    receipted,
    serve: (model) => void models.set(model.manifest.digest, model),
    offer(plan, remainingMs = 60_000) {
      offered = { plan, remainingMs };
      for (const device of devices) send(device, "offer", { gateway: "gw-1", ...offered });
    },
    send,
    publish({ manifest, layout }, session) {
      publish(allTopic(site, "published"), encodeEnvelope({ session, manifest, layout }));
    },
    raw: publish,
    intercept(by) {
      interceptor = by;
    },
    cut() {
      devices.clear();
      for (const socket of sockets) socket.destroy();
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => broker.close(() => resolve()));
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
