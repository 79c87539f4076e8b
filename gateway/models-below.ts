import type { Clock } from "@tributary/proto/host/clock.js";
import type { ReadFile } from "@tributary/proto/host/disk.js";
import { limits } from "./limits.js";
import type { Models } from "./models.js";

/** Models as gateways below fetch them: from this gateway's cache. */
export type ModelsBelow = {
  /**
   * The file of a model, once it is here as a whole; undefined when it is not known, or did not
   * arrive in time. It stays in the cache until it is closed.
   */
  open(digest: string): Promise<ReadFile | undefined>;
  /** More of a model can be read, or it is gone. */
  progressed(digest: string): void;
  close(): void;
};

export type ModelsBelowOptions = {
  readonly models: Pick<Models, "available" | "read" | "pin" | "unpin" | "kick">;
  /** Asks for a model that is known but not here; whether it is known. */
  readonly recover: (digest: string) => boolean;
  readonly clock: Clock;
};

export function createModelsBelow({ models, recover, clock }: ModelsBelowOptions): ModelsBelow {
  const waiting = new Map<string, Set<() => void>>();

  const known = (digest: string) => models.available(digest) !== undefined || recover(digest);
  const whole = (digest: string) => {
    const found = models.available(digest);
    return found !== undefined && found.bytes === found.manifest.bytes ? found : undefined;
  };

  /** Resolves when the model may have come, and at the latest when its time is over. */
  function progress(digest: string, untilMs: number): Promise<void> {
    return new Promise((resolve) => {
      const wakes = waiting.get(digest) ?? new Set();
      waiting.set(digest, wakes);
      const wake = () => {
        timer.cancel();
        wakes.delete(wake);
        if (wakes.size === 0) waiting.delete(digest);
        resolve();
      };
      const timer = clock.setTimer(Math.max(0, untilMs - clock.monotonicMs()), wake);
      wakes.add(wake);
    });
  }

  return {
    async open(digest) {
      const untilMs = clock.monotonicMs() + limits.modelBelowWaitMs;
      while (whole(digest) === undefined) {
        if (!known(digest) || clock.monotonicMs() >= untilMs) return undefined;
        models.kick();
        await progress(digest, untilMs);
      }
      const size = whole(digest)?.manifest.bytes ?? 0;
      models.pin(digest);
      return {
        size,
        read: (offset, length) => models.read(digest, offset, length),
        async close() {
          models.unpin(digest);
        },
      };
    },
    progressed(digest) {
      for (const wake of [...(waiting.get(digest) ?? [])]) wake();
    },
    close() {
      for (const wakes of [...waiting.values()]) for (const wake of [...wakes]) wake();
    },
  };
}
