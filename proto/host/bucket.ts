import type { Clock } from "./clock.js";

export type BucketBounds = {
  /** Tokens that flow in each second. */
  readonly perSecond: number;
  /** Tokens that it holds, and begins with. */
  readonly burst: number;
};

/** Tokens that flow in at a steady rate. What is spent is spent: the level can be below zero. */
export type Bucket = {
  readonly level: number;
  readonly full: boolean;
  spend(tokens: number): void;
  /** Until the level is at least `tokens`, in milliseconds; 0 when it is. */
  waitMs(tokens: number): number;
};

export function createBucket(bounds: BucketBounds, clock: Pick<Clock, "monotonicMs">): Bucket {
  const { perSecond, burst } = bounds;
  let held = burst;
  let filledMs = clock.monotonicMs();

  function fill(): number {
    const nowMs = clock.monotonicMs();
    held = Math.min(burst, held + ((nowMs - filledMs) / 1_000) * perSecond);
    filledMs = nowMs;
    return held;
  }

  return {
    get level() {
      return fill();
    },
    get full() {
      return fill() >= burst;
    },
    spend(tokens) {
      held = fill() - tokens;
    },
    waitMs: (tokens) => Math.max(0, Math.ceil(((tokens - fill()) / perSecond) * 1_000)),
  };
}
