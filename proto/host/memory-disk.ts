import { TributaryError } from "../wire/errors.js";
import { type AppendFile, belowRoot, type Disk, insidePath, type ReadFile } from "./disk.js";
import type { Random } from "./random.js";

/**
 * A disk in memory for tests and simulation. It keeps apart what is written and what is durable:
 * `crash` throws away, or tears, what was not synced, as a power cut does.
 */
export type MemoryDisk = Disk & {
  /** Loses what was not synced; of each file a random part of the unsynced tail may survive. */
  crash(): void;
  /** From now on writes fail: `full`, `read-only`, `sync` (only syncs fail), or `none`. */
  fail(how: "none" | "full" | "read-only" | "sync"): void;
  /** How many syncs of files there were. */
  readonly syncs: number;
  readonly bytesAppended: number;
  /** Flips one bit of a durable file. */
  flip(path: string, bit: number): void;
};

type File = { bytes: Uint8Array; durable: Uint8Array | undefined };

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

export function memoryDisk({ random }: { readonly random?: Random } = {}): MemoryDisk {
  const files = new Map<string, File>();
  const dirs = new Set<string>();
  let failing: "none" | "full" | "read-only" | "sync" = "none";
  let syncs = 0;
  let bytesAppended = 0;
  /** Handles opened before a crash belong to a process that is gone. */
  let life = 0;

  const writable = (path: string) => {
    if (failing === "full")
      throw new TributaryError("disk-full", `no space for ${path}`, { retryable: true });
    if (failing === "read-only") {
      throw new TributaryError("disk-read-only", `cannot write ${path}`, { retryable: true });
    }
  };
  const syncable = (path: string) => {
    writable(path);
    if (failing === "sync") throw new TributaryError("disk-failed", `cannot sync ${path}`);
    syncs++;
  };
  const fileAt = (path: string): File => {
    const file = files.get(insidePath(path));
    if (file === undefined) throw new TributaryError("disk-missing", `no file ${path}`);
    return file;
  };
  const alive = (born: number, path: string) => {
    if (born !== life)
      throw new TributaryError("disk-failed", `${path} was open when the disk crashed`);
  };

  const appendFile = (path: string, file: File): AppendFile => {
    const born = life;
    return {
      get size() {
        return file.bytes.length;
      },
      async append(parts) {
        alive(born, path);
        writable(path);
        const more = joined(parts);
        bytesAppended += more.length;
        file.bytes = joined([file.bytes, more]);
      },
      async sync() {
        alive(born, path);
        syncable(path);
        file.durable = file.bytes.slice();
      },
      async truncate(size) {
        alive(born, path);
        writable(path);
        file.bytes = file.bytes.slice(0, size);
      },
      async close() {},
    };
  };
  const readFileOf = (file: File): ReadFile => {
    const { bytes } = file;
    return {
      size: bytes.length,
      read: async (offset, length) => bytes.slice(offset, offset + length),
      async close() {},
    };
  };

  return {
    readFile: async (path) => fileAt(path).bytes.slice(),
    async writeFileAtomic(path, parts) {
      const clean = insidePath(path);
      syncable(clean);
      const bytes = joined(parts);
      files.set(clean, { bytes, durable: bytes.slice() });
    },
    async openAppend(path) {
      const clean = insidePath(path);
      let file = files.get(clean);
      if (file === undefined) {
        writable(clean);
        file = { bytes: new Uint8Array(0), durable: new Uint8Array(0) };
        files.set(clean, file);
      }
      return appendFile(clean, file);
    },
    openRead: async (path) => readFileOf(fileAt(path)),
    async list(dir) {
      const clean = insidePath(dir);
      const prefix = clean === "." ? "" : `${clean.replace(/\/$/, "")}/`;
      const names = [...files.keys(), ...dirs]
        .filter((path) => path.startsWith(prefix) && path !== prefix)
        .map((path) => path.slice(prefix.length).split("/")[0] ?? "");
      return [...new Set(names)].filter((name) => name !== "").sort();
    },
    async remove(path) {
      const clean = belowRoot(path);
      if (failing === "read-only") writable(clean);
      for (const name of [...files.keys()]) {
        if (name === clean || name.startsWith(`${clean}/`)) files.delete(name);
      }
      dirs.delete(clean);
    },
    async exists(path) {
      const clean = insidePath(path);
      return (
        files.has(clean) ||
        dirs.has(clean) ||
        [...files.keys()].some((name) => name.startsWith(`${clean}/`))
      );
    },
    async makeDir(dir) {
      dirs.add(insidePath(dir));
    },
    freeBytes: async () => (failing === "full" ? 0 : 2 ** 40),
    async syncDir() {},
    crash() {
      life++;
      for (const [path, file] of files) {
        if (file.durable === undefined) {
          files.delete(path);
          continue;
        }
        const lost = file.bytes.length - file.durable.length;
        const kept = lost > 0 && random !== undefined ? Math.floor(random.next() * (lost + 1)) : 0;
        const bytes = file.bytes.slice(0, file.durable.length + kept);
        bytes.set(file.durable.subarray(0, bytes.length));
        // Blocks reach the platter in any order: the surviving tail may hold rubbish.
        if (kept > 0 && random !== undefined && random.next() < 0.5) {
          const at = file.durable.length + Math.floor(random.next() * kept);
          bytes[at] = (bytes[at] ?? 0) ^ (1 + Math.floor(random.next() * 255));
        }
        files.set(path, {
          bytes: lost < 0 ? file.durable.slice() : bytes,
          durable: lost < 0 ? file.durable.slice() : bytes.slice(),
        });
      }
    },
    fail(how) {
      failing = how;
    },
    get syncs() {
      return syncs;
    },
    get bytesAppended() {
      return bytesAppended;
    },
    flip(path, bit) {
      const file = fileAt(path);
      const at = Math.floor(bit / 8) % file.bytes.length;
      file.bytes[at] = (file.bytes[at] ?? 0) ^ (1 << (bit % 8));
      file.durable = file.bytes.slice();
    },
  };
}
