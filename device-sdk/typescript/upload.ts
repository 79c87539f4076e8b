import type { Up } from "@tributary/proto/wire/device-link.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { limits } from "./limits.js";
import type { Update } from "./update.js";

/** Sends an update's bytes, in order, with a bounded number of them unacknowledged. */
export type ChunkSender = {
  /** Sends from `offset`; what was being sent before is left. */
  start(update: Update, offset: number, windowBytes: number): void;
  stop(): void;
};

export type ChunkSenderOptions = {
  /** Resolves on PUBACK, which is flow control and no promise; rejects when the link is down. */
  readonly publish: (header: Up<"chunk">, payload: Uint8Array) => Promise<void>;
  /** A chunk was acknowledged. */
  readonly onProgress: (round: string) => void;
  /** Every byte from the offset was acknowledged. */
  readonly onSent: (round: string) => void;
};

export function createChunkSender(options: ChunkSenderOptions): ChunkSender {
  let run = 0;

  return {
    start(update, from, windowBytes) {
      const mine = ++run;
      const { payload } = update;
      const { round } = update.begin;
      const window = Math.min(windowBytes, limits.uploadWindowBytes);
      let offset = from;
      let unacknowledged = 0;

      const acknowledged = (bytes: number): void => {
        if (mine !== run) return;
        unacknowledged -= bytes;
        options.onProgress(round);
        pump();
        if (mine === run && offset === payload.length && unacknowledged === 0)
          options.onSent(round);
      };
      const pump = (): void => {
        while (mine === run && offset < payload.length) {
          const chunk = payload.subarray(offset, offset + wire.chunkBytes);
          // One chunk is always let through, or a window smaller than a chunk would send nothing.
          if (unacknowledged > 0 && unacknowledged + chunk.length > window) return;
          unacknowledged += chunk.length;
          const header = { round, offset };
          offset += chunk.length;
          options.publish(header, chunk).then(
            () => acknowledged(chunk.length),
            // The link is down or full: its recovery, or the doubt timer, begins the update again.
            () => {
              if (mine === run) run++;
            },
          );
        }
      };
      if (offset >= payload.length) options.onSent(round);
      else pump();
    },
    stop() {
      run++;
    },
  };
}
