import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { limits } from "./limits.js";

/** Lets bytes pass at a steady rate: a bucket of one second's worth, filled as time passes. */
export type Rate = {
  /** The most that one `take` may ask for: what the bucket holds. */
  readonly pieceBytes: number;
  /** Resolves when so many bytes may go, in the order of asking; rejects when it is closed. */
  take(bytes: number): Promise<void>;
  close(): void;
};

/** @param limit bytes a second; undefined: everything passes at once */
export function createRate(
  limit: number | undefined,
  clock: Pick<Clock, "setTimer" | "monotonicMs">,
): Rate {
  if (limit === undefined) {
    const pieceBytes = Number.POSITIVE_INFINITY;
    return { pieceBytes, take: async () => {}, close: () => {} };
  }
  const bytesPerSecond = limit;
  const pieceBytes = Math.max(limits.ratePieceBytes, bytesPerSecond);
  let tokens = pieceBytes;
  let filledMs = clock.monotonicMs();
  let timer: Timer | undefined;
  let closed = false;
  const waiting: { readonly bytes: number; readonly go: (error?: Error) => void }[] = [];

  function fill(): void {
    const nowMs = clock.monotonicMs();
    tokens = Math.min(pieceBytes, tokens + ((nowMs - filledMs) / 1_000) * bytesPerSecond);
    filledMs = nowMs;
  }

  function pump(): void {
    timer?.cancel();
    timer = undefined;
    fill();
    for (let next = waiting[0]; next !== undefined; next = waiting[0]) {
      if (next.bytes > tokens) {
        const waitMs = ((next.bytes - tokens) / bytesPerSecond) * 1_000;
        timer = clock.setTimer(Math.ceil(waitMs), pump);
        return;
      }
      tokens -= next.bytes;
      waiting.shift();
      next.go();
    }
  }

  return {
    pieceBytes,
    take(bytes) {
      if (closed) return Promise.reject(new Error("the rate is closed"));
      if (bytes > pieceBytes) throw new RangeError(`${bytes} bytes at once, of ${pieceBytes}`);
      return new Promise((resolve, reject) => {
        waiting.push({ bytes, go: (error) => (error === undefined ? resolve() : reject(error)) });
        pump();
      });
    },
    close() {
      closed = true;
      timer?.cancel();
      for (const { go } of waiting.splice(0)) go(new Error("the rate is closed"));
    },
  };
}
