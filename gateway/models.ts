import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { createHasher, type Hasher, sha256 } from "@tributary/proto/host/digest.js";
import type { AppendFile, Disk } from "@tributary/proto/host/disk.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { verifyChunk } from "@tributary/proto/wire/manifest.js";
import type { Manifest } from "@tributary/proto/wire/plan.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import { isSiteId } from "./site-plan.js";
import type { SiteTime } from "./site-time.js";
import type { ModelRecord, Store } from "./store.js";
import type { Upstream } from "./upstream.js";

/** Model files by digest, downloaded once for the whole site. */
export type Models = {
  /** Wants a model: it is downloaded when the link allows. Idempotent. */
  want(manifest: Manifest): void;
  /**
   * Keeps a model that was made here, durably. Rejects with `model-too-large` when it does not fit
   * beside what is pinned.
   */
  put(manifest: Manifest, bytes: Uint8Array): Promise<void>;
  /** Forgets a model that was made here, once no round needs it. */
  drop(digest: string): Promise<void>;
  /** Models that were made here. */
  made(): readonly Manifest[];
  /** Keeps a model from eviction, as the base of an open round; undone as often. */
  pin(digest: string): void;
  unpin(digest: string): void;
  /** Verified bytes from the start of the file that can be read; undefined for no such model. */
  available(digest: string): { readonly bytes: number; readonly manifest: Manifest } | undefined;
  read(digest: string, offset: number, length: number): Promise<Uint8Array>;
  /** The link is up: go on downloading. */
  kick(): void;
  close(): Promise<void>;
};

export type ModelsOptions = {
  readonly disk: Disk;
  readonly store: Store;
  readonly upstream: Pick<Upstream, "fetchModel">;
  readonly attached: () => boolean;
  readonly cacheBytes: number;
  /** More bytes of a model can be read, or it is gone. */
  readonly onProgress: (digest: string) => void;
  readonly events: GatewayEvents;
  readonly clock: Clock;
  readonly time: Pick<SiteTime, "logicalMs">;
  readonly random: Random;
  readonly backoff: { readonly baseMs: number; readonly capMs: number };
};

type Model = {
  readonly manifest: Manifest;
  usedAtMs: number;
  complete: boolean;
  /** Verified bytes on disk. */
  bytes: number;
};

const DIR = "models";
const fileOf = (digest: string) => `${DIR}/${digest}`;

