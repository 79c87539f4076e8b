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

/** `kept`: it made no model, and what it brought waits for a later one. */
export type RoundState = "open" | "committed" | "failed" | "held" | "stopped" | "kept";

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
  /** Contributions to it that are in a model, its own or a later one. */
  readonly merged: number;
  /** Contributions to it that are kept and wait for a later model. */
  readonly kept: number;
  /** Contributions to it that expired. */
  readonly expired: number;
  /** Contributions to earlier rounds that are first in a model with this round's. */
  readonly fromEarlier: number;
  readonly openedAtMs: number;
  readonly closedAtMs: number | null;
};

/** A round with what is needed to go on with it after a restart, and to judge what comes late. */
export type OpenRound = RoundRow & {
  /** The plan's CBOR, as it was sent. */
  readonly plan: Uint8Array;
  /** Devices assigned to each gateway. */
  readonly rosters: Readonly<Record<string, readonly string[]>>;
  /** The same devices by the site that each was at; nothing where sites are merged on their way. */
  readonly siteRosters: Readonly<Record<string, readonly string[]>>;
  /** The incarnation of each gateway that it opened with. */
  readonly incarnations: Readonly<Record<string, string>>;
};

export type ModelState = "candidate" | "published" | "held";

/** Partials on one base that are summed exactly, and their part in a model's step. */
export type ModelGroup = {
  readonly base: string;
  /** Model versions between the base and the model's parent. */
  readonly age: number;
  /** The site whose slot it is, under site memory. */
  readonly site: string | null;
  /** Factor of the group's mean in the step. */
  readonly coefficient: number;
  /** N of the group, and its contributions. */
  readonly samples: number;
  readonly contributors: number;
  /** Contributions of it that an earlier model was the first to hold. */
  readonly carried: number;
  /** SHA-256 over its sum S. */
  readonly sumDigest: string;
};

export type ModelRow = {
  readonly id: string;
  /** SHA-256 of the file, which is also its name. */
  readonly digest: string;
  readonly bytes: number;
  /** Float32 values in it. */
  readonly parameters: number;
  readonly parent: string | null;
  /** Models before it on its trail: 0 for an import, one more than its parent's. */
  readonly version: number;
  /** Session and round that made it; null for an import. */
  readonly session: string | null;
  readonly round: string | null;
  readonly state: ModelState;
  /** N: samples that it is the first model to hold; 0 for an import. */
  readonly weight: number;
  /** Contributions that it is the first to hold: the rows with this model. */
  readonly contributors: number;
  /** Of the training, and of the evaluation under `evaluation.<name>`. */
  readonly metrics: Readonly<Record<string, number>>;
  /**
   * SHA-256 over the sums S of its groups one after the other, each int64 little-endian in layout
   * order; null for an import.
   */
  readonly sumDigest: string | null;
  /** In the order in which they were added to the step; null for an import. */
  readonly groups: readonly ModelGroup[] | null;
  /** Of each tensor, in layout order; null for an import. */
  readonly fractionBits: readonly number[] | null;
  readonly createdAtMs: number;
};

/** `kept`: it came late, or to a round that made no model, and waits for a later one. */
export type ContributionOutcome = "model" | "expired" | "kept";

export type ContributionRow = {
  readonly session: string;
  readonly round: number;
  /**
   * 0, or the site round with which a later stretch of site rounds began: what a site gathered on
   * after it had handed over its part of the round.
   */
  readonly stretch: number;
  readonly device: string;
  readonly gateway: string;
  readonly samples: number;
  /** Updates behind it: more than one after several site rounds. */
  readonly updates: number;
  readonly outcome: ContributionOutcome;
  /** Why it expired: `max-staleness`, `site-quorum`, `sites-quorum`, ...; else null. */
  readonly rule: string | null;
  /** The first model that holds it; null for one that is in none. */
  readonly model: string | null;
};

export type PartialOutcome = "merged" | "kept" | "expired" | "refused";

/** A Partial that was received whole: what a repeated announcement is answered from. */
export type PartialRow = PartialIdentity & {
  readonly digest: string;
  readonly session: string;
  /** The newest of the rounds that contributed. */
  readonly round: string;
  /** The site of its contributors; null for several, and for one that was refused. */
  readonly site: string | null;
  /** The model that its deltas are on; null for one that was refused. */
  readonly base: string | null;
  readonly bytes: number;
  readonly weight: number;
  readonly contributors: number;
  readonly outcome: PartialOutcome;
  /** Rule of an expired one, code of a refused one. */
  readonly rule: string | null;
  /** Whether its file is kept for models to come: until it is in one, or as a site's newest delta. */
  readonly retained: boolean;
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
  /** Of all that it buffers. */
  readonly budgetBytes: number;
  /** Of its newest measured heartbeat; 0 before. */
  readonly roundTripMs: number;
  /** Its wall clock less this side's, as far as it knows. */
  readonly clockOffsetMs: number;
  /** What each class of its buffer takes up, by name. */
  readonly classes: Readonly<Record<string, BufferClass>>;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
};

export type BufferClass = {
  readonly bytes: number;
  readonly budgetBytes: number;
  /** Entries given up for room since the gateway's start. */
  readonly evicted: number;
};

export type DeviceRow = {
  readonly id: string;
  /** Where it is connected: the site, and the gateway at any depth. */
  readonly site: string;
  readonly gateway: string;
  /** The attached gateway that reported it last: itself, or one above it. */
  readonly via: string;
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
  readonly fields: Fields;
};

/** Flat values, as a sample of a gateway's state and an event have them. */
export type Fields = Readonly<Record<string, string | number | boolean>>;

/** What a gateway measured of itself at a time. */
export type SampleRow = {
  /** Ascending, with gaps, in the order of arrival. */
  readonly sequence: number;
  readonly gateway: string;
  /** By the gateway's clock. */
  readonly atMs: number;
  readonly fields: Fields;
};
