/**
 * Runs jobs one at a time in the order they were put, so that a session's state has one writer.
 * At most `capacity` jobs wait.
 */
export type Mailbox = {
  /** Undefined, and nothing runs, when too many jobs wait; else settles as the job does. */
  put<T>(job: () => Promise<T>): Promise<T> | undefined;
  /** Settles when everything put so far has run. */
  idle(): Promise<void>;
};

export function createMailbox(capacity: number): Mailbox {
  let last: Promise<unknown> = Promise.resolve();
  let waiting = 0;
  return {
    put(job) {
      if (waiting >= capacity) return undefined;
      waiting++;
      const run = last.then(() => {
        waiting--;
        return job();
      });
      last = run.catch(() => undefined);
      return run;
    },
    async idle() {
      let seen: unknown;
      while (seen !== last) {
        seen = last;
        await seen;
      }
    },
  };
}
