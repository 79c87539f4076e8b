import type { PartialIdentity } from "@tributary/proto/tier/identity.js";
import type {
  ContributionOutcome,
  ContributionRow,
  DeviceRow,
  EvaluationRow,
  EventRow,
  GatewayRow,
  ModelRow,
  ModelState,
  OpenRound,
  PartialRow,
  RoundRow,
  RoundState,
  SampleRow,
  SessionProgress,
  SessionRow,
} from "./rows.js";

/** A part of a list: at most `limit` items after the key `after`, in the list's order. */
export type Page<K> = { readonly after?: K | undefined; readonly limit: number };

/** `next` is the key to go on after; undefined at the end. */
export type Slice<T, K> = { readonly items: readonly T[]; readonly next: K | undefined };

/** How a round ends. It is written in one transaction, or not at all. */
export type RoundEnd = {
  readonly round: string;
  readonly state: Exclude<RoundState, "open">;
  readonly rule: string | null;
  readonly closedAtMs: number;
  /** The model that the round made, as a candidate or already published. */
  readonly model?: ModelRow;
  /** Earlier models that the round decided about, such as the candidate that it evaluated. */
  readonly decided?: readonly ModelDecision[];
  readonly partials: readonly PartialRow[];
  readonly contributions: readonly ContributionRow[];
  readonly evaluation?: EvaluationRow;
  /** What becomes of Partials that were kept before. */
  readonly settled?: readonly Settlement[];
  readonly progress: SessionProgress;
};

/** What becomes of a Partial on record whose file is retained. */
export type Settlement = PartialIdentity & {
  /** Null where it was decided before, and only its file is kept on or given up. */
  readonly fate:
    | { readonly outcome: "merged"; readonly model: string }
    | { readonly outcome: "expired"; readonly rule: string }
    | null;
  readonly retained: boolean;
  /** Its contributions. */
  readonly contributions: readonly ContributionKey[];
};

export type ContributionKey = {
  readonly round: number;
  readonly stretch: number;
  readonly device: string;
};

export type RecordedContribution = ContributionKey & Pick<ContributionRow, "updates">;

/** What a gateway noted while it could not send it, oldest first; unreadable entries left out. */
export type TelemetryBatch = {
  readonly gateway: string;
  readonly incarnation: string;
  /** Of the newest entry, an unreadable one included. */
  readonly last: number;
  /** When it came. */
  readonly atMs: number;
} & (
  | { readonly class: "metrics"; readonly entries: readonly Noted<Omit<SampleRow, "gateway">>[] }
  | { readonly class: "logs"; readonly entries: readonly Noted<EventRow>[] }
);
/** With the sequence that its gateway gave it. */
type Noted<T> = Omit<T, "sequence"> & { readonly sequence: number };

export type ModelDecision = {
  readonly model: string;
  readonly state: ModelState;
  /** Added to the metrics that it has. */
  readonly metrics: Readonly<Record<string, number>>;
};

export type ContributionFilter = {
  readonly session: string;
  readonly round?: number | undefined;
  /** Those that this model is the first to hold. */
  readonly model?: string | undefined;
  readonly outcome?: ContributionOutcome | undefined;
};

/**
 * The cloud's metadata: sessions, rounds, the model trail, who contributed, the fleet, events.
 *
 * A method that writes resolves when its transaction is durable, except `saveGateways`,
 * `saveDevices`, `detachAll` and `appendEvents`: those are durable with the next one that is, and a
 * power cut may lose the newest of them. Transactions run one at a time, in the order of the calls.
 * Failures are `TributaryError`: `store-failed`, `store-unreachable` (retryable), `store-conflict`
 * for a row that exists with other content, or whose outcome is decided already, `store-unknown`
 * for a row that an update names and that is not there.
 */
