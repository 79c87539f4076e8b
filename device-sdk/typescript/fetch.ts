import type { Layout } from "@tributary/proto/algebra/layout.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Code } from "@tributary/proto/wire/codes.js";
import type { Down, Up } from "@tributary/proto/wire/device-link.js";
import type { Manifest } from "@tributary/proto/wire/plan.js";
import { type Download, startDownload } from "./download.js";
import type { DeviceEvent } from "./events.js";
import type { HeldChunks, Models } from "./models.js";

/** Gets one model at a time: from what is kept, else from the gateway, going on with what is held. */
export type Fetcher = {
  /** Ends in `onFetched` or `onFailed`, unless it is aborted or another one starts. */
  start(manifest: Manifest, layout: Layout, good: boolean): void;
  abort(): void;
  setOnline(online: boolean): void;
  part(header: Down<"part">, payload: Uint8Array): void;
  refused(refusal: Down<"refusal">): void;
};

export type FetcherOptions = {
  readonly models: Models;
  readonly clock: Clock;
  readonly random: Random;
  readonly request: (header: Up<"fetch">) => void;
  readonly report: (event: DeviceEvent) => void;
  readonly onFetched: (digest: string) => void;
  readonly onFailed: (digest: string, code: Code, message: string) => void;
};

export function createFetcher(options: FetcherOptions): Fetcher {
  const { models, report } = options;
  let download: Download | undefined;
  let online = false;
  let run = 0;
  let held: HeldChunks | undefined;

  const keep = (
    mine: number,
    manifest: Manifest,
    layout: Layout,
    bytes: Uint8Array,
    transferredBytes: number,
    good: boolean,
  ): void => {
    const kept = models.keep(manifest, layout, bytes, good);
    const { model, digest } = manifest;
    if (!kept.ok) {
      fail(mine, manifest, kept.code, kept.message);
      return;
    }
    report({ level: "info", name: "fetched", model, bytes: bytes.length, transferredBytes });
    report({ level: "info", name: "model", model, good });
    options.onFetched(digest);
  };

  const fail = (mine: number, { model, digest }: Manifest, code: Code, message: string): void => {
    if (mine !== run) return;
    report({ level: "warn", name: "fetch-failed", model, code, message });
    options.onFailed(digest, code, message);
  };

  const begin = async (
    mine: number,
    manifest: Manifest,
    layout: Layout,
    good: boolean,
  ): Promise<void> => {
    const { model, digest } = manifest;
    if ((await models.load(digest)) !== undefined) {
      if (mine !== run) return;
      if (good && models.good()?.digest !== digest) {
        models.markGood(digest);
        report({ level: "info", name: "model", model, good });
      }
      options.onFetched(digest);
      return;
    }
    const opened = await models.openHeld(manifest);
    if (mine !== run) return;
    held = opened;
    const { clock, random, request } = options;
    download = startDownload({
      manifest,
      held: opened.bytes,
      online,
      clock,
      random,
      sha256,
      request,
      onHeld: opened.extend,
      onDone(bytes) {
        end();
        keep(mine, manifest, layout, bytes, bytes.length - opened.bytes.length, good);
      },
      onFailed(code, message) {
        end();
        fail(mine, manifest, code, message);
      },
      onBadChunk: (code, offset) =>
        report({ level: "warn", name: "chunk-refused", model, code, offset }),
    });
  };

  const end = (): void => {
    download = undefined;
    held?.close();
    held = undefined;
  };

  const abort = (): void => {
    run++;
    download?.abort();
    end();
  };

  return {
    start(manifest, layout, good) {
      abort();
      const mine = run;
      begin(mine, manifest, layout, good).catch((cause: unknown) =>
        fail(mine, manifest, "storage-failed", cause instanceof Error ? cause.message : "failed"),
      );
    },
    abort,
    setOnline(up) {
      online = up;
      download?.setOnline(up);
    },
    part: (header, payload) => download?.part(header, payload),
    refused: ({ code, message, retryAfterMs = 0 }) =>
      download?.refused(code, message, retryAfterMs),
  };
}
