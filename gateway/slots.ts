/** Upload buffers: a fixed number in use, reused so that a round does not touch fresh memory. */
export type SlotPool = {
  readonly free: number;
  /** A buffer of at least `bytes`, or undefined when all slots are in use. */
  take(bytes: number): Uint8Array | undefined;
  give(buffer: Uint8Array): void;
};

/** @param pooledBytes free buffers kept, in bytes; more are left to the garbage collector */
export function createSlotPool(slots: number, pooledBytes: number): SlotPool {
  const kept: Uint8Array[] = [];
  const taken = new Set<Uint8Array>();

  return {
    get free() {
      return slots - taken.size;
    },
    take(bytes) {
      if (taken.size >= slots) return undefined;
      // A much larger buffer would pin memory that no open round needs any more.
      const fit = kept.findIndex((b) => b.length >= bytes && b.length <= 2 * bytes);
      const [found] = fit >= 0 ? kept.splice(fit, 1) : [];
      if (found === undefined) kept.length = 0;
      const buffer = found ?? new Uint8Array(bytes);
      taken.add(buffer);
      return buffer;
    },
    give(buffer) {
      if (!taken.delete(buffer)) return;
      const total = kept.reduce((sum, b) => sum + b.length, buffer.length);
      if (total <= pooledBytes && kept.length < slots) kept.push(buffer);
    },
  };
}
