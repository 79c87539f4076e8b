import { sha256 } from "@tributary/proto/host/digest.js";
import type { AppendFile, Disk } from "@tributary/proto/host/disk.js";
import { chunkCount, chunkLength, verifyChunk } from "@tributary/proto/wire/manifest.js";
import type { Manifest } from "@tributary/proto/wire/plan.js";

/** The verified chunks of a file whose transfer is not complete; without a disk, none. */
export type HeldChunks = {
  /** Whole chunks from the start of the file. */
  readonly bytes: Uint8Array;
  /** Adds verified bytes, written in the background: what a crash loses is fetched again. */
  extend(bytes: Uint8Array): void;
  close(): void;
};

/** Runs work on a disk in the order in which it came up; without a disk nothing is run. */
export type OnDisk = (what: string, run: (disk: Disk) => Promise<void>) => Promise<void>;

/** Where the chunks of a broken transfer are kept. */
export function heldFile(digest: string): string {
  return `${digest}.part`;
}

/** What an earlier, broken transfer of this file left, to go on with. */
export async function openHeldChunks(onDisk: OnDisk, manifest: Manifest): Promise<HeldChunks> {
  let bytes: Uint8Array = new Uint8Array(0);
  let file: AppendFile | undefined;
  await onDisk("held chunks", async (from) => {
    bytes = await readHeld(from, manifest);
  });
  return {
    bytes,
    extend(more) {
      void onDisk("held chunks", async (to) => {
        file ??= await to.openAppend(heldFile(manifest.digest));
        await file.append([more]);
      });
    },
    close() {
      void onDisk("held chunks", async () => file?.close());
    },
  };
}

/** Reads the held chunks, and cuts off what does not verify, so that appending goes on behind it. */
async function readHeld(disk: Disk, manifest: Manifest): Promise<Uint8Array> {
  const file = heldFile(manifest.digest);
  // Other broken transfers will not go on: their files are no longer asked for.
  for (const name of await disk.list("."))
    if (name.endsWith(".part") && name !== file) await disk.remove(name);
  if (!(await disk.exists(file))) return new Uint8Array(0);
  const bytes = await disk.readFile(file);
  let good = 0;
  for (let index = 0; index < chunkCount(manifest); index++) {
    const chunk = bytes.subarray(good, good + chunkLength(manifest, index));
    if (!verifyChunk(manifest, good, chunk, sha256).ok) break;
    good += chunk.length;
  }
  const held = bytes.subarray(0, good);
  if (good !== bytes.length) await disk.writeFileAtomic(file, [held]);
  return held;
}

/** Disk work one after the other; a failure is reported, and the next goes on. */
export function createDiskQueue(
  disk: Disk | undefined,
  onFailure: (what: string, message: string) => void,
): { readonly onDisk: OnDisk; readonly settled: () => Promise<void> } {
  let work: Promise<void> = Promise.resolve();
  return {
    onDisk(what, run) {
      if (disk === undefined) return work;
      work = work
        .then(() => run(disk))
        .catch((cause: unknown) =>
          onFailure(what, cause instanceof Error ? cause.message : String(cause)),
        );
      return work;
    },
    settled: () => work,
  };
}