export async function openModels(options: ModelsOptions): Promise<Models> {
  const { disk, store, upstream, events, clock, time, random } = options;
  await disk.makeDir(DIR);
  const models = await restore(disk, store);
  const pins = new Map<string, number>();
  /** Digests still to be completed, the oldest want first. */
  const wants = new Set([...models].filter(([, m]) => !m.complete).map(([digest]) => digest));
  let running: Promise<void> | undefined;
  let retry: Timer | undefined;
  let failures = 0;
  let closed = false;

  const record = ({ manifest, usedAtMs, complete }: Model): ModelRecord => ({
    manifest,
    usedAtMs,
    complete,
  });

  const tooLarge = (bytes: number) =>
    new TributaryError("model-too-large", `${bytes} bytes do not fit modelCacheBytes`);

  async function drop(digest: string): Promise<void> {
    models.delete(digest);
    wants.delete(digest);
    await store.removeModel(digest);
    await disk.remove(fileOf(digest));
    options.onProgress(digest);
  }

  /** Evicts what was used longest ago until a model fits; whether it does. */
  async function makeRoom(wanted: Model): Promise<boolean> {
    const used = () => [...models.values()].reduce((sum, m) => sum + m.manifest.bytes, 0);
    const idle = [...models.values()]
      .filter((m) => m !== wanted && !pins.has(m.manifest.digest))
      .sort((a, b) => a.usedAtMs - b.usedAtMs);
    while (used() > options.cacheBytes) {
      const oldest = idle.shift();
      if (oldest === undefined) return false;
      const { digest, bytes } = oldest.manifest;
      await drop(digest);
      events({ level: "info", name: "model-evicted", digest, bytes });
    }
    return true;
  }

  /** What is downloaded next: a base that a round waits for, else the newest want. */
  function nextWant(): Model | undefined {
    const wanted = [...wants].reverse();
    const digest = wanted.find((d) => pins.has(d)) ?? wanted[0];
    return digest === undefined ? undefined : models.get(digest);
  }

  async function run(): Promise<void> {
    for (let model = nextWant(); model !== undefined; model = nextWant()) {
      if (closed || !options.attached()) return;
      const { model: name, digest, bytes } = model.manifest;
      try {
        if (!(await makeRoom(model))) throw tooLarge(bytes);
        await download(model);
        if (!model.complete) continue;
        failures = 0;
        events({ level: "info", name: "model-cached", model: name, bytes });
      } catch (cause) {
        if (closed) return;
        const error = cause instanceof Error ? cause : new Error(String(cause));
        events({ level: "warn", name: "model-failed", model: name, message: error.message });
        const hopeless = error instanceof TributaryError && !error.retryable;
        if (hopeless) await drop(digest).catch(() => {});
        else {
          retry = clock.setTimer(jitteredBackoff(random, failures++, options.backoff), kick);
          return;
        }
      }
    }
  }

  async function download(model: Model): Promise<void> {
    const { manifest } = model;
    const file = await disk.openAppend(fileOf(manifest.digest));
    try {
      const hasher = createHasher();
      model.bytes = await resumeFile(disk, file, manifest, hasher);
      const request = {
        model: manifest.model,
        digest: manifest.digest,
        offset: BigInt(model.bytes),
      };
      if (model.bytes < manifest.bytes) {
        const pieces = upstream.fetchModel(request);
        for await (const chunk of regroup(pieces, manifest, model.bytes)) {
          const verdict = verifyChunk(manifest, model.bytes, chunk, sha256);
          if (!verdict.ok) {
            throw new TributaryError("link-failed", verdict.message, { retryable: true });
          }
          await file.append([chunk]);
          hasher.update(chunk);
          model.bytes += chunk.length;
          options.onProgress(manifest.digest);
          if (closed || models.get(manifest.digest) !== model) return;
        }
      }
      if (model.bytes < manifest.bytes) {
        const message = `the upstream sent ${model.bytes} of ${manifest.bytes} bytes`;
        throw new TributaryError("link-failed", message, { retryable: true });
      }
      if (hasher.digest() !== manifest.digest) {
        const message = "the chunks have their digests but not the whole: the manifest is wrong";
        throw new TributaryError("manifest-wrong", message);
      }
      await file.sync();
    } finally {
      await file.close();
    }
    if (models.get(manifest.digest) !== model) return; // dropped meanwhile
    model.complete = true;
    await store.putModel(record(model));
    if (model.complete) wants.delete(manifest.digest); // else it was found damaged meanwhile
  }

  function kick(): void {
    if (closed || running !== undefined) return;
    retry?.cancel();
    running = run().finally(() => {
      running = undefined;
    });
  }

  /** What is whole of a damaged file is kept. A site's own model is nowhere else: it stays as it is. */
  function fetchAnew(model: Model): void {
    const { model: name, digest } = model.manifest;
    const message = "its file is damaged";
    events({ level: "warn", name: "model-failed", model: name, message });
    if (!model.complete || isSiteId(name)) return;
    model.complete = false;
    model.bytes = 0;
    wants.add(digest);
    options.onProgress(digest);
    kick();
  }

  async function add(manifest: Manifest): Promise<void> {
    const model: Model = { manifest, usedAtMs: time.logicalMs(), complete: false, bytes: 0 };
    models.set(manifest.digest, model);
    wants.add(manifest.digest);
    for (const old of wants) {
      if (wants.size <= limits.wantedModels) break;
      if (!pins.has(old)) await drop(old);
    }
    await store.putModel(record(model));
    kick();
  }

  return {
    want(manifest) {
      const known = models.get(manifest.digest);
      if (known !== undefined) {
        known.usedAtMs = time.logicalMs();
        void store.touchModel(record(known)).catch(() => {});
        return kick();
      }
      void add(manifest).catch((cause: Error) => {
        models.delete(manifest.digest);
        wants.delete(manifest.digest);
        const { model } = manifest;
        events({ level: "warn", name: "model-failed", model, message: cause.message });
      });
    },
    async put(manifest, bytes) {
      const { digest } = manifest;
      if (models.get(digest)?.complete) return;
      const usedAtMs = time.logicalMs();
      const model: Model = { manifest, usedAtMs, complete: true, bytes: bytes.length };
      models.set(digest, model);
      try {
        if (!(await makeRoom(model))) throw tooLarge(bytes.length);
        await disk.writeFileAtomic(fileOf(digest), [bytes]);
        await store.putModel(record(model));
      } catch (cause) {
        models.delete(digest);
        throw cause;
      }
      options.onProgress(digest);
    },
    drop,
    made: () =>
      [...models.values()].map(({ manifest }) => manifest).filter(({ model }) => isSiteId(model)),
    pin: (digest) => void pins.set(digest, (pins.get(digest) ?? 0) + 1),
    unpin(digest) {
      const count = (pins.get(digest) ?? 0) - 1;
      if (count > 0) pins.set(digest, count);
      else pins.delete(digest);
    },
    available(digest) {
      const model = models.get(digest);
      return model && { bytes: model.bytes, manifest: model.manifest };
    },
    async read(digest, offset, length) {
      const model = models.get(digest);
      if (model !== undefined) model.usedAtMs = time.logicalMs();
      const file = await disk.openRead(fileOf(digest));
      try {
        const bytes = await file.read(offset, length);
        if (model?.complete && !intact(model.manifest, offset, length, bytes)) {
          fetchAnew(model);
          const message = `the file of ${model.manifest.model} is damaged`;
          throw new TributaryError("disk-failed", message, { retryable: true });
        }
        return bytes;
      } finally {
        await file.close();
      }
    },
    kick,
    async close() {
      closed = true;
      retry?.cancel();
      await running;
    },
  };
}

