import type { AppendFile, Disk } from "@tributary/proto/host/disk.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";

/** What a disk answers to whoever writes. */
export type DiskState = "sound" | "full" | "read-only";

/** A disk that may be full or read-only for a time; what is on it can be read all the while. */
export type FickleDisk = Disk & { turn(state: DiskState): void };

export function fickleDisk(disk: Disk): FickleDisk {
  let state: DiskState = "sound";
  const demandRoom = (path: string): void => {
    if (state === "sound") return;
    const code = state === "full" ? "disk-full" : "disk-read-only";
    throw new TributaryError(code, `${path}: the disk is ${state}`, { retryable: true });
  };
  const fickle = (path: string, file: AppendFile): AppendFile => ({
    get size() {
      return file.size;
    },
    async append(parts) {
      demandRoom(path);
      await file.append(parts);
    },
    async sync() {
      demandRoom(path);
      await file.sync();
    },
    async truncate(size) {
      if (state === "read-only") demandRoom(path);
      await file.truncate(size);
    },
    close: () => file.close(),
  });
  return {
    ...disk,
    turn(next) {
      state = next;
    },
    async writeFileAtomic(path, parts) {
      demandRoom(path);
      await disk.writeFileAtomic(path, parts);
    },
    async openAppend(path) {
      demandRoom(path);
      return fickle(path, await disk.openAppend(path));
    },
    async remove(path) {
      if (state === "read-only") demandRoom(path);
      await disk.remove(path);
    },
    async makeDir(dir) {
      demandRoom(dir);
      await disk.makeDir(dir);
    },
    freeBytes: () => (state === "full" ? Promise.resolve(0) : disk.freeBytes()),
  };
}
