import type { Code } from "@tributary/proto/wire/codes.js";

type Of<Level extends string, Name extends string, Fields = object> = {
  readonly level: Level;
  readonly name: Name;
} & Readonly<Fields>;

/** Everything a device reports: a closed vocabulary, one flat event each. */
export type DeviceEvent =
  | Of<"info", "started", { model?: string; held?: string }>
  | Of<"info", "stopped">
  | Of<"info", "enrolled", { fleet: string; endsMs: number }>
  | Of<"warn", "enrolment-waits", { code: string; message: string; retryMs: number }>
  | Of<"error", "enrolment-failed", { code: string; message: string }>
  | Of<"info", "renewed", { endsMs: number }>
  | Of<"warn", "renewal-failed", { code: string; message: string; endsMs: number }>
  | Of<"info", "link-up", { gateway: string }>
  | Of<"warn", "link-down", { reason: string; retryMs?: number }>
  | Of<"warn", "message-refused", { kind: string; code: Code; message: string }>
  | Of<"info", "offer", { round: string; task: string; base: string; remainingMs: number }>
  | Of<"debug", "offer-ignored", { round: string; reason: string }>
  | Of<"info", "fetched", { model: string; bytes: number; transferredBytes: number }>
  | Of<"warn", "fetch-failed", { model: string; code: Code; message: string }>
  | Of<"warn", "chunk-refused", { model: string; code: Code; offset: number }>
  | Of<"info", "trained", { round: string; samples: number; saturated: number; durationMs: number }>
  | Of<"warn", "train-failed", { round: string; code: Code; message: string }>
  | Of<"info", "train-aborted", { round: string; reason: string }>
  | Of<"info", "begun", { round: string; attempt: number }>
  | Of<"debug", "granted", { round: string; offset: number; windowBytes: number }>
  | Of<"debug", "sent", { round: string; bytes: number }>
  | Of<"info", "receipt", { round: string; digest: string }>
  | Of<"warn", "refused", { round: string; code: Code; message: string; retryable: boolean }>
  | Of<"info", "declined", { round: string; code: Code; message: string }>
  | Of<"info", "closed", { round: string }>
  | Of<"info", "denylist", { sequence: number }>
  | Of<"info", "model", { model: string; good: boolean }>
  | Of<"error", "storage-failed", { what: string; message: string }>;

/** A device's events with the device that they come from. */
export type ReportedEvent = DeviceEvent & { readonly device: string };
