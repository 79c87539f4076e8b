import type { Message } from "@tributary/device-sdk/link.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import type { DeviceAccount } from "./programs.js";
import type { Trained } from "./trainer.js";

export type Receipt = { readonly device: string; readonly round: string; readonly digest: string };

/** What the devices saw: what they trained, what they announced, and what they were told. */
export type Account = DeviceAccount & {
  /** By `<round> <device>`. */
  readonly training: ReadonlyMap<string, Trained>;
  /** Announced updates, by `<round> <device>`, each digest once. */
  readonly begun: ReadonlyMap<string, ReadonlyMap<string, Begin>>;
  /** Each once, in the order in which they came. */
  readonly receipts: readonly Receipt[];
};

export function createAccount(): Account {
  const training = new Map<string, Trained>();
  const begun = new Map<string, Map<string, Begin>>();
  const receipts: Receipt[] = [];
  const seen = new Set<string>();
  return {
    training,
    begun,
    receipts,
    trained(trained) {
      training.set(`${trained.round} ${trained.device}`, trained);
    },
    sent(device, kind, header) {
      if (kind !== "begin") return;
      const begin = header as Begin;
      const key = `${begin.round} ${device}`;
      begun.set(key, (begun.get(key) ?? new Map()).set(begin.digest, begin));
    },
    received(device, message: Message) {
      if (message.kind !== "receipt") return;
      const { round, digest } = message.header;
      const key = `${round} ${device} ${digest}`;
      if (seen.has(key)) return;
      seen.add(key);
      receipts.push({ device, round, digest });
    },
  };
}
