/** What is to happen, by simulated time; of equal times in the order in which it was put there. */
export type Agenda = {
  /** Milliseconds since the simulation began. */
  readonly nowMs: number;
  /** Events that wait. */
  readonly size: number;
  /** Calls `run` at `atMs`, or now when that has passed. */
  at(atMs: number, run: () => void): Entry;
  after(delayMs: number, run: () => void): Entry;
  /** Moves the time to the next event and runs it; false when there is none before `untilMs`. */
  step(untilMs: number): boolean;
};

export type Entry = { cancel(): void };

type Item = { readonly atMs: number; readonly order: number; run: (() => void) | undefined };

export function createAgenda(): Agenda {
  const heap: Item[] = [];
  let nowMs = 0;
  let order = 0;
  let live = 0;

  const before = (a: Item, b: Item) => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
  const item = (i: number): Item => heap[i] as Item;
  const swap = (i: number, j: number) => {
    const kept = item(i);
    heap[i] = item(j);
    heap[j] = kept;
  };
  function push(added: Item): void {
    heap.push(added);
    for (let i = heap.length - 1; i > 0; ) {
      const parent = (i - 1) >> 1;
      if (!before(item(i), item(parent))) break;
      swap(i, parent);
      i = parent;
    }
  }
  function pop(): void {
    const last = heap.pop();
    if (heap.length === 0 || last === undefined) return;
    heap[0] = last;
    for (let i = 0; ; ) {
      const [left, right] = [2 * i + 1, 2 * i + 2];
      let least = i;
      if (left < heap.length && before(item(left), item(least))) least = left;
      if (right < heap.length && before(item(right), item(least))) least = right;
      if (least === i) break;
      swap(i, least);
      i = least;
    }
  }

  const at: Agenda["at"] = (atMs, run) => {
    const added: Item = { atMs: Math.max(atMs, nowMs), order: order++, run };
    push(added);
    live++;
    return {
      cancel() {
        if (added.run !== undefined) live--;
        added.run = undefined;
      },
    };
  };
  return {
    get nowMs() {
      return nowMs;
    },
    get size() {
      return live;
    },
    at,
    after: (delayMs, run) => at(nowMs + Math.max(0, delayMs), run),
    step(untilMs) {
      for (;;) {
        const next = heap[0];
        if (next === undefined || next.atMs > untilMs) return false;
        pop();
        const { run } = next;
        if (run === undefined) continue;
        next.run = undefined;
        live--;
        nowMs = next.atMs;
        run();
        return true;
      }
    },
  };
}
