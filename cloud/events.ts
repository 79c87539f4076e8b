import type { EventSink } from "@tributary/proto/host/events.js";
import type { LinkEvent } from "@tributary/proto/tier/events.js";

/** What the cloud reports, in a closed vocabulary. Fields are flat; sizes and times carry units. */
export type CloudEvent =
  | LinkEvent
  | { level: "info"; name: "cloud-started"; grpcPort: number; httpPort: number }
  | { level: "info"; name: "cloud-stopped" }
  | { level: "info"; name: "session-started"; session: string; initialModel: string }
  | { level: "info"; name: "session-resumed"; session: string; head: string }
  | { level: "info"; name: "session-stopped"; session: string }
  | { level: "info"; name: "session-finished"; session: string; head: string; models: number }
  | { level: "error"; name: "session-failed"; session: string; reason: string }
  | {
      level: "info";
      name: "round-opened";
      session: string;
      round: string;
      task: string;
      base: string;
      gateways: number;
      devices: number;
      deadlineMs: number;
    }
  | {
      level: "info";
      name: "round-resumed";
      session: string;
      round: string;
      partials: number;
      remainingMs: number;
    }
  | {
      level: "info" | "warn";
      name: "round-closed";
      session: string;
      round: string;
      outcome: string;
      merged: number;
      kept: number;
      expired: number;
      tookMs: number;
    }
  | {
      level: "debug";
      name: "round-progress";
      session: string;
      round: string;
      gateway: string;
      offered: number;
      folded: number;
      declined: number;
      sealed: boolean;
    }
  | {
      level: "warn";
      name: "plan-refused";
      session: string;
      round: string;
      gateway: string;
      code: string;
      message: string;
    }
  | {
      level: "info";
      name: "partial-accepted";
      session: string;
      round: string;
      gateway: string;
      contributors: number;
      samples: number;
      bytes: number;
      /** Updates in it whose norm was clipped; left out when there are none. */
      clipped?: number;
    }
  | {
      level: "warn";
      name: "partial-expired";
      session: string;
      gateway: string;
      rule: string;
      contributors: number;
    }
  | {
      level: "info";
      name: "partial-kept";
      session: string;
      round: string;
      gateway: string;
      base: string;
      contributors: number;
      bytes: number;
      /** Updates in it whose norm was clipped; left out when there are none. */
      clipped?: number;
    }
  | {
      level: "error";
      name: "site-forgotten";
      session: string;
      site: string;
      base: string;
      applied: boolean;
    }
  | {
      level: "error";
      name: "kept-partial-damaged";
      session: string;
      partial: string;
      site: string;
      applied: boolean;
      contributors: number;
      rule: string;
    }
  | {
      level: "error";
      name: "journal-damaged";
      session: string;
      round: string;
      path: string;
      aside: string;
      gaps: string;
      partials: number;
      unread: string;
    }
  | {
      level: "warn";
      name: "gateway-replaced";
      session: string;
      round: string;
      gateway: string;
      incarnation: string;
    }
  | {
      level: "warn";
      name: "partial-refused";
      round: string;
      gateway: string;
      code: string;
      message: string;
    }
  | {
      level: "info";
      name: "model-made";
      session: string;
      model: string;
      parent: string;
      samples: number;
      contributors: number;
      sumDigest: string;
    }
  | { level: "info"; name: "model-published"; session: string; model: string }
  | { level: "warn"; name: "model-held"; session: string; model: string; reason: string }
  | { level: "info"; name: "model-activated"; session: string; model: string }
  | {
      level: "info";
      name: "model-evaluated";
      session: string;
      model: string;
      round: string;
      passed: boolean;
      metric: string;
      value: number | undefined;
    }
  | { level: "warn"; name: "optimizer-reset"; session: string; model: string; reason: string }
  | {
      level: "info";
      name: "enrolled" | "renewed";
      kind: string;
      who: string;
      site: string;
      serial: string;
    }
  | { level: "warn"; name: "revoked"; kind: string; who: string }
  | {
      level: "info";
      name: "challenge-sent";
      challenge: string;
      gateway: string;
      round: string;
      digest: string;
      updates: number;
    }
  | {
      level: "info";
      name: "challenge-passed";
      challenge: string;
      gateway: string;
      round: string;
      digest: string;
      updates: number;
      refolded: boolean;
    }
  | {
      level: "error";
      name: "challenge-failed";
      challenge: string;
      gateway: string;
      round: string;
      digest: string;
      updates: number;
      code: string;
      message: string;
    }
  | { level: "warn"; name: "challenge-unsent"; challenge: string; message: string }
  | { level: "error"; name: "challenge-unrecorded"; challenge: string; message: string }
  | {
      level: "info";
      name: "denylist-in-effect";
      gateway: string;
      sequence: number;
      /** Since the list was issued. */
      afterMs: number;
      /** Live connections that it ended there. */
      cut: number;
    }
  /** Attached, and has not taken the list; holds a newer one than the cloud: was its store put back? */
  | { level: "error"; name: "denylist-late" | "denylist-ahead"; gateway: string; sequence: number }
  | { level: "info"; name: "server-renewed"; endsMs: number }
  /** A gateway reported devices that are not enrolled where it says that they are; one of them is named. */
  | {
      level: "warn";
      name: "devices-misplaced";
      gateway: string;
      misplaced: number;
      device: string;
    }
  | { level: "error"; name: "server-not-renewed"; message: string }
  | { level: "warn"; name: "insecure"; message: string }
  /** Nobody is asked for a token: there is no authority. */
  | { level: "warn"; name: "access-open" }
  | { level: "error"; name: "audit-failed"; action: string; message: string }
  | { level: "error"; name: "storage-failed"; what: string; message: string; retryMs: number };

export type CloudEvents = EventSink<CloudEvent>;
