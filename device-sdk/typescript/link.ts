import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import type { Code } from "@tributary/proto/wire/codes.js";
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
import { connect, type IClientOptions, MqttClient } from "mqtt";
import type { OpenWay, Way } from "./identity-way.js";
import { limits } from "./limits.js";

/** A message from the gateway, by its kind. */
export type Message =
  | {
      [K in DownKind]: {
        readonly kind: K;
        readonly header: Down<K>;
        readonly payload: Uint8Array;
      };
    }[DownKind]
  | {
      [K in AllKind]: {
        readonly kind: K;
        readonly header: All<K>;
        readonly payload: Uint8Array;
      };
    }[AllKind];

/**
 * The device's connection: out to its gateway, made anew after every break. Nothing is queued
 * while it is down; what must arrive is sent again by whoever sent it.
 */
export type DeviceLink = {
  /** Resolves on PUBACK; rejects when not connected, when the connection breaks, or when too much is unacknowledged. */
  publish<K extends UpKind>(kind: K, header: Up<K>, payload?: Uint8Array): Promise<void>;
  close(): Promise<void>;
};

/** Sends without waiting: for messages that are sent again when no answer comes. */
export type Send = <K extends Exclude<UpKind, "chunk">>(kind: K, header: Up<K>) => void;

export type LinkOptions = {
  /** mqtt://host:port; not used where there is a `way`. */
  readonly url: string;
  /** Over TLS, as who the device is enrolled as. */
  readonly way?: OpenWay | undefined;
  readonly site: string;
  readonly device: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly hello: () => Up<"hello">;
  /** The gateway said welcome: messages may flow. */
  readonly onUp: (welcome: Down<"welcome">) => void;
  /** The connection broke, or an attempt failed; the next one comes after `retryMs`. */
  readonly onDown: (reason: string, retryMs: number) => void;
  readonly onMessage: (message: Message) => void;
  /** Something arrived that is no message of the protocol. */
  readonly onUnreadable: (kind: string, code: Code, message: string) => void;
};

/** Opens a link; tests pass another. */
export type OpenLink = (options: LinkOptions) => DeviceLink;

