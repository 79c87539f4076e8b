import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import { type Code, isRetryable } from "@tributary/proto/wire/codes.js";
import type { Down, Up } from "@tributary/proto/wire/device-link.js";
import {
  chunkCount,
  chunkLength,
  type Sha256,
  verifyChunk,
  verifyWhole,
} from "@tributary/proto/wire/manifest.js";
import type { Manifest } from "@tributary/proto/wire/plan.js";
import { limits } from "./limits.js";

/** One transfer of a model file, pulled chunk by chunk within a window, verified as it comes. */
export type Download = {
  /** A part arrived. Parts of other models, duplicates and parts nobody asked for do no harm. */
  part(header: Down<"part">, payload: Uint8Array): void;
  /** The link came up or went down; the transfer pauses without one, and goes on where it was. */
  setOnline(online: boolean): void;
  /** The gateway refused a fetch. */
  refused(code: Code, message: string, retryAfterMs: number): void;
  /** Ends the transfer; nothing is reported afterwards. */
  abort(): void;
};

export type DownloadOptions = {
  readonly manifest: Manifest;
  /** Bytes already held: whole chunks from the start of the file, already verified. */
  readonly held: Uint8Array;
  readonly online: boolean;
  readonly clock: Clock;
  readonly random: Random;
  readonly sha256: Sha256;
  readonly request: (header: Up<"fetch">) => void;
  /** Verified bytes that extend what is held from the start, short of the whole file. */
  readonly onHeld: (bytes: Uint8Array) => void;
  readonly onDone: (bytes: Uint8Array) => void;
  readonly onFailed: (code: Code, message: string) => void;
  readonly onBadChunk: (code: Code, offset: number) => void;
};

export function startDownload(options: DownloadOptions): Download {
  const { manifest, clock, random } = options;
  const total = chunkCount(manifest);
  const bytes = new Uint8Array(manifest.bytes);
  bytes.set(options.held);
  let heldChunks = Math.floor(options.held.length / manifest.chunkBytes);
  if (options.held.length === manifest.bytes) heldChunks = total;
  /** Verified chunks past the held ones, and those asked for: at most a window of each. */
  const ahead = new Set<number>();
  const asked = new Set<number>();
  let online = options.online;
  let over = false;
  let badChunks = 0;
  let attempt = 0;
  /** After a refusal: what comes is taken, and nothing is asked for until the wait is over. */
  let holding = false;
  let timer: Timer | undefined;

  const end = (): void => {
    over = true;
    timer?.cancel();
  };
  const fail = (code: Code, message: string): void => {
    end();
    options.onFailed(code, message);
  };
  const wait = (delayMs: number): void => {
    timer?.cancel();
    timer = clock.setTimer(delayMs, () => {
      holding = false;
      attempt++;
      asked.clear();
      pump();
    });
  };
  const pump = (): void => {
    if (over || !online || holding) return;
    const windowEnd = Math.min(total, heldChunks + limits.fetchWindowChunks);
    for (let index = heldChunks; index < windowEnd; index++) {
      if (ahead.has(index) || asked.has(index)) continue;
      asked.add(index);
      const { model, digest } = manifest;
      const offset = index * manifest.chunkBytes;
      options.request({ model, digest, offset, length: chunkLength(manifest, index) });
    }
    wait(limits.fetchDoubtMs);
  };
  const finish = (): void => {
    end();
    const whole = verifyWhole(manifest, bytes, options.sha256);
    if (whole.ok) options.onDone(bytes);
    else options.onFailed(whole.code, whole.message);
  };
  const accept = (index: number, payload: Uint8Array): void => {
    attempt = 0;
    bytes.set(payload, index * manifest.chunkBytes);
    ahead.add(index);
    const from = heldChunks;
    while (ahead.delete(heldChunks)) heldChunks++;
    if (heldChunks === total) {
      finish();
      return;
    }
    if (heldChunks > from)
      options.onHeld(bytes.subarray(from * manifest.chunkBytes, heldChunks * manifest.chunkBytes));
    pump();
  };

  if (heldChunks === total) queueMicrotask(() => over || finish());
  else queueMicrotask(pump);

  return {
    part(header, payload) {
      if (over || header.digest !== manifest.digest || header.model !== manifest.model) return;
      const index = header.offset / manifest.chunkBytes;
      if (index < heldChunks || ahead.has(index) || index >= heldChunks + limits.fetchWindowChunks)
        return;
      const verdict = verifyChunk(manifest, header.offset, payload, options.sha256);
      if (verdict.ok) {
        asked.delete(index);
        accept(index, payload);
        return;
      }
      options.onBadChunk(verdict.code, header.offset);
      if (++badChunks > limits.badChunks)
        return fail(verdict.code, `${badChunks} bad chunks of ${manifest.model}`);
      asked.delete(index);
      pump();
    },
    setOnline(up) {
      online = up;
      asked.clear();
      attempt = 0;
      holding = false;
      timer?.cancel();
      pump();
    },
    refused(code, message, retryAfterMs) {
      if (over) return;
      if (!isRetryable(code)) return fail(code, message);
      if (!online || holding) return;
      holding = true;
      const { backoffBaseMs: baseMs, backoffCapMs: capMs } = limits;
      wait(Math.max(retryAfterMs, jitteredBackoff(random, attempt, { baseMs, capMs })));
    },
    abort: end,
  };
}
