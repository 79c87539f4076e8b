import type { Verdict } from "@tributary/proto/wire/verdict.js";
import type { SessionParams } from "./params.js";
import type { Standing } from "./round.js";
import type { SessionState } from "./store/rows.js";

/** One gateway's part in an open round. */
export type MemberView = {
  readonly gateway: string;
  readonly site: string;
  readonly attached: boolean;
  /** Devices assigned to it. */
  readonly roster: number;
  readonly standing: Standing;
  /** As the gateway last reported; 0 before. */
  readonly offered: number;
  readonly folded: number;
  readonly declined: number;
  readonly sealed: boolean;
  /** Contributions of it that the cloud holds. */
  readonly delivered: number;
};

export type RoundView = {
  readonly id: string;
  readonly number: number;
  readonly task: "train" | "evaluate";
  readonly base: string;
  readonly openedAtMs: number;
  readonly deadlineAtMs: number;
  /** Gateways that are expected, and how many of them delivered or said that they have nothing. */
  readonly expected: number;
  readonly arrived: number;
  readonly gateways: readonly MemberView[];
};

/** What a session does now. */
export type Activity =
  | "waiting"
  | "training"
  | "evaluating"
  | "pausing"
  | "stopped"
  | "finished"
  | "failed";

export type SessionView = {
  readonly id: string;
  /** The name of its parameters, which is its id. */
  readonly name: string;
  readonly state: SessionState;
  readonly activity: Activity;
  /** Why it does not run, or what it waits for, in words. */
  readonly reason: string | null;
  readonly params: SessionParams;
  /** Model id of the newest good model, from which the next round starts. */
  readonly head: string;
  /** The open round; null between rounds. */
  readonly round: RoundView | null;
  /** What is on disk for models to come. */
  readonly kept: {
    /** Late Partials that no model holds yet, and their contributions. */
    readonly partials: number;
    readonly contributions: number;
    /** Of all kept files. */
    readonly bytes: number;
    /** Partials that a model holds and that later models carry on: site memory. */
    readonly carried: number;
  };
  readonly counts: {
    /** Models made, published or held. */
    readonly models: number;
    /** Rounds opened, evaluations and failed ones included. */
    readonly rounds: number;
    /** Failed rounds in a row. */
    readonly failedRounds: number;
    /** Contributions in a model, and recorded as expired, of all its rounds; `kept` has the others. */
    readonly merged: number;
    readonly expired: number;
  };
  readonly startedAtMs: number;
  /** When it stopped running; null while it runs. */
  readonly endedAtMs: number | null;
  /** Means of the last round that closed with contributions. */
  readonly metrics: Readonly<Record<string, number>>;
};

export type SessionCode =
  | "session-exists"
  | "unknown-session"
  | "unknown-model"
  | "unknown-package"
  | "wrong-state"
  | "foreign-model"
  | "plan-invalid"
  | "plan-headroom"
  | "model-malformed"
  | "busy";

/** What the REST API may ask of the sessions. */
export type Sessions = {
  /** Starts a session; its name must be free and its initial model known. */
  start(params: SessionParams): Promise<Verdict<{ readonly session: SessionView }, SessionCode>>;
  /**
   * Ends the open round, then the session, a failed one too, stands still until it is resumed. What
   * waits for models to come expires; what is carried on of earlier ones stays for when it is resumed.
   */
  stop(id: string): Promise<Verdict<{ readonly session: SessionView }, SessionCode>>;
  /** Goes on with a stopped or failed session. */
  resume(id: string): Promise<Verdict<{ readonly session: SessionView }, SessionCode>>;
  status(id: string): SessionView | undefined;
  /** By id. */
  list(): SessionView[];
  /**
   * Makes a model of a session, or the one that it began with, its head: the next round starts from
   * it. Where several sessions began with it, `session` says which.
   */
  activate(
    model: string,
    session?: string,
  ): Promise<Verdict<{ readonly session: SessionView; readonly model: string }, SessionCode>>;
};
