import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { isPackagePath, type PackageStatement } from "@tributary/proto/wire/package.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { extract, type Header } from "tar-stream";

/** What a tar file costs beside its files: a header and padding for each, and its end. */
const TAR_FILE_BYTES = 4 * 1024;

function malformed(message: string): Refusal<"package-malformed"> {
  return refuse("package-malformed", `the package's archive: ${message}`);
}

/**
 * Unpacks an archive whose digest was verified into an empty directory. Plain files alone, at paths
 * that stay inside, each once, and exactly as many and as long as the statement says: so neither a
 * link nor a small archive of a huge file does harm. What was written before a refusal stays.
 */
export async function unpackPackage(
  archive: Uint8Array,
  { files, unpackedBytes }: PackageStatement,
  dir: string,
): Promise<Verdict<object, "package-malformed">> {
  const tar = extract();
  const unzipped = createGunzip();
  let left = unpackedBytes + (files + 2) * TAR_FILE_BYTES;
  unzipped.on("data", (piece: Buffer) => {
    left -= piece.length;
    if (left < 0) unzipped.destroy(new Error("it is longer than its statement says"));
  });
  // The reader below hears of the failure of whatever stands before it.
  unzipped.on("error", (error) => tar.destroy(error));
  Readable.from([archive], { objectMode: false })
    .on("error", () => {})
    .pipe(unzipped)
    .pipe(tar);
  const taken = new Set<string>();
  let bytes = 0;
  try {
    for await (const entry of tar) {
      const { name, size, mode } = entry.header;
      const wrong = judge(entry.header, taken);
      if (wrong !== undefined) return wrong;
      taken.add(name);
      bytes += size;
      if (taken.size > files || bytes > unpackedBytes)
        return malformed(`more than ${files} files or ${unpackedBytes} bytes, as is stated`);
      const path = join(dir, name);
      await mkdir(dirname(path), { recursive: true, mode: 0o700 });
      const content = entry as AsyncIterable<Uint8Array>;
      await writeFile(path, content, { flag: "wx", mode: (mode & 0o100) === 0 ? 0o400 : 0o500 });
    }
  } catch (cause) {
    return malformed(cause instanceof Error ? cause.message : String(cause));
  } finally {
    unzipped.destroy();
    tar.destroy();
  }
  return taken.size === files && bytes === unpackedBytes
    ? { ok: true }
    : malformed(`${taken.size} files of ${bytes} bytes; it states ${files} of ${unpackedBytes}`);
}

function judge(
  { name, type }: Header,
  taken: ReadonlySet<string>,
): Refusal<"package-malformed"> | undefined {
  const shown = JSON.stringify(name.slice(0, 64));
  if (type !== "file") return malformed(`${shown} is no plain file`);
  if (!isPackagePath(name)) return malformed(`${shown} is no path inside it`);
  return taken.has(name) ? malformed(`${shown} stands in it twice`) : undefined;
}
