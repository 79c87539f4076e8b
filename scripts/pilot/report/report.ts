/** What a pilot run writes down, as JSON. Times are milliseconds since the run's start. */
export type PilotReport = {
  readonly mode: "mnist" | "csv";
  readonly startedAt: string;
  readonly wallSeconds: number;
  readonly seed: number;
  readonly passed: boolean;
  readonly failures: readonly string[];
  /** Every global model's sum equals the oracle's, bit for bit. */
  readonly exact: boolean;
  readonly modelsChecked: number;
  /** Sums behind them: one for each base in each model. */
  readonly sumsChecked: number;
  readonly finalAccuracy?: number;
  readonly rounds: readonly RoundEntry[];
  readonly contributions: ContributionCounts;
  readonly missing: readonly string[];
  readonly doubled: readonly string[];
  readonly inexact: readonly string[];
  readonly sites: readonly SiteEntry[];
  readonly devices: number;
  readonly faults: readonly FaultEntry[];
  /** Undefined without --outage. */
  readonly outage?: OutageEntry;
  readonly buffers: readonly BufferEntry[];
  readonly processes: readonly ProcessEntry[];
  readonly data: string;
  readonly directory?: string;
  readonly anomaly?: AnomalyReport;
};

export type RoundEntry = {
  readonly round: string;
  readonly model?: string;
  readonly state: string;
  /** Contributions that its model is the first to hold; for an evaluation, those to it. */
  readonly contributors: number;
  /** How many of them were made in an earlier round. */
  readonly late: number;
  readonly sites: readonly string[];
  /** Of the model on all test samples, measured by the pilot itself. */
  readonly accuracy?: number;
  /** As the devices reported it, where the round was evaluated. */
  readonly federated?: Readonly<Record<string, number>>;
  readonly startedMs: number;
  readonly endedMs?: number;
};

/** Counted in receipts: a contribution of several site rounds stands for several. */
export type ContributionCounts = {
  readonly receipted: number;
  readonly inModel: number;
  /** Of those in a model: how many came too late for their own round, and are in a later one's. */
  readonly late: number;
  readonly inEvaluation: number;
  readonly expired: number;
  readonly duplicatesDropped: number;
};

export type SiteEntry = {
  readonly site: string;
  readonly gateway: string;
  /** For MNIST: the digits that no device of the site holds. */
  readonly lacks?: readonly number[];
  readonly devices: readonly {
    readonly device: string;
    readonly holds: string;
    readonly samples: number;
  }[];
};

export type FaultEntry = {
  readonly kind: "cut" | "kill";
  readonly site: string;
  readonly what: string;
  readonly fromMs: number;
  readonly toMs?: number;
  readonly pid?: number;
};

/** What `--outage` asked for, and what the run made of it. */
export type OutageEntry = {
  readonly asked: string;
  readonly askedMs: number;
  /** As planned; the fault's own times say how long it really was. */
  readonly lastsMs: number;
  readonly scale: number;
  readonly note: string;
};

/** What waited at a site for its uplink, as its gateway said. */
export type BufferEntry = { readonly site: string; readonly samples: readonly BufferSample[] };

export type BufferSample = {
  readonly atMs: number;
  /** Undefined while the gateway gave no answer. */
  readonly is?:
    | {
        /** Bytes, number and age of the sealed Partials without a receipt. */
        readonly bytes: number;
        readonly partials: number;
        readonly oldestMs: number;
        /** All that the buffer holds, with the journals and the site state of open rounds. */
        readonly usedBytes: number;
      }
    | undefined;
};

export type ProcessEntry = {
  readonly name: string;
  readonly pid: number;
  readonly port?: number;
  readonly startedMs: number;
  readonly endedMs?: number;
  readonly exitCode?: number | null;
  readonly signal?: string | null;
};

/** Detection quality on the rest of each log, thresholds from the training part only. */
export type Detection = {
  readonly f1: number;
  readonly falseAlarmRate: number;
  readonly missedAlarmRate: number;
};

export type AnomalyReport = {
  readonly sensors: readonly string[];
  readonly unusedColumns: readonly string[];
  readonly thresholdRule: string;
  /** undefined where no log is labelled. */
  readonly federated?: Detection;
  readonly localOnly?: Detection;
  readonly devices: readonly {
    readonly device: string;
    readonly rows: number;
    readonly labelled: boolean;
    readonly federated?: Detection;
    readonly localOnly?: Detection;
    readonly alarms: number;
  }[];
};
