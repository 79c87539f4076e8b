import type { PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { SessionParams } from "../params.js";

/** What the store keeps, as the rest of the cloud sees it. Times are wall-clock milliseconds since 1970. */

export type SessionState = "running" | "stopped" | "finished" | "failed";

/** Where a session stands: what changes from round to round. */
export type SessionProgress = {
  readonly state: SessionState;
  /** Why it is not running, in words; null while it runs. */
  readonly reason: string | null;
  /** The model that the next round starts from. */
  readonly head: string;
  /** Number of the next round to open; a number is never used twice. */
  readonly nextRound: number;
  /** Failed rounds since the last one that did not fail. */
  readonly failedRounds: number;
  /** Newest published model with an evaluation: what the gate compares a candidate with. */
  readonly evaluated: string | null;
};

export type SessionRow = SessionProgress & {
  readonly id: string;
  readonly params: SessionParams;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
};

export type RoundState = "open" | "committed" | "failed" | "held" | "stopped";

export type RoundRow = {
  readonly id: string;
  readonly session: string;
  readonly number: number;
  readonly task: "train" | "evaluate";
  /** The model that the round trains from, or evaluates. */
  readonly base: string;
  readonly state: RoundState;
  /** The rule that decided a round that did not commit, such as `sites-quorum` or `gate`. */
  readonly rule: string | null;
  /** The model that the round made. */
  readonly model: string | null;
  /** Gateways the round opened with. */
  readonly sites: number;
  /** Devices assigned to them. */
  readonly roster: number;
  /** Partials that arrived while it was open. */
  readonly partials: number;
  /** Contributions in the model, and recorded as expired. */
  readonly merged: number;
  readonly expired: number;
  readonly openedAtMs: number;
  readonly closedAtMs: number | null;
};

/** A round with what is needed to go on with it after a restart. */
export type OpenRound = RoundRow & {
  /** The plan's CBOR, as it was sent. */
  readonly plan: Uint8Array;
  /** Devices assigned to each gateway. */
  readonly rosters: Readonly<Record<string, readonly string[]>>;
};

export type ModelState = "candidate" | "published" | "held";

export type ModelRow = {
  readonly id: string;
  /** SHA-256 of the file, which is also its name. */
  readonly digest: string;
  readonly bytes: number;
  /** Float32 values in it. */
  readonly parameters: number;
  readonly parent: string | null;
  /** Session and round that made it; null for an import. */
  readonly session: string | null;
  readonly round: string | null;
  readonly state: ModelState;
  /** N: samples behind it; 0 for an import. */
  readonly weight: number;
  /** Devices behind it; their rows are the contributions with this model. */
  readonly contributors: number;
  /** Of the training, and of the evaluation under `evaluation.<name>`. */
  readonly metrics: Readonly<Record<string, number>>;
  /** SHA-256 over the merged sum S, int64 little-endian in layout order; null for an import. */
  readonly sumDigest: string | null;
  /** Of each tensor, in layout order; null for an import. */
  readonly fractionBits: readonly number[] | null;
  readonly createdAtMs: number;
};

export type ContributionOutcome = "model" | "expired";

export type ContributionRow = {
  readonly session: string;
  readonly round: number;
  readonly device: string;
  readonly gateway: string;
  readonly samples: number;
  readonly outcome: ContributionOutcome;
  /** Why it expired: `late`, `site-quorum`, `sites-quorum`, ...; null when it is in a model. */
  readonly rule: string | null;
  readonly model: string | null;
};

export type PartialOutcome = "merged" | "expired" | "refused";

/** A Partial that was received whole: what a repeated announcement is answered from. */
export type PartialRow = PartialIdentity & {
  readonly digest: string;
  readonly round: string;
  readonly bytes: number;
  readonly weight: number;
  readonly contributors: number;
  readonly outcome: PartialOutcome;
  /** Rule of an expired one, code of a refused one. */
  readonly rule: string | null;
  readonly receivedAtMs: number;
};

export type EvaluationRow = {
  readonly round: string;
  readonly session: string;
  readonly model: string;
  /** The evaluated ancestor it was compared with; null for the first. */
  readonly against: string | null;
  readonly passed: boolean;
  readonly weight: number;
  readonly contributors: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly atMs: number;
};

export type GatewayRow = {
  readonly id: string;
  readonly site: string;
  readonly incarnation: string;
  readonly softwareVersion: string;
  readonly attached: boolean;
  readonly connectedDevices: number;
  readonly outboxPartials: number;
  readonly outboxBytes: number;
  readonly oldestAgeMs: number;
  readonly freeDiskBytes: number;
  /** Refusals since the gateway's start, by code. */
  readonly refusals: Readonly<Record<string, number>>;
  readonly duplicatesDropped: number;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
};

export type DeviceRow = {
  readonly id: string;
  readonly site: string;
  /** The gateway that reported it last. */
  readonly gateway: string;
  readonly sdk: string;
  readonly attributes: Readonly<Record<string, string | number | boolean>>;
  readonly connected: boolean;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
};

export type EventRow = {
  /** Ascending, with gaps. */
  readonly sequence: number;
  readonly atMs: number;
  readonly level: "debug" | "info" | "warn" | "error";
  readonly name: string;
  readonly fields: Readonly<Record<string, string | number | boolean>>;
};
