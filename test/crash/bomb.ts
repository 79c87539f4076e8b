import type { PointName } from "./points.js";

/** What ends the process it is in, once, at one point. */
export type Bomb = {
  /** Passes the point; does not come back from the hit at which the process is to end. */
  hit(point: PointName): void;
  /** Counts the hit, and says whether it is the one: for a caller with half of a deed to do first. */
  due(point: PointName): boolean;
  /** Ends this process as a power cut would: no handler runs, no buffer is written. */
  explode(): never;
};

/** @param fuse at which hit of which point; without one it never goes off */
export function createBomb(fuse?: { readonly point: PointName; readonly hit: number }): Bomb {
  let left = fuse?.hit ?? 0;
  const due = (point: PointName): boolean => point === fuse?.point && --left === 0;
  const explode = (): never => {
    process.kill(process.pid, "SIGKILL");
    throw new Error("the process outlived its SIGKILL");
  };
  return {
    hit(point) {
      if (due(point)) explode();
    },
    due,
    explode,
  };
}
