import type { EventSink } from "@tributary/proto/host/events.js";

/** What a gateway reports, in a closed vocabulary. Fields are flat; sizes and times carry units. */
export type GatewayEvent =
  | {
      level: "info";
      name: "gateway-started";
      gateway: string;
      site: string;
      incarnation: string;
      port: number;
    }
  | { level: "info"; name: "gateway-stopped"; gateway: string }
  | { level: "info"; name: "uplink-attached"; upstream: string }
  | { level: "warn"; name: "uplink-lost"; reason: string; retryMs: number }
  | { level: "warn"; name: "clock-untrusted"; floor: string; offsetMs: number }
  | { level: "warn"; name: "clock-skew"; offsetMs: number }
  | { level: "info"; name: "clock-agrees"; offsetMs: number }
  | { level: "debug"; name: "device-connected"; device: string }
  | { level: "debug"; name: "device-disconnected"; device: string }
  | { level: "warn"; name: "connection-refused"; device: string; reason: string }
  | { level: "info"; name: "round-opened"; round: string; roster: number; wanted: number }
  | {
      level: "info";
      name: "round-resumed";
      round: string;
      contributors: number;
      remainingMs: number;
    }
  | { level: "warn"; name: "plan-refused"; round: string; code: string; message: string }
  | { level: "debug"; name: "round-offered"; round: string; device: string }
  | { level: "info"; name: "device-declined"; round: string; device: string; code: string }
  | { level: "debug"; name: "update-receipted"; round: string; device: string; samples: number }
  | { level: "debug"; name: "update-repeated"; round: string; device: string }
  | {
      level: "warn";
      name: "message-refused";
      device: string;
      about: string;
      code: string;
      message: string;
    }
  | {
      level: "info";
      name: "round-sealed";
      round: string;
      reason: string;
      contributors: number;
      bytes: number;
    }
  | { level: "info"; name: "round-closed"; round: string; outcome: string }
  | { level: "error"; name: "seal-failed"; round: string; message: string; retryMs: number }
  | {
      level: "info";
      name: "partial-delivered";
      round: string;
      sequence: number;
      bytes: number;
      outcome: string;
      rule: string;
    }
  | {
      level: "error";
      name: "partial-refused";
      round: string;
      sequence: number;
      code: string;
      message: string;
    }
  | { level: "warn"; name: "partial-delayed"; round: string; sequence: number; reason: string }
  | {
      level: "info";
      name: "partials-merged";
      sequence: number;
      base: string;
      entries: number;
      rounds: number;
      contributors: number;
      bytes: number;
    }
  | { level: "warn"; name: "merge-failed"; sequence: number; message: string }
  | { level: "error"; name: "partial-damaged"; sequence: number; round: string }
  | { level: "info"; name: "model-cached"; model: string; bytes: number }
  | { level: "info"; name: "model-evicted"; digest: string; bytes: number }
  | { level: "warn"; name: "model-failed"; model: string; message: string }
  | { level: "info"; name: "model-published"; model: string; session: string }
  | { level: "error"; name: "storage-failed"; what: string; message: string };

export type GatewayEvents = EventSink<GatewayEvent>;
