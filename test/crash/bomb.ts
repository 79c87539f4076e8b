import { writeFileSync } from "node:fs";
import type { PointName } from "./points.js";

/** At which hit of which point a life ends. */
export type Fuse = {
  readonly point: PointName;
  readonly hit: number;
  /** A file that is written at the hit: nobody has to guess what ended the life. */
  readonly mark: string;
};

/** What ends the process it is in, once, at one point. */
export type Bomb = {
  /** Passes the point; does not come back from the hit at which the process is to end. */
  hit(point: PointName): void;
  /** Counts the hit, and says whether it is the one: for a caller with half of a deed to do first. */
  due(point: PointName): boolean;
  /** Ends this process as a power cut would: no handler runs, no buffer is written. */
  explode(): never;
};

/** @param fuse without one it never goes off */
export function createBomb(fuse?: Fuse): Bomb {
  let left = fuse?.hit ?? 0;
  const due = (point: PointName): boolean => point === fuse?.point && --left === 0;
  const explode = (): never => {
    if (fuse !== undefined) writeFileSync(fuse.mark, fuse.point);
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
