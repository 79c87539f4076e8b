import type { PartialId } from "../gen/tributary/v1/reducer.js";
import { isId } from "../wire/ids.js";

/** Who sealed a Partial, and which of its Partials it is. Bound to one digest for good. */
export type PartialIdentity = {
  readonly gateway: string;
  readonly incarnation: string;
  readonly sequence: number;
};

/** The identity as text; unambiguous, since ids hold no dot. It also stands in file names. */
export function identityText({ gateway, incarnation, sequence }: PartialIdentity): string {
  return `${gateway}.${incarnation}.${sequence}`;
}

/** Reads an identity from the wire; undefined when a part of it is no id or past 2^53. */
export function readIdentity(id: PartialId | undefined): PartialIdentity | undefined {
  if (id === undefined || !isId(id.gateway) || !isId(id.incarnation)) return undefined;
  if (id.sequence > BigInt(Number.MAX_SAFE_INTEGER)) return undefined;
  return { gateway: id.gateway, incarnation: id.incarnation, sequence: Number(id.sequence) };
}
