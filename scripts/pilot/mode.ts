import type { SessionParamsInput } from "@tributary/cloud/params.js";
import type { SiteSpec } from "./floor.js";
import type { AnomalyReport, SiteEntry } from "./report/report.js";

/** One session that a run consists of. */
export type SessionSpec = {
  readonly params: SessionParamsInput;
  /** Imported under the name in `params.initialModel` before the session starts. */
  readonly initialModel: Uint8Array;
  /** Where the run's faults and its accuracy curve belong: the session that trains the model. */
  readonly isMain: boolean;
};

/** What the finished main session has to show for itself. */
export type ModeResult = {
  readonly finalAccuracy?: number;
  readonly anomaly?: AnomalyReport;
};

/** What a pilot trains, and on what: everything that differs between MNIST and sensor logs. */
export type Mode = {
  readonly name: "mnist" | "csv";
  /** Where the data comes from, for the report. */
  readonly provenance: string;
  readonly sites: readonly SiteSpec[];
  readonly siteEntries: readonly SiteEntry[];
  /** ES module with `createTrainer`. */
  readonly trainerModule: string;
  /** The next session, given the model file that the one before ended with; undefined at the end. */
  nextSession(previousModel: Uint8Array | undefined): Promise<SessionSpec | undefined>;
  /** Accuracy of a published model on data that no device trains on; undefined where there is none. */
  accuracy(model: Uint8Array): Promise<number | undefined>;
  result(finalModel: Uint8Array): Promise<ModeResult>;
};
