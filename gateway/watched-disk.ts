import type { AppendFile, Disk } from "@tributary/proto/host/disk.js";

/** A disk that tells, besides whoever wrote, of every write that fails. */
export function watchWrites(disk: Disk, onFailure: (cause: unknown) => void): Disk {
  async function told<T>(write: Promise<T>): Promise<T> {
    try {
      return await write;
    } catch (cause) {
      onFailure(cause);
      throw cause;
    }
  }
  const watched = (file: AppendFile): AppendFile => ({
    get size() {
      return file.size;
    },
    append: (parts) => told(file.append(parts)),
    sync: () => told(file.sync()),
    truncate: (size) => told(file.truncate(size)),
    close: () => file.close(),
  });
  return {
    ...disk,
    writeFileAtomic: (path, parts) => told(disk.writeFileAtomic(path, parts)),
    openAppend: (path) => told(disk.openAppend(path).then(watched)),
    remove: (path) => told(disk.remove(path)),
    makeDir: (dir) => told(disk.makeDir(dir)),
    syncDir: (dir) => told(disk.syncDir(dir)),
  };
}
