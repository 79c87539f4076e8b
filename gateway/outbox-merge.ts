import type { Partial } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { OutboxRecord } from "./store.js";

/** Which entries of the outbox become one. Nothing here reads a Partial: the index says enough. */

/** Digest of what must be equal for two sums to be added to each other. */
export function shapeOf({ baseDigest, grid, layout, sum }: Partial): string {
  const { fractionBits, range } = grid;
  return sha256(encodeCbor({ baseDigest, fractionBits, range, layout, coordinates: sum.length }));
}

/** Entries with the same key may be merged; one that the upstream may have heard of has none. */
function mergeKey(entry: OutboxRecord): string | undefined {
  if (entry.opened) return undefined;
  const { base, shape, perSite, site, held = "" } = entry;
  const { session = "" } = splitNumberedId(entry.rounds[0] ?? "") ?? {};
  return [session, base, shape, held, perSite, perSite ? (site ?? "") : ""].join(" ");
}

/**
 * The entries that become one with `first`, itself included: in order, as many as the plan's NMax
 * and the bounds of a Partial allow.
 * @param apart sequences of entries that were found not to merge
 */
export function mergeGroup(
  entries: readonly OutboxRecord[],
  first: OutboxRecord,
  apart: ReadonlySet<number>,
): OutboxRecord[] {
  const key = mergeKey(first);
  const group = [first];
  if (key === undefined || apart.has(first.sequence)) return group;
  let { weight, contributors, totalMax } = first;
  let rounds = new Set(first.rounds);
  for (const entry of entries) {
    if (entry === first || mergeKey(entry) !== key || apart.has(entry.sequence)) continue;
    const most = Math.min(totalMax, entry.totalMax);
    const united = new Set([...rounds, ...entry.rounds]);
    if (weight + entry.weight > most) continue;
    if (contributors + entry.contributors > wire.contributors) continue;
    if (united.size > wire.roundsOfPartial) continue;
    group.push(entry);
    weight += entry.weight;
    contributors += entry.contributors;
    totalMax = most;
    rounds = united;
  }
  return group;
}

/** The first group of at least `least` entries; undefined when nothing can be merged. */
export function waitingGroup(
  entries: readonly OutboxRecord[],
  apart: ReadonlySet<number>,
  least: number,
): OutboxRecord[] | undefined {
  const alike = new Map<string, OutboxRecord[]>();
  for (const entry of entries) {
    const key = mergeKey(entry);
    if (key !== undefined) listed(alike, key).push(entry);
  }
  for (const some of alike.values()) {
    if (some.length < least) continue;
    for (const first of some) {
      const group = mergeGroup(some, first, apart);
      if (group.length >= least) return group;
    }
  }
  return undefined;
}

function listed<K, V>(lists: Map<K, V[]>, key: K): V[] {
  const list = lists.get(key) ?? [];
  lists.set(key, list);
  return list;
}
