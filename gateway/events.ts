import type { EventSink } from "@tributary/proto/host/events.js";
import type { LinkEvent } from "@tributary/proto/tier/events.js";
import type { DropReason } from "./drops.js";

/** How a denylist came: from the upstream, a gateway below, a device, a file, or with a certificate. */
export type DenylistWay = "upstream" | "below" | "device" | "file" | "grant";

/** What a gateway reports, in a closed vocabulary. Fields are flat; sizes and times carry units. */
export type GatewayEvent =
  | LinkEvent
  | { level: "info"; name: "downstream-started"; gateway: string; port: number }
  | { level: "info"; name: "enrolled"; gateway: string; fleet: string; endsMs: number }
  | { level: "warn"; name: "enrolment-waits"; code: string; message: string; retryMs: number }
  | { level: "info"; name: "certificate-renewed"; endsMs: number }
  | {
      level: "warn";
      name: "certificate-not-renewed";
      code: string;
      message: string;
      endsMs: number;
      retryMs: number;
    }
  | { level: "warn"; name: "insecure"; message: string }
  | { level: "info"; name: "uplink-path"; path: string }
  | { level: "error"; name: "gateway-loop"; gateway: string; message: string }
  | { level: "info"; name: "branch-opened"; round: string; gateways: number; devices: number }
  | {
      level: "info";
      name: "branch-complete";
      round: string;
      reason: string;
      contributors: number;
    }
  | {
      level: "info";
      name: "partial-received";
      round: string;
      gateway: string;
      contributors: number;
      bytes: number;
    }
  | {
      level: "warn";
      name: "partial-refused-below" | "plan-refused-below";
      round: string;
      gateway: string;
      code: string;
      message: string;
    }
  | {
      level: "info";
      name: "gateway-started";
      gateway: string;
      site: string;
      incarnation: string;
      port: number;
    }
  | { level: "info"; name: "gateway-stopped"; gateway: string }
  | { level: "warn"; name: "update-on-trial"; softwareVersion: string; starts: number }
  | { level: "info"; name: "update-kept"; softwareVersion: string }
  | { level: "error"; name: "update-unhealthy"; softwareVersion: string; message: string }
  | { level: "error"; name: "update-went-back"; softwareVersion: string }
  | {
      level: "warn";
      name: "denylist-taken";
      sequence: number;
      entries: number;
      way: DenylistWay;
      /** Live connections that it ended. */
      cut: number;
    }
  | { level: "warn"; name: "denylist-refused"; way: DenylistWay; code: string; message: string }
  | { level: "info"; name: "uplink-attached"; upstream: string }
  | { level: "warn"; name: "uplink-lost"; reason: string; retryMs: number }
  | { level: "info"; name: "uplink-window"; open: boolean; trusted: boolean }
  | { level: "info"; name: "status-started"; url: string }
  | { level: "warn"; name: "status-unavailable"; message: string }
  | { level: "warn"; name: "clock-untrusted"; floor: string; offsetMs: number }
  | { level: "warn"; name: "clock-skew"; offsetMs: number }
  | { level: "info"; name: "clock-agrees"; offsetMs: number }
  | { level: "debug"; name: "device-connected"; device: string }
  | { level: "debug"; name: "device-disconnected"; device: string }
  | {
      level: "info";
      name: "device-enrolled" | "device-renewed";
      device: string;
      serial: string;
    }
  | {
      level: "warn";
      name: "connection-refused";
      /** The latest of them, where its CONNECT is known. */
      device: string;
      reason: DropReason;
      detail: string;
      /** So many for this reason since the last such event. */
      count: number;
    }
  | { level: "info"; name: "round-opened"; round: string; roster: number; wanted: number }
  | {
      level: "info";
      name: "round-resumed";
      round: string;
      contributors: number;
      remainingMs: number;
    }
  /** A torn tail: what a power cut leaves, and what damage in the last record looks like. */
  | { level: "warn"; name: "journal-cut"; file: string; offset: number; bytes: number }
  | { level: "warn"; name: "plan-refused"; round: string; code: string; message: string }
  | { level: "debug"; name: "round-offered"; round: string; device: string }
  | { level: "info"; name: "device-declined"; round: string; device: string; code: string }
  | { level: "debug"; name: "update-receipted"; round: string; device: string; samples: number }
  | {
      level: "info";
      name: "update-clipped";
      round: string;
      device: string;
      norm: number;
      clipNorm: number;
    }
  | { level: "debug"; name: "update-repeated"; round: string; device: string }
  | {
      level: "debug";
      name: "signed-updates-dropped";
      round: string;
      updates: number;
      reason: "age" | "room";
    }
  | { level: "warn"; name: "signed-updates-full"; round: string }
  | { level: "info"; name: "challenge-answered"; challenge: string; updates: number }
  | { level: "warn"; name: "challenge-unanswered"; challenge: string; message: string }
  | {
      level: "warn";
      name: "challenge-refused";
      challenge: string;
      code: string;
      message: string;
    }
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
  | { level: "error"; name: "round-unread"; round: string; message: string }
  | { level: "info"; name: "round-waits"; round: string; behind: string }
  | { level: "info"; name: "site-rounds-paused"; round: string; why: string; waitMs: number }
  | { level: "warn"; name: "site-model-failed"; round: string; message: string }
  | {
      level: "info";
      name: "site-rounds-composed";
      round: string;
      /** Round of its contributors: the cloud's, or the first site round of a later stretch. */
      stretch: string;
      /** The first and the newest site round of the stretch. */
      first: number;
      newest: number;
      siteRounds: number;
      contributors: number;
      updates: number;
      bytes: number;
    }
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
  | { level: "info" | "error"; name: "storage-state"; state: string; freeBytes: number }
  | { level: "error"; name: "storage-failed"; what: string; message: string };

export type GatewayEvents = EventSink<GatewayEvent>;
