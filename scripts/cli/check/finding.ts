/** `skipped`: it could not be looked at, for the reason that is given. */
export type Outcome = "ok" | "warning" | "error" | "skipped";

/** What a look at one thing found. */
export type Finding = {
  /** What was looked at: `clock`, `disk`, `port listen`. */
  readonly name: string;
  readonly outcome: Outcome;
  readonly detail: string;
  /** What to do about it; of warnings and errors only. */
  readonly advice: string | null;
};

export function fine(name: string, detail: string): Finding {
  return { name, outcome: "ok", detail, advice: null };
}

export function skipped(name: string, detail: string): Finding {
  return { name, outcome: "skipped", detail, advice: null };
}

export function warning(name: string, detail: string, advice: string): Finding {
  return { name, outcome: "warning", detail, advice };
}

export function failure(name: string, detail: string, advice: string): Finding {
  return { name, outcome: "error", detail, advice };
}
