import { createHash } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdir, open, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { createGzip } from "node:zlib";
import type { Bundle } from "@tributary/proto/identity/bundle.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type Pack, pack } from "tar-stream";

export type Content = { readonly mode: 0o600 | 0o644 | 0o755; readonly bytes: Uint8Array };

/** A bundle that is made: its signed manifest, and its files by their paths. */
export type MadeBundle = {
  readonly manifest: string;
  readonly bundle: Bundle;
  readonly files: ReadonlyMap<string, Content>;
};

/** Name of the manifest, the first entry of an archive: who reads one knows then what may follow. */
export const MANIFEST = "manifest.jws";

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function* entriesOf({ manifest, files }: MadeBundle): Generator<[string, Content]> {
  yield [MANIFEST, { mode: 0o644, bytes: new TextEncoder().encode(manifest) }];
  yield* [...files].sort(([a], [b]) => (a < b ? -1 : 1));
}

/** Writes a bundle as a folder, which must not be there or be empty. */
export async function writeFolder(made: MadeBundle, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const [path, { mode, bytes }] of entriesOf(made)) {
    const at = join(folder, path);
    await mkdir(dirname(at), { recursive: true });
    await writeFile(at, bytes, { flag: "wx", mode }).catch((cause: NodeJS.ErrnoException) => {
      throw new TributaryError("disk-failed", `cannot write ${at}: ${cause.message}`, { cause });
    });
    await chmod(at, mode); // the umask may have taken bits
  }
}

/** The tar archive's bytes: no times, no owners, files in the order of their paths. */
async function fill(tar: Pack, made: MadeBundle): Promise<void> {
  for (const [name, { mode, bytes }] of entriesOf(made)) {
    const size = bytes.length;
    const entry = tar.entry({ name, mode, type: "file", size, mtime: new Date(0), uid: 0, gid: 0 });
    const written = once(entry, "close");
    entry.end(Buffer.from(bytes.buffer, bytes.byteOffset, size));
    await written;
  }
  tar.finalize();
}

/** Writes a bundle as a .tar.gz: one with a claim in it can be read by its owner alone. */
export async function writeArchive(made: MadeBundle, file: string): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    const handle = await open(temporary, "wx", made.bundle.for === null ? 0o644 : 0o600);
    try {
      // Fixed, so that the same bundle gives the same bytes; zlib's header holds no time.
      const tar = pack();
      const filled = fill(tar, made);
      for await (const chunk of Readable.from(tar).pipe(createGzip({ level: 6 })))
        await handle.write(chunk as Uint8Array);
      await filled;
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TributaryError("disk-failed", `cannot write ${file}: ${why}`, { cause });
  } finally {
    await rm(temporary, { force: true });
  }
}