export type Store = {
  /** Adds a session; resolves to false and changes nothing when its id is taken. */
  addSession(session: SessionRow): Promise<boolean>;
  session(id: string): Promise<SessionRow | undefined>;
  /** Sessions by id. */
  listSessions(page: Page<string>): Promise<Slice<SessionRow, string>>;
  /** Every session in the state `running`: what a restart goes on with. */
  runningSessions(): Promise<readonly SessionRow[]>;
  /** Moves a session, and settles Partials that it kept, in one transaction. */
  saveProgress(
    session: string,
    progress: SessionProgress,
    atMs: number,
    settled?: readonly Settlement[],
  ): Promise<void>;

  /** Opens a round and moves the session's `nextRound` past it, in one transaction. */
  openRound(round: OpenRound): Promise<void>;
  /** Ends an open round. Resolves to false and changes nothing when it has ended before. */
  endRound(end: RoundEnd): Promise<boolean>;
  round(id: string): Promise<RoundRow | undefined>;
  /** A round with its plan and rosters, open or not. */
  wholeRound(id: string): Promise<OpenRound | undefined>;
  /** Rounds of a session that are open, oldest first, with their plans and rosters. */
  openRounds(session: string): Promise<readonly OpenRound[]>;
  /** Rounds of a session, newest first; the key is a round's number. */
  listRounds(session: string, page: Page<number>): Promise<Slice<RoundRow, number>>;

  /**
   * Adds a model; resolves to false and changes nothing when its id is taken.
   *
   * @param project of an import; a model that a session made is in its session's. Kept by SQL alone.
   */
  addModel(model: ModelRow, project?: string): Promise<boolean>;
  model(id: string): Promise<ModelRow | undefined>;
  /** Changes a model's state, such as when it is activated by hand. */
  decideModel(decision: ModelDecision): Promise<void>;
  /** Models of a session (all without one), newest first; the key is opaque. */
  listModels(
    filter: { readonly session?: string | undefined; readonly state?: ModelState | undefined },
    page: Page<number>,
  ): Promise<Slice<ModelRow, number>>;
  /** A model and its ancestors, from it back towards the root; the key is how many came before. */
  trail(model: string, page: Page<number>): Promise<Slice<ModelRow, number>>;
  /** Digests that the trail names, of `digests`: the files that must stay. */
  knownDigests(digests: readonly string[]): Promise<ReadonlySet<string>>;

  /**
   * Records a Partial outside a round's end (late, or refused) with its contributions, all or
   * nothing; nothing changes when its identity is on record. A contribution that is on record
   * already is a `store-conflict`.
   */
  recordPartial(partial: PartialRow, contributions: readonly ContributionRow[]): Promise<void>;
  partial(identity: PartialIdentity): Promise<PartialRow | undefined>;
  /** Partials of a session whose files are retained, in the order in which they came. */
  retainedPartials(session: string): Promise<readonly PartialRow[]>;
  /**
   * Contributions on record, whatever became of them, of the devices of `keys` to the rounds that they
   * are named with there, each stretch of site rounds included.
   */
  knownContributions(
    session: string,
    keys: readonly Pick<ContributionKey, "round" | "device">[],
  ): Promise<readonly RecordedContribution[]>;
  /** Contributions of a session by round and device. */
  listContributions(
    filter: ContributionFilter,
    page: Page<readonly [number, number, string]>,
  ): Promise<Slice<ContributionRow, readonly [number, number, string]>>;

  evaluations(session: string, page: Page<number>): Promise<Slice<EvaluationRow, number>>;
  /** The newest evaluation of a model. */
  evaluationOf(model: string): Promise<EvaluationRow | undefined>;

  /** Adds or replaces; `firstSeenMs` of a known one stays. Past the bound, those unseen longest go. */
  saveGateways(gateways: readonly GatewayRow[]): Promise<void>;
  listGateways(page: Page<string>): Promise<Slice<GatewayRow, string>>;
  saveDevices(devices: readonly DeviceRow[]): Promise<void>;
  /** Devices by id. One that is connected was seen when the gateway that reports it was. */
  listDevices(
    filter: { readonly site?: string | undefined; readonly gateway?: string | undefined },
    page: Page<string>,
  ): Promise<Slice<DeviceRow, string>>;
  /** Marks every gateway as detached and every device as disconnected: what holds after a start. */
  detachAll(): Promise<void>;

  /** Adds events, oldest first; the store gives them their sequence and keeps the newest (see limits). */
  appendEvents(events: readonly Omit<EventRow, "sequence">[]): Promise<void>;
  /** Events after a sequence, oldest first; without one, the newest `limit`. */
  listEvents(page: Page<number>): Promise<Slice<EventRow, number>>;

  /**
   * Takes a batch of a gateway's notes, samples or events, in one durable transaction. What is not
   * newer than the newest taken of the same gateway, incarnation and class is left out.
   */
  takeTelemetry(batch: TelemetryBatch): Promise<void>;
  /** Samples of a gateway, those that came last first; the key is a sequence. */
  listSamples(gateway: string, page: Page<number>): Promise<Slice<SampleRow, number>>;

  /** A query that any working store answers. */
  ping(): Promise<void>;
  close(): Promise<void>;
};