/** Whether what was read is all there, and its whole chunks have their digests: a disk can rot. */
function intact(manifest: Manifest, offset: number, length: number, bytes: Uint8Array): boolean {
  const { chunkBytes } = manifest;
  if (bytes.length < Math.min(length, manifest.bytes - offset)) return false;
  if (offset % chunkBytes !== 0) return true;
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    const chunk = bytes.subarray(at, at + chunkBytes);
    const isWhole = chunk.length === Math.min(chunkBytes, manifest.bytes - offset - at);
    if (isWhole && !verifyChunk(manifest, offset + at, chunk, sha256).ok) return false;
  }
  return true;
}

/** The index against the files; a file that no record names is removed. */
async function restore(disk: Disk, store: Store): Promise<Map<string, Model>> {
  const models = new Map<string, Model>();
  const present = new Set(await disk.list(DIR));
  for (const { manifest, usedAtMs, complete } of await store.models()) {
    const whole = complete && present.has(manifest.digest);
    if (!whole && isSiteId(manifest.model)) {
      // Nobody upstream has it; what made it makes it again.
      await store.removeModel(manifest.digest);
      continue;
    }
    const bytes = whole ? manifest.bytes : 0;
    models.set(manifest.digest, { manifest, usedAtMs, complete: whole, bytes });
    present.delete(manifest.digest);
  }
  for (const name of present) await disk.remove(`${DIR}/${name}`);
  return models;
}

/** Keeps the verified chunks at the start of a file that a download left behind; their bytes. */
async function resumeFile(
  disk: Disk,
  file: AppendFile,
  manifest: Manifest,
  hasher: Hasher,
): Promise<number> {
  let kept = 0;
  const reader = await disk.openRead(fileOf(manifest.digest));
  try {
    while (kept < file.size) {
      const chunk = await reader.read(kept, manifest.chunkBytes);
      if (chunk.length === 0 || !verifyChunk(manifest, kept, chunk, sha256).ok) break;
      hasher.update(chunk);
      kept += chunk.length;
    }
  } finally {
    await reader.close();
  }
  if (kept < file.size) await file.truncate(kept);
  return kept;
}

/** Cuts what the upstream sends, in pieces of any size, into the manifest's chunks. */
async function* regroup(
  pieces: AsyncIterable<{ readonly offset: bigint; readonly data: Uint8Array }>,
  manifest: Manifest,
  start: number,
): AsyncGenerator<Uint8Array> {
  let chunk = new Uint8Array(manifest.chunkBytes);
  let filled = 0;
  let at = start;
  for await (const { offset, data } of pieces) {
    if (Number(offset) !== at || at + data.length > manifest.bytes) {
      const message = `the upstream sent ${data.length} bytes at ${offset}; byte ${at} is next`;
      throw new TributaryError("link-failed", message, { retryable: true });
    }
    at += data.length;
    for (let used = 0; used < data.length; ) {
      const taken = Math.min(manifest.chunkBytes - filled, data.length - used);
      chunk.set(data.subarray(used, used + taken), filled);
      filled += taken;
      used += taken;
      if (filled < manifest.chunkBytes) continue;
      yield chunk;
      chunk = new Uint8Array(manifest.chunkBytes);
      filled = 0;
    }
  }
  if (filled > 0) yield chunk.subarray(0, filled);
}
