/** Whether a session waits for room on the disk, which may take for ever. */
export type DiskWait = {
  /** Says so, with the reason; undefined when it goes on. */
  waits(reason: string | undefined): void;
  reason(): string | undefined;
  /** Resolves once it waits: at once if it does. */
  waiting(): Promise<void>;
};

export function createDiskWait(): DiskWait {
  let now: string | undefined;
  let waiters: (() => void)[] = [];
  return {
    waits(reason) {
      now = reason;
      if (reason === undefined) return;
      for (const wake of waiters.splice(0)) wake();
    },
    reason: () => now,
    waiting: () =>
      now === undefined
        ? new Promise((resolve) => {
            waiters = [...waiters, resolve];
          })
        : Promise.resolve(),
  };
}
