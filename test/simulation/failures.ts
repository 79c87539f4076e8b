/** Which of the simulation's checkers found something. */
export type Checker =
  /** A receipted contribution is in no model and no expiry, or in more than one. */
  | "account"
  /** A model is not the fold of its contributions, to the bit. */
  | "fold"
  /** The cloud let something expire, made a model, or made none, and the session's rules say otherwise. */
  | "rules"
  /** Something grew past its bound. */
  | "limits"
  /** A promise was rejected and nobody heard, or a callback threw. */
  | "unhandled"
  /** Something still waits after the faults have stopped, or does not close. */
  | "waiting"
  /** The same seed went another way. */
  | "trace";

export type Failure = { readonly checker: Checker; readonly message: string };

export type Failures = {
  readonly first: Failure | undefined;
  add(checker: Checker, message: string): void;
};

export function createFailures(): Failures {
  let first: Failure | undefined;
  return {
    get first() {
      return first;
    },
    add(checker, message) {
      first ??= { checker, message };
    },
  };
}
