let last: Promise<unknown> = Promise.resolve();

/**
 * Runs `work` after all work given before it in this process. Devices that share a process train
 * one after another: the first updates leave while the others train, and one network's memory is
 * in use at a time. Rejects without running when `signal` has aborted by then.
 */
export function inTurn<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  const result = last.then(() => {
    signal.throwIfAborted();
    return work();
  });
  last = result.catch(() => undefined);
  return result;
}
