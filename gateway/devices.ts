import type { Attributes } from "@tributary/proto/wire/device-link.js";

/** A device that is connected and has said hello. */
export type DeviceRecord = {
  readonly sdk: string;
  readonly attributes: Attributes;
  /** Where it is, when that is a gateway below this one. */
  readonly at?: { readonly site: string; readonly gateway: string };
};

export type DeviceChange =
  | { readonly type: "joined"; readonly device: string; readonly record: DeviceRecord }
  | { readonly type: "left"; readonly device: string };

/**
 * The devices that are here. Bounded by the broker's connections: a device is listed from its
 * hello until its connection ends.
 */
export type DeviceRegistry = {
  readonly count: number;
  has(device: string): boolean;
  list(): Iterable<readonly [string, DeviceRecord]>;
  /** Lists a device, or takes its new attributes. */
  join(device: string, record: DeviceRecord): void;
  leave(device: string): void;
};

export function createDeviceRegistry(onChange: (change: DeviceChange) => void): DeviceRegistry {
  const records = new Map<string, DeviceRecord>();
  return {
    get count() {
      return records.size;
    },
    has: (device) => records.has(device),
    list: () => records,
    join(device, record) {
      const known = records.get(device);
      records.set(device, record);
      if (known === undefined || JSON.stringify(known) !== JSON.stringify(record)) {
        onChange({ type: "joined", device, record });
      }
    },
    leave(device) {
      if (records.delete(device)) onChange({ type: "left", device });
    },
  };
}
