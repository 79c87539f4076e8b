import { constants } from "node:fs";
import {
  type FileHandle,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  statfs,
} from "node:fs/promises";
import { dirname, join, normalize, sep } from "node:path";
import { TributaryError } from "../wire/errors.js";
import { makeDirectory } from "./directory.js";
import { diskFailure } from "./disk-failure.js";

/**
 * Files under one directory. Paths are relative, with `/`; whatever leads out of the directory is
 * a broken invariant. Failures are `TributaryError`: `disk-full` and `disk-read-only` (retryable,
 * once somebody makes room), `disk-missing` for a file that is not there, `disk-failed` for the rest.
 */
export type Disk = {
  readFile(path: string): Promise<Uint8Array>;
  /** Replaces the file as a whole: after a crash it has the old content or the new. Durable. */
  writeFileAtomic(path: string, parts: readonly Uint8Array[]): Promise<void>;
  /** Opens for appending; makes the file, and its entry in the directory durable, if need be. */
  openAppend(path: string): Promise<AppendFile>;
  openRead(path: string): Promise<ReadFile>;
  /** Names in a directory, sorted; none when it does not exist. */
  list(dir: string): Promise<string[]>;
  /** Removes a file or directory, durably; nothing happens when it does not exist. */
  remove(path: string): Promise<void>;
  exists(path: string): Promise<boolean>;
  /** Makes the directory and those above it. */
  makeDir(dir: string): Promise<void>;
  freeBytes(): Promise<number>;
  /** Makes entries of a directory durable. */
  syncDir(dir: string): Promise<void>;
};

export type AppendFile = {
  readonly size: number;
  /** Writes the parts at the end. Not durable until `sync`. */
  append(parts: readonly Uint8Array[]): Promise<void>;
  /** fdatasync: everything appended so far is durable when it resolves. */
  sync(): Promise<void>;
  truncate(size: number): Promise<void>;
  close(): Promise<void>;
};

export type ReadFile = {
  readonly size: number;
  /** Bytes from `offset`, fewer than `length` only at the end of the file. */
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
};

/** Ending of a file that is being written; one that a crash left behind is not listed. */
const TEMPORARY = ".tmp";

/** Checks that a path stays inside; shared with the disk in memory. */
export function insidePath(path: string): string {
  const clean = normalize(path);
  if (
    path.startsWith("/") ||
    clean === ".." ||
    clean.startsWith(`..${sep}`) ||
    path.includes("\0")
  ) {
    throw new TributaryError(
      "disk-failed",
      `path ${JSON.stringify(path)} leads out of the data directory`,
    );
  }
  return clean;
}

/** A path that is not the data directory itself, which nobody may remove. */
export function belowRoot(path: string): string {
  const clean = insidePath(path);
  if (clean === "." || clean === "./") {
    throw new TributaryError("disk-failed", "the data directory itself cannot be removed");
  }
  return clean;
}

async function attempt<T>(action: string, path: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (cause) {
    throw diskFailure(action, path, cause);
  }
}

async function syncDirAt(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function writeParts(
  handle: FileHandle,
  parts: readonly Uint8Array[],
  at: number,
): Promise<void> {
  let rest = parts.filter((part) => part.length > 0);
  let position = at;
  while (rest.length > 0) {
    // A vectored write may stop short, at a signal or a nearly full disk, without an error.
    const { bytesWritten } = await handle.writev(rest.slice(0, 512), position);
    position += bytesWritten;
    rest = withoutFirst(rest, bytesWritten);
  }
}

function withoutFirst(parts: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let skip = bytes;
  const rest: Uint8Array[] = [];
  for (const part of parts) {
    if (skip >= part.length) skip -= part.length;
    else {
      rest.push(part.subarray(skip));
      skip = 0;
    }
  }
  return rest;
}

export function nodeDisk(root: string): Disk {
  const at = (path: string) => join(root, insidePath(path));
  let temporaries = 0;
  return {
    readFile: (path) =>
      attempt("read", path, async () => {
        const { buffer, byteOffset, length } = await readFile(at(path));
        return new Uint8Array(buffer, byteOffset, length);
      }),
    async writeFileAtomic(path, parts) {
      const target = at(path);
      const temporary = `${target}.${process.pid}-${temporaries++}${TEMPORARY}`;
      await attempt("write", path, async () => {
        await makeDirectory(dirname(target));
        const handle = await open(temporary, "w");
        try {
          try {
            await writeParts(handle, parts, 0);
            await handle.sync();
          } finally {
            await handle.close();
          }
          await rename(temporary, target);
        } catch (error) {
          await rm(temporary, { force: true }).catch(() => {});
          throw error;
        }
        await syncDirAt(dirname(target));
      });
    },
    openAppend: (path) => attempt("open", path, () => openAppendAt(at(path), path)),
    openRead: (path) => attempt("open", path, () => openReadAt(at(path), path)),
    async list(dir) {
      try {
        return (await readdir(at(dir))).filter((name) => !name.endsWith(TEMPORARY)).sort();
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code === "ENOENT") return [];
        throw diskFailure("list", dir, cause);
      }
    },
    remove: (path) =>
      attempt("remove", path, async () => {
        await rm(join(root, belowRoot(path)), { recursive: true, force: true });
        await syncDirAt(dirname(at(path))).catch(() => undefined);
      }),
    async exists(path) {
      const found = await stat(at(path)).catch(() => undefined);
      return found !== undefined;
    },
    makeDir: (dir) =>
      attempt("make", dir, async () => {
        await makeDirectory(at(dir));
        await syncDirAt(dirname(at(dir)));
      }),
    freeBytes: () =>
      attempt("measure", root, async () => {
        await makeDirectory(root);
        const { bavail, bsize } = await statfs(root);
        return bavail * bsize;
      }),
    syncDir: (dir) => attempt("sync", dir, () => syncDirAt(at(dir))),
  };
}

async function openAppendAt(target: string, path: string): Promise<AppendFile> {
  await makeDirectory(dirname(target));
  const handle = await open(target, constants.O_RDWR | constants.O_CREAT, 0o640);
  await syncDirAt(dirname(target));
  let size = (await handle.stat()).size;
  return {
    get size() {
      return size;
    },
    append: (parts) =>
      attempt("append to", path, async () => {
        await writeParts(handle, parts, size);
        for (const part of parts) size += part.length;
      }),
    sync: () => attempt("sync", path, () => handle.datasync()),
    truncate: (to) =>
      attempt("truncate", path, async () => {
        await handle.truncate(to);
        size = to;
      }),
    close: () => attempt("close", path, () => handle.close()),
  };
}

async function openReadAt(target: string, path: string): Promise<ReadFile> {
  const handle = await open(target, "r");
  const { size } = await handle.stat();
  return {
    size,
    read: (offset, length) =>
      attempt("read", path, async () => {
        const bytes = new Uint8Array(Math.max(0, Math.min(length, size - offset)));
        let done = 0;
        while (done < bytes.length) {
          const { bytesRead } = await handle.read(bytes, done, bytes.length - done, offset + done);
          if (bytesRead === 0) break;
          done += bytesRead;
        }
        return bytes.subarray(0, done);
      }),
    close: () => attempt("close", path, () => handle.close()),
  };
}
