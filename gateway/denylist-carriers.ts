import type { Up } from "@tributary/proto/wire/device-link.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import {
  createListAssembly,
  type ListAssembly,
  type ListText,
  listParts,
} from "@tributary/proto/wire/list-parts.js";
import { type Refusal, refuse } from "@tributary/proto/wire/verdict.js";
import type { DeviceLink } from "./broker.js";
import type { DenylistHolder } from "./denylist.js";
import { limits } from "./limits.js";
import type { Replies } from "./replies.js";

/**
 * The denylist between a gateway and its devices: each gets the newest, and one that comes from
 * elsewhere with a newer one brings it here, also where nothing else does.
 */
export type DenylistCarriers = {
  /** Of the gateway's own list. */
  readonly sequence: number;
  /** A device said which list it holds. */
  greet(device: string, sequence: number): void;
  /** Takes a part of a list that a device brings. */
  take(device: string, part: Up<"denylist">, payload: Uint8Array): Refusal | undefined;
  /** Sends a newer list to all that are connected. */
  broadcast(list: ListText): void;
  disconnected(device: string): void;
};

export type CarriersOptions = {
  readonly holder: Pick<DenylistHolder, "sequence" | "text" | "take">;
  readonly link: Pick<DeviceLink, "sendAll" | "broadcast">;
  readonly replies: Pick<Replies, "refuse">;
};

export function createCarriers({ holder, link, replies }: CarriersOptions): DenylistCarriers {
  const assemblies = new Map<string, ListAssembly>();
  /** Devices that brought what nobody of the fleet signed, the oldest first. */
  const liars = new Set<string>();

  function note(device: string): void {
    liars.add(device);
    const [oldest] = liars;
    if (liars.size > limits.liars && oldest !== undefined) liars.delete(oldest);
  }

  function assemblyOf(device: string): ListAssembly {
    const assembly = assemblies.get(device) ?? createListAssembly();
    assemblies.delete(device);
    assemblies.set(device, assembly);
    const [longest] = assemblies.keys();
    if (assemblies.size > limits.listsBrought && longest !== undefined) assemblies.delete(longest);
    return assembly;
  }

  return {
    get sequence() {
      return holder.sequence;
    },
    greet(device, sequence) {
      const { text } = holder;
      if (text === undefined || sequence >= holder.sequence) return;
      for (const [part, payload] of listParts({ sequence: holder.sequence, text }))
        link.sendAll(device, "denylist", encodeEnvelope(part, payload));
    },
    take(device, part, payload) {
      // Checking a signature costs more than making one up: nobody has it done twice.
      if (liars.has(device))
        return refuse("denylist-signature", "this device brought a list that nobody signed");
      if (part.sequence <= holder.sequence) return undefined; // it has come by another way since
      const text = assemblyOf(device).add(part, payload);
      if (text === undefined) return undefined;
      assemblies.delete(device);
      holder.take(text, "device").then(
        (taken) => {
          if (taken.ok) return;
          if (taken.code !== "denylist-old") note(device);
          replies.refuse(device, "denylist", taken);
        },
        () => replies.refuse(device, "denylist", refuse("storage-failed", "it cannot be kept")),
      );
      return undefined;
    },
    broadcast(list) {
      for (const [part, payload] of listParts(list))
        link.broadcast("denylist", encodeEnvelope(part, payload));
    },
    disconnected(device) {
      assemblies.delete(device);
    },
  };
}
