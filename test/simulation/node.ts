import type { Clock } from "@tributary/proto/host/clock.js";
import type { Agenda } from "./agenda.js";

/**
 * One run of a process, from its start to its end. What a dead one still holds does nothing: its
 * timers do not fire, its calls never come back, its messages go nowhere.
 */
export type Life = { readonly node: string; readonly number: number; alive: boolean };

/** A machine: its crystal drifts, its wall clock can be set, and it is up in one life after another. */
export type Machine = {
  readonly name: string;
  /** Wall-clock milliseconds beside the true time. */
  wallOffsetMs: number;
  clock(life: Life): Clock;
};

/** @param rate seconds of this machine in a true second, about 1 */
export function createMachine(agenda: Agenda, name: string, rate: number): Machine {
  const machine: Machine = {
    name,
    wallOffsetMs: 0,
    clock(life) {
      // A process' monotonic clock starts with it: nothing may compare it across lives.
      const bornMs = agenda.nowMs;
      return {
        nowMs: () => Math.floor(EPOCH_MS + machine.wallOffsetMs + agenda.nowMs * rate),
        monotonicMs: () => (agenda.nowMs - bornMs) * rate,
        setTimer(delayMs, fn) {
          // A microsecond more, so that no rounding lets it fire before its time by its own clock.
          const entry = agenda.after(delayMs / rate + 0.001, () => {
            if (life.alive) fn();
          });
          return { cancel: () => entry.cancel() };
        },
      };
    },
  };
  return machine;
}

/** Where the simulated time begins on a wall clock that is right: 2027-01-01. */
const EPOCH_MS = Date.UTC(2027, 0, 1);
