import type { Layout } from "@tributary/proto/algebra/layout.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Code } from "@tributary/proto/wire/codes.js";
import type { Down, Up } from "@tributary/proto/wire/device-link.js";
import type { Manifest, PlanPackage } from "@tributary/proto/wire/plan.js";
import { type Download, startDownload } from "./download.js";
import type { DeviceEvent } from "./events.js";
import type { HeldChunks } from "./held.js";
import type { Models } from "./models.js";
import type { Packages } from "./packages.js";

/** The package that a session's plan has its devices run. */
export type WantedPackage = { readonly offered: PlanPackage; readonly session: string };

/**
 * Gets one model at a time, and before it the package that goes with it: from what is kept, else from
 * the gateway, going on with what is held. Nothing is fetched for a package that may not run here.
 */
export type Fetcher = {
  /** Ends in `onFetched` or `onFailed`, unless it is aborted or another one starts. */
  start(manifest: Manifest, layout: Layout, good: boolean, wanted?: WantedPackage): void;
  abort(): void;
  setOnline(online: boolean): void;
  part(header: Down<"part">, payload: Uint8Array): void;
  refused(refusal: Down<"refusal">): void;
};

export type FetcherOptions = {
  readonly models: Models;
  readonly packages: Packages;
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
    await transfer(mine, manifest, models, (bytes, transferredBytes) =>
      keep(mine, manifest, layout, bytes, transferredBytes, good),
    );
  };

  /** Resolves once the download is under way. */
  const transfer = async (
    mine: number,
    manifest: Manifest,
    place: Pick<Models, "openHeld">,
    onDone: (bytes: Uint8Array, transferredBytes: number) => void,
    failing: Manifest = manifest,
  ): Promise<void> => {
    const opened = await place.openHeld(manifest);
    if (mine !== run) return;
    const { model } = manifest;
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
        onDone(bytes, bytes.length - opened.bytes.length);
      },
      onFailed(code, message) {
        end();
        fail(mine, failing, code, message);
      },
      onBadChunk: (code, offset) =>
        report({ level: "warn", name: "chunk-refused", model, code, offset }),
    });
  };

  /** Sees to the package, then goes on; a failure counts as the model's, which waits for it. */
  const withPackage = async (
    mine: number,
    model: Manifest,
    { offered, session }: WantedPackage,
    next: () => Promise<void>,
  ): Promise<void> => {
    const { packages } = options;
    const { manifest } = offered;
    const admitted = await packages.admit(offered);
    if (!admitted.ok) return fail(mine, model, admitted.code, admitted.message);
    if (await packages.has(offered, session)) return next();
    if (mine !== run) return;
    await transfer(
      mine,
      manifest,
      packages,
      (bytes, transferredBytes) => {
        const kept = async (): Promise<void> => {
          await packages.keep(offered, session, bytes);
          const { model: name } = manifest;
          report({
            level: "info",
            name: "fetched",
            model: name,
            bytes: bytes.length,
            transferredBytes,
          });
          if (mine === run) await next();
        };
        kept().catch((cause: unknown) => failed(mine, model, cause));
      },
      model,
    );
  };

  const failed = (mine: number, manifest: Manifest, cause: unknown): void =>
    fail(mine, manifest, "storage-failed", cause instanceof Error ? cause.message : "failed");

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
    start(manifest, layout, good, wanted) {
      abort();
      const mine = run;
      const own = () => begin(mine, manifest, layout, good);
      const begun = wanted === undefined ? own() : withPackage(mine, manifest, wanted, own);
      begun.catch((cause: unknown) => failed(mine, manifest, cause));
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
