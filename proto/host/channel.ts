import { TributaryError } from "../wire/errors.js";

/** A queue between parts that run at their own pace. Each item goes to one reader, in order. */
export interface Channel<T> extends AsyncIterable<T> {
  /**
   * Resolves once the item is in the queue: at once while there is room, else when a reader makes
   * some (pushes that wait keep their order). Rejects with `channel-closed` once it is closed.
   */
  push(item: T): Promise<void>;
  /** Takes the item if there is room now and nobody waits; false when full or closed. */
  tryPush(item: T): boolean;
  /** Readers get what is queued, then end. Pushes that still wait reject. Leaving a reading loop does not close. */
  close(): void;
  /** Items queued. */
  readonly size: number;
}

/** A channel that queues at most `capacity` items, a whole number from 1. */
export function createChannel<T>({ capacity }: { readonly capacity: number }): Channel<T> {
  if (!Number.isInteger(capacity) || capacity < 1) {
    throw new RangeError(`a channel cannot hold ${capacity} items`);
  }
  type Push = { readonly item: T; readonly resolve: () => void; readonly reject: () => void };
  type Read = (result: IteratorResult<T, undefined>) => void;
  let queue: T[] = [];
  let head = 0;
  let pushes: Push[] = [];
  let reads: Read[] = [];
  let closed = false;

  const size = (): number => queue.length - head;

  function give(item: T): void {
    const read = reads.shift();
    if (read === undefined) queue.push(item);
    else read({ done: false, value: item });
  }
  function take(): T {
    const item = queue[head] as T;
    // Dropping from the front one by one would cost the whole queue each time.
    if (++head * 2 > queue.length) {
      queue = queue.slice(head);
      head = 0;
    }
    const waiting = pushes.shift();
    if (waiting !== undefined) {
      queue.push(waiting.item);
      waiting.resolve();
    }
    return item;
  }
  const closedError = () => new TributaryError("channel-closed", "the channel is closed");

  return {
    push(item) {
      if (closed) return Promise.reject(closedError());
      if (size() < capacity) {
        give(item);
        return Promise.resolve();
      }
      return new Promise((resolve, reject) => {
        pushes.push({ item, resolve, reject: () => reject(closedError()) });
      });
    },
    tryPush(item) {
      if (closed || size() >= capacity) return false;
      give(item);
      return true;
    },
    close() {
      if (closed) return;
      closed = true;
      for (const { reject } of pushes) reject();
      for (const read of reads) read({ done: true, value: undefined });
      pushes = [];
      reads = [];
    },
    get size() {
      return size();
    },
    [Symbol.asyncIterator]: () => ({
      next() {
        if (size() > 0) return Promise.resolve({ done: false, value: take() });
        if (closed) return Promise.resolve({ done: true, value: undefined });
        return new Promise((resolve) => {
          reads.push(resolve);
        });
      },
    }),
  };
}
