import type { Code } from "./codes.js";

/** An expected refusal: a value, never an exception. `message` says what, where and what to do. */
export type Refusal<C extends string = Code> = {
  readonly ok: false;
  readonly code: C;
  readonly message: string;
};

/** Either something accepted, or a refusal with a closed code. */
export type Verdict<T, C extends string = Code> = ({ readonly ok: true } & T) | Refusal<C>;

export function refuse<C extends string>(code: C, message: string): Refusal<C> {
  return { ok: false, code, message };
}
