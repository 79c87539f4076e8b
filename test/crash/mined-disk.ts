import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { AppendFile, Disk } from "@tributary/proto/host/disk.js";
import { FILE_HEADER_BYTES, FRAME_HEADER_BYTES } from "@tributary/proto/host/journal-format.js";
import type { Bomb } from "./bomb.js";

type Place = {
  /** The disk's directory. */
  readonly root: string;
  readonly bomb: Bomb;
  /** Waited before each write to a round's journal, in milliseconds. */
  readonly writeDelayMs: number;
};

/** Record kind of a checkpoint in a gateway's journal. */
const CHECKPOINT = 2;
const KIND_AT = 4;

/** A gateway's disk that ends its process at the points of its files. */
export function minedGatewayDisk(disk: Disk, { bomb, writeDelayMs }: Place): Disk {
  const mineJournal = (file: AppendFile): AppendFile => ({
    get size() {
      return file.size;
    },
    async append(parts) {
      // The header's own append is no update.
      if (file.size >= FILE_HEADER_BYTES) {
        await pause(writeDelayMs);
        bomb.hit("before-append");
        const point = isCheckpoint(parts) ? "mid-checkpoint" : "mid-append";
        if (bomb.due(point)) {
          await file.append(firstHalf(parts));
          bomb.explode();
        }
      }
      await file.append(parts);
    },
    sync: () => file.sync(),
    truncate: (size) => file.truncate(size),
    close: () => file.close(),
  });
  return {
    ...disk,
    async openAppend(path) {
      const file = await disk.openAppend(path);
      return path.startsWith("rounds/") ? mineJournal(file) : file;
    },
    async writeFileAtomic(path, parts) {
      await disk.writeFileAtomic(path, parts);
      if (path.startsWith("outbox/")) bomb.hit("mid-seal");
      if (path.startsWith("sites/")) bomb.hit("after-site-round");
    },
  };
}

/** A cloud's disk that ends its process at the points of its files. */
export function minedCloudDisk(disk: Disk, { bomb }: Place): Disk {
  const mineJournal = (file: AppendFile): AppendFile => ({
    get size() {
      return file.size;
    },
    append: (parts) => file.append(parts),
    async sync() {
      await file.sync();
      if (file.size > FILE_HEADER_BYTES) bomb.hit("after-commit");
    },
    truncate: (size) => file.truncate(size),
    close: () => file.close(),
  });
  return {
    ...disk,
    async openAppend(path) {
      const file = await disk.openAppend(path);
      return path.startsWith("rounds/") ? mineJournal(file) : file;
    },
    async writeFileAtomic(path, parts) {
      await disk.writeFileAtomic(path, parts);
      if (path.startsWith("models/") || path.startsWith("optimizers/")) bomb.hit("mid-step");
    },
  };
}

/** A device's disk that ends its process at the points of its slot. */
export function minedDeviceDisk(disk: Disk, { root, bomb }: Place): Disk {
  return {
    ...disk,
    async writeFileAtomic(path, parts) {
      if (path === "slot" && bomb.due("mid-slot-write")) {
        // As the disk itself does it, and then no further: the file is not renamed yet.
        await writeFile(join(root, `slot.${process.pid}-0.tmp`), Buffer.concat(firstHalf(parts)));
        bomb.explode();
      }
      await disk.writeFileAtomic(path, parts);
      if (path === "slot") bomb.hit("after-slot-write");
    },
  };
}

/** Whether this append writes a checkpoint: by the kind in the header of its first frame. */
function isCheckpoint([header]: readonly Uint8Array[]): boolean {
  if (header?.length !== FRAME_HEADER_BYTES) return false;
  const view = new DataView(header.buffer, header.byteOffset, header.length);
  return view.getUint32(KIND_AT, true) === CHECKPOINT;
}

/** The first half of the bytes, cut in the middle of a part where that is where it falls. */
export function firstHalf(parts: readonly Uint8Array[]): Uint8Array[] {
  let left = Math.ceil(parts.reduce((sum, part) => sum + part.length, 0) / 2);
  const half: Uint8Array[] = [];
  for (const part of parts) {
    if (left <= 0) break;
    half.push(part.subarray(0, left));
    left -= part.length;
  }
  return half;
}

function pause(ms: number): Promise<void> {
  return ms === 0 ? Promise.resolve() : new Promise((resolve) => setTimeout(resolve, ms));
}
