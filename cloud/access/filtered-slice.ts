import type { Page, Slice } from "../store/store.js";

/** A slice of those rows of a list that are kept, read slice by slice until it is full. */
export async function filteredSlice<T, K>(
  list: (page: Page<K>) => Promise<Slice<T, K>>,
  keeps: (row: T) => boolean,
  keyOf: (row: T) => K,
  { after, limit }: Page<K>,
): Promise<Slice<T, K>> {
  const kept: T[] = [];
  for (let from = after; ; ) {
    const slice = await list({ after: from, limit });
    for (const row of slice.items) {
      if (!keeps(row)) continue;
      if (kept.length === limit) return { items: kept, next: keyOf(kept.at(-1) ?? row) };
      kept.push(row);
    }
    if (slice.next === undefined) return { items: kept, next: undefined };
    from = slice.next;
  }
}
