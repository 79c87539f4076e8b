import { type Disk, nodeDisk } from "@tributary/proto/host/disk.js";
import type { TributaryError } from "@tributary/proto/wire/errors.js";

/** A real disk whose whole-file writes fail, while `failure` is set, with that. */
export type FailingDisk = Disk & { failure: TributaryError | undefined };

export function failingDisk(root: string): FailingDisk {
  const disk = nodeDisk(root);
  const failing: FailingDisk = {
    ...disk,
    failure: undefined,
    async writeFileAtomic(path, parts) {
      if (failing.failure !== undefined) throw failing.failure;
      return disk.writeFileAtomic(path, parts);
    },
  };
  return failing;
}
