import { type Clock, systemClock } from "@tributary/proto/host/clock.js";

/** The computer's clock with another date: what it shows may be set, what it measures is real. */
export type SetClock = Clock & {
  /** Sets the date, in milliseconds since 1970; it goes on from there. */
  set(nowMs: number): void;
};

export function openSetClock(startMs: number): SetClock {
  const real = systemClock();
  let shiftMs = 0;
  const clock: SetClock = {
    ...real,
    nowMs: () => real.nowMs() + shiftMs,
    set(nowMs) {
      shiftMs = nowMs - real.nowMs();
    },
  };
  clock.set(startMs);
  return clock;
}
