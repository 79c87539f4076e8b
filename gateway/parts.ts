import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Down, Up } from "@tributary/proto/wire/device-link.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { DeviceLink } from "./broker.js";
import { limits } from "./limits.js";
import type { Models } from "./models.js";
import type { Replies } from "./replies.js";

type Fetch = Up<"fetch">;
type Request = {
  readonly device: string;
  readonly fetch: Fetch;
  /** Set while it waits for a download. */
  timer?: Timer | undefined;
};

/** Serves model parts: only on request, few at a time, each read and encoded once for all devices. */
export type Parts = {
  fetch(device: string, fetch: Fetch): void;
  /** More of a model can be read. */
  progressed(digest: string): void;
  disconnected(device: string): void;
  close(): void;
};

export type PartsOptions = {
  readonly models: Pick<Models, "available" | "read">;
  /** Asks for a model that is known but not here; whether it is known. */
  readonly recover: (digest: string) => boolean;
  readonly link: Pick<DeviceLink, "send">;
  readonly replies: Replies;
  readonly clock: Clock;
};

export function createParts(options: PartsOptions): Parts {
  const { models, link, replies, clock } = options;
  const queue = new Set<Request>();
  const parked = new Map<string, Set<Request>>();
  const perDevice = new Map<string, number>();
  const cache = createPartCache(limits.partCacheBytes);
  let active = 0;
  let waiting = 0; // requests in `queue` and `parked`

  function end(request: Request): void {
    const count = (perDevice.get(request.device) ?? 1) - 1;
    if (count > 0) perDevice.set(request.device, count);
    else perDevice.delete(request.device);
  }

  function judge({ fetch }: Request): Verdict<{ readonly ready: boolean }> {
    const { digest, model, offset, length } = fetch;
    const found = models.available(digest);
    if (found === undefined) {
      if (options.recover(digest)) return { ok: true, ready: false };
      return refuse("unknown-model", `${model} is not here`);
    }
    const { manifest, bytes } = found;
    if (offset % manifest.chunkBytes !== 0 || offset >= manifest.bytes) {
      return refuse("bad-offset", `${model} has no chunk at byte ${offset}`);
    }
    return { ok: true, ready: Math.min(offset + length, manifest.bytes) <= bytes };
  }

  function park(request: Request): void {
    const { digest } = request.fetch;
    const waitingHere = parked.get(digest) ?? new Set();
    parked.set(digest, waitingHere.add(request));
    waiting++;
    request.timer = clock.setTimer(limits.modelWaitMs, () => {
      unpark(request);
      end(request);
      const late = refuse("unknown-model", "the model has not arrived here yet");
      replies.refuse(request.device, "fetch", late);
    });
  }

  function unpark(request: Request): void {
    request.timer?.cancel();
    const { digest } = request.fetch;
    const waitingHere = parked.get(digest);
    if (waitingHere?.delete(request)) waiting--;
    if (waitingHere?.size === 0) parked.delete(digest);
  }

  function place(request: Request): void {
    const verdict = judge(request);
    if (!verdict.ok) {
      end(request);
      replies.refuse(request.device, "fetch", verdict);
    } else if (verdict.ready) {
      queue.add(request);
      waiting++;
    } else park(request);
  }

  function pump(): void {
    for (const request of queue) {
      if (active >= limits.partSends) return;
      queue.delete(request);
      waiting--;
      active++;
      const done = () => {
        active--;
        end(request);
        pump();
      };
      load(request.fetch).then(
        (bytes) => link.send(request.device, "part", bytes, done),
        () => {
          const gone = refuse("unknown-model", "the model cannot be read here now");
          replies.refuse(request.device, "fetch", gone);
          done();
        },
      );
    }
  }

  async function load({ model, digest, offset, length }: Fetch): Promise<Uint8Array> {
    const key = `${model} ${digest} ${offset} ${length}`;
    const cached = cache.get(key);
    if (cached !== undefined) return cached;
    const loading = models
      .read(digest, offset, length)
      .then((bytes) => encodeEnvelope({ model, digest, offset } satisfies Down<"part">, bytes));
    return cache.put(key, length, loading);
  }

  return {
    fetch(device, fetch) {
      const count = perDevice.get(device) ?? 0;
      if (count >= limits.fetchesPerDevice || waiting >= limits.fetches) {
        return replies.refuse(
          device,
          "fetch",
          refuse("busy", "too many model parts are asked for"),
        );
      }
      perDevice.set(device, count + 1);
      place({ device, fetch });
      pump();
    },
    progressed(digest) {
      for (const request of [...(parked.get(digest) ?? [])]) {
        const verdict = judge(request);
        if (verdict.ok && !verdict.ready) continue;
        unpark(request);
        place(request);
      }
      pump();
    },
    disconnected(device) {
      for (const request of queue) {
        if (request.device !== device) continue;
        queue.delete(request);
        waiting--;
        end(request);
      }
      for (const requests of [...parked.values()]) {
        for (const request of [...requests]) {
          if (request.device !== device) continue;
          unpark(request);
          end(request);
        }
      }
    },
    close() {
      for (const requests of [...parked.values()]) {
        for (const request of [...requests]) unpark(request);
      }
      queue.clear();
    },
  };
}

/** Parts by request, the longest unused dropped first; a part being read is shared, too. */
function createPartCache(mostBytes: number) {
  const parts = new Map<string, { readonly bytes: number; readonly part: Promise<Uint8Array> }>();
  let total = 0;
  const drop = (key: string) => {
    total -= parts.get(key)?.bytes ?? 0;
    parts.delete(key);
  };
  return {
    get(key: string): Promise<Uint8Array> | undefined {
      const found = parts.get(key);
      if (found === undefined) return undefined;
      parts.delete(key);
      parts.set(key, found);
      return found.part;
    },
    put(key: string, bytes: number, part: Promise<Uint8Array>): Promise<Uint8Array> {
      parts.set(key, { bytes, part });
      total += bytes;
      part.catch(() => drop(key));
      for (const oldest of parts.keys()) {
        if (total <= mostBytes) break;
        drop(oldest);
      }
      return part;
    },
  };
}
