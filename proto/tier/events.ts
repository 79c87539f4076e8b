import type { EventSink } from "../host/events.js";

/** What the serving side of ReducerService reports: a part of the vocabulary of each tier that has one. */
export type LinkEvent =
  | {
      level: "info";
      name: "gateway-attached";
      gateway: string;
      site: string;
      incarnation: string;
      softwareVersion: string;
    }
  | { level: "warn"; name: "gateway-detached"; gateway: string; reason: string }
  | { level: "warn"; name: "gateway-replaced"; gateway: string; incarnation: string }
  | { level: "warn"; name: "gateway-refused"; gateway: string; code: string; message: string }
  | { level: "debug"; name: "devices-changed"; gateway: string; joined: number; left: number }
  | { level: "warn"; name: "devices-full"; gateway: string; dropped: number }
  | { level: "info"; name: "partial-repeated"; round: string; gateway: string }
  | { level: "error"; name: "call-failed"; call: string; message: string };

export type LinkEvents = EventSink<LinkEvent>;