export const openMqttLink: OpenLink = (options) => {
  const { site, device, clock, random } = options;
  let client: MqttClient | undefined;
  /** While the way is opened, before there is a client. */
  let opening: AbortController | undefined;
  let timer: Timer | undefined;
  let attempt = 0;
  let closing = false;
  let welcomed = false;
  let unacknowledged = 0;

  const publish: DeviceLink["publish"] = (kind, header, payload) => {
    const to = client;
    if (to === undefined || !to.connected) return Promise.reject(new Error("not connected"));
    if (unacknowledged >= limits.unacknowledged)
      return Promise.reject(new Error("too much is unacknowledged"));
    const envelope = encodeEnvelope(header, payload);
    unacknowledged++;
    return new Promise((resolve, reject) => {
      // mqtt.js leaves a publish unanswered when its connection breaks, so the break answers it.
      const broken = (): void => settle(new Error("the connection broke"));
      const settle = (error?: Error | null): void => {
        if (!to.listeners("close").includes(broken)) return;
        to.removeListener("close", broken);
        if (to === client) unacknowledged--;
        if (error) reject(error);
        else resolve();
      };
      to.on("close", broken);
      const bytes = Buffer.from(envelope.buffer, envelope.byteOffset, envelope.byteLength);
      to.publish(upTopic(site, device, kind), bytes, { qos: 1 }, settle);
    });
  };

  const down = (from: MqttClient, reason: string): void => {
    if (from !== client) return;
    client = undefined;
    welcomed = false;
    unacknowledged = 0;
    from.end(true);
    retry(reason);
  };

  const retry = (reason: string): void => {
    timer?.cancel();
    if (closing) return;
    const { backoffBaseMs: baseMs, backoffCapMs: capMs } = limits;
    const retryMs = jitteredBackoff(random, attempt++, { baseMs, capMs });
    timer = clock.setTimer(retryMs, dial);
    options.onDown(reason, retryMs);
  };

  const receive = (topic: string, bytes: Uint8Array): void => {
    const message = readMessage(topic, bytes, options);
    if (message === undefined) return;
    if (message.kind !== "welcome") {
      options.onMessage(message);
      return;
    }
    attempt = 0;
    timer?.cancel();
    const first = !welcomed;
    welcomed = true;
    if (first) options.onUp(message.header);
  };

  const settings: IClientOptions = {
    clientId: device,
    clean: true,
    protocolVersion: 4,
    keepalive: wire.mqttKeepaliveSeconds,
    reconnectPeriod: 0,
    queueQoSZero: false,
    resubscribe: false,
    connectTimeout: limits.connectMs,
  };

  const dial = (): void => {
    const { way } = options;
    if (way === undefined) return begin(connect(options.url, settings));
    const attempted = new AbortController();
    opening = attempted;
    const isCurrent = (): boolean => opening === attempted;
    way(attempted.signal).then(
      (found) => {
        if (!isCurrent()) return void found.stream.destroy();
        opening = undefined;
        begin(new MqttClient(() => found.stream, { ...settings, ...found.login }), found);
      },
      (cause: unknown) => {
        if (!isCurrent()) return;
        opening = undefined;
        retry(cause instanceof Error ? cause.message : String(cause));
      },
    );
  };

  const begin = (dialled: MqttClient, way?: Way): void => {
    client = dialled;
    dialled.setMaxListeners(0);
    timer = clock.setTimer(limits.connectMs, () => down(dialled, "no welcome in time"));
    // Kept after the end: an error event that nobody listens to would end the process.
    dialled.on("error", (error) => down(dialled, error.message || "connection refused"));
    dialled.on("close", () => down(dialled, "connection closed"));
    dialled.on("message", (topic, bytes) => {
      if (dialled === client) receive(topic, bytes);
    });
    dialled.on("connect", () => {
      dialled.subscribe([...deviceFilters(site, device)], { qos: 1 }, (error, granted) => {
        if (dialled !== client) return;
        // An answer that refuses comes as an error, or as a return code (MQTT 3.1.1, 3.9.3).
        const refused =
          error?.message ?? (granted?.some(({ qos }) => qos > 2) ? "refused" : undefined);
        if (refused) {
          if (dialled.connected) way?.late();
          return down(dialled, `subscribing failed: ${refused}`);
        }
        publish("hello", options.hello()).catch(() => {});
      });
    });
  };

  dial();
  return {
    publish,
    close() {
      closing = true;
      timer?.cancel();
      const attempted = opening;
      opening = undefined;
      attempted?.abort();
      const last = client;
      client = undefined;
      if (last === undefined) return Promise.resolve();
      // A DISCONNECT tells the broker that the device left by itself; before CONNACK there is
      // nobody to tell, and a socket that is let go on connecting would outlive the link.
      if (!last.connected) return new Promise((resolve) => last.end(true, {}, () => resolve()));
      return new Promise((resolve) => {
        const done = clock.setTimer(limits.backoffBaseMs, () =>
          last.end(true, {}, () => resolve()),
        );
        last.end(false, {}, () => {
          done.cancel();
          resolve();
        });
      });
    },
  };
};

function readMessage(
  topic: string,
  bytes: Uint8Array,
  { onUnreadable }: LinkOptions,
): Message | undefined {
  const parsed = parseTopic(topic);
  if (parsed === undefined || parsed.way === "up") {
    onUnreadable(topic.slice(0, 64), "unknown-kind", "a topic outside the grammar");
    return undefined;
  }
  const { kind } = parsed;
  const schema = parsed.way === "all" ? allSchemas[parsed.kind] : downSchemas[parsed.kind];
  const envelope = decodeEnvelope(schema, bytes, wire.downHeaderBytes);
  if (!envelope.ok) {
    onUnreadable(kind, envelope.code, envelope.message);
    return undefined;
  }
  const { header, payload } = envelope;
  if (payload.length > wire.chunkBytes) {
    onUnreadable(kind, "too-large", `a payload of ${payload.length} bytes`);
    return undefined;
  }
  // The schema was chosen by the kind, which the type system does not follow through the table.
  return { kind, header, payload } as Message;
}
