import { storeLimits } from "./limits.js";
import type { Slice } from "./store.js";

/** Rows to ask for so as to know whether there are more. */
export function askFor(limit: number): number {
  return boundLimit(limit) + 1;
}

function boundLimit(limit: number): number {
  return Math.max(1, Math.min(Math.floor(limit), storeLimits.sliceItems));
}

/** The slice of rows that `askFor(limit)` brought; `keyOf` gives the key to go on after. */
export function sliceOf<R, T, K>(
  rows: readonly R[],
  limit: number,
  keyOf: (row: R) => K,
  itemOf: (row: R) => T,
): Slice<T, K> {
  const kept = rows.slice(0, boundLimit(limit));
  const last = kept.at(-1);
  const more = rows.length > kept.length;
  return { items: kept.map(itemOf), next: more && last !== undefined ? keyOf(last) : undefined };
}
