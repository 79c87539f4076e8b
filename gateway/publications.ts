import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import type { All } from "@tributary/proto/wire/device-link.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { layoutSchema, manifestSchema } from "@tributary/proto/wire/plan.js";
import type { DeviceLink } from "./broker.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import type { Models } from "./models.js";
import type { PublishedRecord, Store } from "./store.js";

/** The newest published model of each session: told to every device, now or when it connects. */
export type Publications = {
  published(session: string, manifest: Uint8Array, layout: Uint8Array): void;
  greet(device: string): void;
  list(): (readonly [string, PublishedRecord])[];
  /** Wants a published model again that the cache has let go; whether it is one. */
  recover(digest: string): boolean;
};

export type PublicationsOptions = {
  readonly store: Store;
  readonly models: Pick<Models, "want">;
  readonly link: Pick<DeviceLink, "broadcast" | "sendAll">;
  readonly events: GatewayEvents;
};

export async function createPublications(options: PublicationsOptions): Promise<Publications> {
  const { store, models, link, events } = options;
  const newest = new Map<string, PublishedRecord>();
  for (const record of await store.published()) newest.set(sessionOf(record), record);

  function keep(session: string, record: PublishedRecord): void {
    newest.delete(session);
    newest.set(session, record);
    const writes = [store.putPublished(session, record)];
    for (const oldest of newest.keys()) {
      if (newest.size <= limits.publishedSessions) break;
      newest.delete(oldest);
      writes.push(store.removePublished(oldest));
    }
    Promise.all(writes).catch((cause: Error) => {
      // The upstream publishes again; until then only a restart would forget it.
      const { message } = cause;
      events({ level: "error", name: "storage-failed", what: "published", message });
    });
  }

  return {
    published(session, manifestBytes, layoutBytes) {
      const record = readPublished(manifestBytes, layoutBytes);
      if (record === undefined || !idSchema.safeParse(session).success) {
        const message = "the upstream published what cannot be read";
        return events({ level: "warn", name: "model-failed", model: session, message });
      }
      const { model, digest } = record.manifest;
      const known = newest.get(session)?.manifest.digest === digest;
      keep(session, record);
      models.want(record.manifest);
      if (known) return;
      events({ level: "info", name: "model-published", model, session });
      link.broadcast("published", encodePublished(session, record));
    },
    greet(device) {
      for (const [session, record] of newest) {
        link.sendAll(device, "published", encodePublished(session, record));
      }
    },
    list: () => [...newest],
    recover(digest) {
      for (const { manifest } of newest.values()) {
        if (manifest.digest !== digest) continue;
        models.want(manifest);
        return true;
      }
      return false;
    },
  };
}

function sessionOf({ manifest }: PublishedRecord): string {
  return manifest.model.slice(0, manifest.model.lastIndexOf("."));
}

function encodePublished(session: string, { manifest, layout }: PublishedRecord): Uint8Array {
  return encodeEnvelope({ session, manifest, layout } satisfies All<"published">);
}

function readPublished(manifest: Uint8Array, layout: Uint8Array): PublishedRecord | undefined {
  const bounds = { depth: wire.headerDepth, items: wire.headerItems };
  const decode = (bytes: Uint8Array): unknown => {
    const cbor = decodeCbor(bytes, bounds);
    return cbor.ok ? cbor.value : undefined;
  };
  const manifestRead = manifestSchema.safeParse(decode(manifest));
  const layoutRead = layoutSchema.safeParse(decode(layout));
  if (!manifestRead.success || !layoutRead.success) return undefined;
  return { manifest: manifestRead.data, layout: layoutRead.data };
}
