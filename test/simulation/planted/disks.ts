import type { Disk } from "@tributary/proto/host/disk.js";
import type { Tier } from "../plant.js";
import { oftenDark, planted } from "./planted.js";

/** A disk whose fsync says of journals that it did what it did not. */
function withoutSync(disk: Disk): Disk {
  return {
    ...disk,
    async openAppend(path) {
      const file = await disk.openAppend(path);
      if (!path.startsWith("rounds/")) return file;
      return Object.assign(Object.create(file) as typeof file, { async sync() {} });
    },
  };
}

const only = (tier: Tier, wrong: (disk: Disk) => Disk) => (disk: Disk, of: Tier) =>
  of === tier ? wrong(disk) : disk;

export const gatewaySkipsFsync = planted(
  "a gateway's journal skips fsync: an update is receipted that a power cut takes",
  "account",
  60,
  () => ({ disk: only("gateway", withoutSync) }),
  oftenDark,
);

export const cloudSkipsFsync = planted(
  "the cloud's journal skips fsync: a Partial is receipted that a power cut takes",
  "account",
  60,
  () => ({ disk: only("cloud", withoutSync) }),
  oftenDark,
);

export const optimizerForgets = planted(
  "the cloud's disk forgets the optimiser's state: the next step starts anew",
  "fold",
  30,
  () => ({
    disk: only("cloud", (disk) => ({
      ...disk,
      exists: (path) =>
        path.startsWith("optimizers/") ? Promise.resolve(false) : disk.exists(path),
    })),
  }),
);

export const deviceKeepsAll = planted(
  "a device's disk removes nothing: models pile up",
  "limits",
  30,
  () => ({
    disk: only("device", (disk) => ({
      ...disk,
      remove: (path) => (path.endsWith(".safetensors") ? Promise.resolve() : disk.remove(path)),
    })),
  }),
);
