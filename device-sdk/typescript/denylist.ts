import type { Disk } from "@tributary/proto/host/disk.js";
import {
  type Denylist,
  denials,
  type IsVoid,
  judgeDenylist,
  readDenylist,
} from "@tributary/proto/identity/denylist.js";
import { createKeyring, type Jwks } from "@tributary/proto/identity/keyring.js";
import { createListAssembly, type ListPart, listParts } from "@tributary/proto/wire/list-parts.js";
import type { DeviceEvent } from "./events.js";
import type { DeviceLink } from "./link.js";

/**
 * The newest denylist of the fleet that the device has met. It keeps it, goes by it, and brings it to a
 * gateway that holds an older one: where a site is cut off, that is how a list gets there.
 */
export type CarriedList = {
  /** 0 for none. */
  readonly sequence: number;
  /** Whether what somebody was given at a time, in seconds since 1970, is void. */
  readonly isVoid: IsVoid;
  /** A gateway sends a part of its list. */
  received(part: ListPart, payload: Uint8Array): void;
  /** A gateway said which list it holds; undefined for one that takes none. */
  welcomed(sequence: number | undefined): void;
  /** Resolves when nothing is being checked or written. */
  settled(): Promise<void>;
};

export type CarriedListOptions = {
  /** Without one the list lives as long as the process. */
  readonly disk: Disk | undefined;
  /** Whose lists count. */
  readonly trust: { readonly fleet: string; readonly jwks: Jwks };
  readonly publish: DeviceLink["publish"];
  readonly report: (event: DeviceEvent) => void;
};

const FILE = "denylist";

export async function openCarriedList(options: CarriedListOptions): Promise<CarriedList> {
  const { disk, trust, publish, report } = options;
  let held: { readonly list: Denylist; readonly text: string; readonly isVoid: IsVoid } | undefined;
  let last: Promise<unknown> = Promise.resolve();
  const assembly = createListAssembly();

  async function read(text: string) {
    const { fleet, jwks } = trust;
    const opened = await readDenylist(text, { fleet, keyring: createKeyring(jwks) });
    if (!opened.ok) return opened;
    const judged = judgeDenylist(held?.list, opened.list);
    if (judged.ok && judged.news) {
      const { list } = opened;
      held = { list, text, isVoid: denials(list) };
    }
    return judged;
  }

  async function take(text: string): Promise<void> {
    const taken = await read(text);
    if (!taken.ok) {
      const { code, message } = taken;
      report({ level: "warn", name: "message-refused", kind: "denylist", code, message });
    } else if (taken.news && held !== undefined) {
      report({ level: "info", name: "denylist", sequence: held.list.sequence });
      await disk?.writeFileAtomic(FILE, [new TextEncoder().encode(text)]);
    }
  }

  function failed(cause: unknown): void {
    const message = cause instanceof Error ? cause.message : String(cause);
    report({ level: "error", name: "storage-failed", what: "denylist", message });
  }

  /** One part after the other: a connection takes only so much that is not acknowledged. */
  async function bring(list: { readonly sequence: number; readonly text: string }): Promise<void> {
    for (const [part, payload] of listParts(list)) await publish("denylist", part, payload);
  }

  if (disk !== undefined && (await disk.exists(FILE)))
    // One that a key signed which counts no more is forgotten: the gateway has it signed anew.
    await disk.readFile(FILE).then((bytes) => read(new TextDecoder().decode(bytes)), failed);
  return {
    get sequence() {
      return held?.list.sequence ?? 0;
    },
    isVoid: (kind, name, givenAt) => held?.isVoid(kind, name, givenAt) ?? false,
    received(part, payload) {
      if (part.sequence <= (held?.list.sequence ?? 0)) return;
      const text = assembly.add(part, payload);
      if (text !== undefined) last = last.then(() => take(text)).catch(failed);
    },
    welcomed(sequence) {
      if (sequence === undefined || held === undefined || held.list.sequence <= sequence) return;
      // A link that breaks meanwhile brings another welcome.
      void bring({ sequence: held.list.sequence, text: held.text }).catch(() => {});
    },
    settled: async () => {
      await last;
    },
  };
}
