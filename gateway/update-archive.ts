import { createReadStream } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import { PassThrough, pipeline, Transform } from "node:stream";
import { createGunzip } from "node:zlib";
import { identityLimits } from "@tributary/proto/identity/limits.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { extract } from "tar-stream";

/** A file of a bundle, as it comes: its content is read before the next entry is asked for. */
export type BundleEntry = {
  readonly path: string;
  readonly size: number;
  readonly content: AsyncIterable<Uint8Array>;
};

/** Name of the signed manifest, which comes first: by it, who reads knows what may follow. */
export const MANIFEST = "manifest.jws";

/** Headers and padding of an archive's entries, besides their bytes; past it is no bundle of ours. */
const OVERHEAD_BYTES = (identityLimits.bundleFiles + 4) * 1024 + 64 * 1024;

/**
 * The entries of a bundle, a .tar.gz or a folder. Throws `bundle-malformed` for what is neither and for
 * an archive of anything but plain files, `bundle-missing` for no such file.
 */
export async function* openBundle(path: string): AsyncGenerator<BundleEntry> {
  const found = await lstat(path).catch((cause: unknown) => {
    throw new TributaryError("bundle-missing", `there is no bundle at ${path}`, { cause });
  });
  yield* found.isDirectory() ? folderEntries(path) : archiveEntries(path);
}

async function* folderEntries(folder: string): AsyncGenerator<BundleEntry> {
  const names = await readdir(folder, { recursive: true, withFileTypes: true });
  const paths: string[] = [];
  for (const entry of names) {
    const path = relative(folder, join(entry.parentPath, entry.name)).split(sep).join("/");
    if (entry.isDirectory()) continue;
    if (!entry.isFile()) throw malformed(`${path} is no plain file`);
    paths.push(path);
  }
  if (!paths.includes(MANIFEST)) throw malformed(`there is no ${MANIFEST} in ${folder}`);
  for (const path of [MANIFEST, ...paths.filter((one) => one !== MANIFEST).sort()]) {
    const at = join(folder, path);
    const { size } = await lstat(at);
    yield { path, size, content: createReadStream(at) };
  }
}

async function* archiveEntries(file: string): AsyncGenerator<BundleEntry> {
  const entries = extract();
  const failure = new Promise<never>((_, reject) => {
    pipeline(
      createReadStream(file),
      createGunzip(),
      bounded(),
      new PassThrough(),
      entries,
      (error) => {
        if (error) reject(malformed(`${file} cannot be unpacked: ${error.message}`, error));
      },
    );
  });
  failure.catch(() => {});
  const each = entries[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await Promise.race([each.next(), failure]);
      if (next.done === true) return;
      const { header } = next.value;
      if (header.type !== "file") throw malformed(`${header.name} is a ${header.type}, not a file`);
      yield {
        path: header.name,
        size: header.size ?? 0,
        content: racing(bytesOf(next.value), failure),
      };
    }
  } catch (cause) {
    if (cause instanceof TributaryError) throw cause;
    throw malformed(
      `${file} cannot be unpacked: ${cause instanceof Error ? cause.message : cause}`,
      cause,
    );
  } finally {
    entries.destroy();
  }
}

/** An entry is a stream of bytes, which its types do not say. */
function bytesOf(entry: unknown): AsyncIterable<Uint8Array> {
  return entry as AsyncIterable<Uint8Array>;
}

/** Content that fails where the archive around it does, rather than end early. */
async function* racing(
  content: AsyncIterable<Uint8Array>,
  failure: Promise<never>,
): AsyncGenerator<Uint8Array> {
  const each = content[Symbol.asyncIterator]();
  for (;;) {
    const next = await Promise.race([each.next(), failure]);
    if (next.done === true) return;
    yield next.value;
  }
}

/** Stops what unpacks to more than any bundle has. */
function bounded(): Transform {
  const most = identityLimits.bundleBytes + identityLimits.bundleManifestChars + OVERHEAD_BYTES;
  let bytes = 0;
  return new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      bytes += chunk.length;
      if (bytes > most) done(new Error(`more than ${most} bytes`));
      else done(null, chunk);
    },
  });
}

function malformed(message: string, cause?: unknown): TributaryError {
  return new TributaryError("bundle-malformed", message, { cause });
}
