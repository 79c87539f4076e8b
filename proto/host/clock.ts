/** A timer that has not fired yet. */
export type Timer = {
  /** Afterwards the function is not called. Harmless when it was already. */
  cancel(): void;
};

export interface Clock {
  /** Wall-clock time in milliseconds since 1970 (UTC). It can jump, either way. */
  nowMs(): number;
  /** Milliseconds since some fixed moment. Never goes back; what durations are measured with. */
  monotonicMs(): number;
  /** Calls `fn` once, at least `delayMs` from now, never before `setTimer` returns. */
  setTimer(delayMs: number, fn: () => void): Timer;
}

/** The longest delay that `setTimeout` takes; a longer one would fire at once. */
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;

/** The computer's clock. A pending timer keeps the process alive. */
export function systemClock(): Clock {
  const monotonicMs = (): number => performance.now();
  return {
    nowMs: () => Date.now(),
    monotonicMs,
    setTimer(delayMs, fn) {
      const dueMs = monotonicMs() + delayMs;
      let handle: NodeJS.Timeout;
      const arm = (): void => {
        const leftMs = Math.ceil(dueMs - monotonicMs());
        handle = setTimeout(
          () => (monotonicMs() < dueMs ? arm() : fn()),
          Math.min(Math.max(leftMs, 0), LONGEST_TIMEOUT_MS),
        );
      };
      arm();
      return { cancel: () => clearTimeout(handle) };
    },
  };
}

/** A clock that stands still until it is told to move. */
export interface ManualClock extends Clock {
  /**
   * Moves time on and fires every timer that comes due, in the order they are due (equal ones: as
   * they were set), with the clock at the timer's own time. Timers set meanwhile count too.
   */
  advance(ms: number): void;
  /** Milliseconds to the next timer; undefined when none is set. */
  nextTimerMs(): number | undefined;
  /** Moves only the wall clock, as a correction by an operator or a time server does. */
  shiftWall(ms: number): void;
}

export function createManualClock(startMs = 0): ManualClock {
  type Pending = { readonly dueMs: number; readonly order: number; readonly fn: () => void };
  const pending = new Set<Pending>();
  let elapsedMs = 0;
  let wallMs = startMs;
  let order = 0;

  function next(): Pending | undefined {
    let first: Pending | undefined;
    for (const timer of pending) {
      if (
        first === undefined ||
        timer.dueMs < first.dueMs ||
        (timer.dueMs === first.dueMs && timer.order < first.order)
      ) {
        first = timer;
      }
    }
    return first;
  }
  function moveTo(ms: number): void {
    wallMs += ms - elapsedMs;
    elapsedMs = ms;
  }

  return {
    nowMs: () => wallMs,
    monotonicMs: () => elapsedMs,
    setTimer(delayMs, fn) {
      const timer = { dueMs: elapsedMs + Math.max(delayMs, 0), order: order++, fn };
      pending.add(timer);
      return { cancel: () => void pending.delete(timer) };
    },
    advance(ms) {
      if (!(ms >= 0)) throw new RangeError(`time cannot move by ${ms} ms`);
      const endMs = elapsedMs + ms;
      for (let timer = next(); timer !== undefined && timer.dueMs <= endMs; timer = next()) {
        pending.delete(timer);
        moveTo(timer.dueMs);
        timer.fn();
      }
      moveTo(endMs);
    },
    nextTimerMs() {
      const timer = next();
      return timer === undefined ? undefined : timer.dueMs - elapsedMs;
    },
    shiftWall(ms) {
      wallMs += ms;
    },
  };
}
