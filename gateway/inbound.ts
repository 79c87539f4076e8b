import type { KeyObject } from "node:crypto";
import { type Down, type Up, upSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { UpKind } from "@tributary/proto/wire/topics.js";
import { type Refusal, refuse } from "@tributary/proto/wire/verdict.js";
import type { z } from "zod";
import type { DeviceHandlers, DeviceLink } from "./broker.js";
import type { DenylistCarriers } from "./denylist-carriers.js";
import type { DeviceEnrol, Petitioner } from "./device-enrol.js";
import type { DeviceRegistry } from "./devices.js";
import type { Drops } from "./drops.js";
import type { GatewayEvents } from "./events.js";
import type { Ingest } from "./ingest.js";
import type { Parts } from "./parts.js";
import type { Publications } from "./publications.js";
import type { Replies } from "./replies.js";
import type { Rounds } from "./rounds.js";

/** Where a device's messages go. */
export type Destinations = {
  readonly welcome: Down<"welcome">;
  readonly link: DeviceLink;
  readonly devices: DeviceRegistry;
  readonly ingest: Ingest;
  readonly parts: Parts;
  readonly rounds: Rounds;
  readonly publications: Publications;
  /** Undefined where the gateway belongs to no fleet. */
  readonly carriers: DenylistCarriers | undefined;
  /** Left out where the gateway belongs to no fleet. */
  readonly enrol?: DeviceEnrol | undefined;
  readonly replies: Replies;
  readonly drops: Drops;
  readonly events: GatewayEvents;
};

/** Takes envelopes apart and hands each message to the part of the gateway that answers it. */
export type Inbound = {
  readonly handlers: DeviceHandlers;
  /** The key that a connected device has shown; undefined where none was asked for. */
  keyOf(device: string): KeyObject | undefined;
  /** Before it listens: what comes earlier is dropped. */
  connect(destinations: Destinations): void;
};

export function createInbound(): Inbound {
  let to: Destinations | undefined;
  const keys = new Map<string, KeyObject>();

  function hello(at: Destinations, device: string, header: Up<"hello">): void {
    at.devices.join(device, { sdk: header.sdk, attributes: header.attributes });
    const denylist = header.denylist === undefined ? undefined : at.carriers?.sequence;
    const welcome = { ...at.welcome, ...(denylist !== undefined && { denylist }) };
    at.link.send(device, "welcome", encodeEnvelope(welcome));
    if (header.denylist !== undefined) at.carriers?.greet(device, header.denylist);
    at.publications.greet(device);
    at.rounds.deviceConnected(device);
  }

  function decline(at: Destinations, device: string, header: Up<"decline">): void {
    const verdict = at.rounds.declined(device, header);
    if (!verdict.ok) at.replies.refuse(device, "decline", verdict, { round: header.round });
  }

  /** Answers one message; the refusal of one that is no message of its kind. */
  function handle(
    at: Destinations,
    device: string,
    kind: UpKind,
    bytes: Uint8Array,
  ): Refusal | undefined {
    switch (kind) {
      case "hello": {
        const message = open(upSchemas.hello, bytes);
        if (message.ok) hello(at, device, message.header);
        return message.ok ? undefined : message;
      }
      case "fetch": {
        const message = open(upSchemas.fetch, bytes);
        if (message.ok) at.parts.fetch(device, message.header);
        return message.ok ? undefined : message;
      }
      case "begin": {
        const message = open(upSchemas.begin, bytes);
        if (message.ok) at.ingest.begin(device, message.header);
        return message.ok ? undefined : message;
      }
      case "chunk": {
        const message = decodeEnvelope(upSchemas.chunk, bytes, wire.upHeaderBytes);
        if (message.ok) at.ingest.chunk(device, message.header, message.payload);
        return message.ok ? undefined : message;
      }
      case "decline": {
        const message = open(upSchemas.decline, bytes);
        if (message.ok) decline(at, device, message.header);
        return message.ok ? undefined : message;
      }
      case "renew": {
        if (at.enrol === undefined)
          return refuse("unknown-kind", "this gateway belongs to no fleet that certifies anybody");
        const send: Petitioner["send"] = (answer, message) => at.link.send(device, answer, message);
        at.enrol.take({ device, claim: undefined, send }, kind, bytes);
        return undefined;
      }
      case "enrol":
        return refuse("unknown-kind", "a connection to enrol begins with a claim");
      case "denylist": {
        const message = decodeEnvelope(upSchemas.denylist, bytes, wire.upHeaderBytes);
        if (!message.ok) return message;
        return at.carriers?.take(device, message.header, message.payload);
      }
    }
  }

  return {
    handlers: {
      onMessage(device, kind, bytes) {
        if (to === undefined) return;
        if (kind === undefined) {
          const refusal = refuse("unknown-kind", "no message of that kind travels up");
          return to.replies.refuse(device, "unknown", refusal);
        }
        const refusal = handle(to, device, kind, bytes);
        if (refusal !== undefined) to.replies.refuse(device, kind, refusal);
      },
      onConnected(device, credential) {
        if (credential !== undefined) keys.set(device, credential.key);
        to?.events({ level: "debug", name: "device-connected", device });
      },
      onDisconnected(device) {
        keys.delete(device);
        if (to === undefined) return;
        to.events({ level: "debug", name: "device-disconnected", device });
        to.devices.leave(device);
        to.ingest.disconnected(device);
        to.parts.disconnected(device);
        to.carriers?.disconnected(device);
        to.rounds.deviceDisconnected(device);
      },
      onPetition: (petitioner, asks, bytes) => to?.enrol?.take(petitioner, asks, bytes),
      onRefused: (device, reason, detail) => to?.drops.note(device, reason, detail),
    },
    keyOf: (device) => keys.get(device),
    connect(destinations) {
      to = destinations;
    },
  };
}

/** Reads an envelope of a kind that carries no payload. */
function open<S extends z.ZodType>(schema: S, bytes: Uint8Array) {
  const message = decodeEnvelope(schema, bytes, wire.upHeaderBytes);
  if (!message.ok || message.payload.length === 0) return message;
  return refuse("malformed", "a payload where none belongs");
}
