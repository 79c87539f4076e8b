import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { mkdir, open } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  type Bundle,
  type BundleCode,
  type BundleFile,
  readBundle,
} from "@tributary/proto/identity/bundle.js";
import type { Keyring } from "@tributary/proto/identity/keyring.js";
import { identityLimits } from "@tributary/proto/identity/limits.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { type BundleEntry, MANIFEST, openBundle } from "./update-archive.js";

export type BundleTrust = { readonly fleet: string; readonly keyring: Keyring };

export type UnpackOptions = {
  readonly trust: BundleTrust;
  /** Judges the manifest, before any other byte is read, and says where the files go. */
  readonly accept: (
    bundle: Bundle,
    digest: string,
  ) => Promise<Verdict<{ readonly placeOf: PlaceOf }, BundleCode>>;
};

/** Where a file of a bundle goes; undefined for one that is checked only. */
export type PlaceOf = (path: string) => string | undefined;

export type Unpacked = { readonly bundle: Bundle; readonly digest: string };

/**
 * Reads a bundle from a file or a folder: the manifest and its signature first, then each file, which is
 * written as it comes and must have the manifest's size and digest. What was written before a refusal
 * lies there still: it is the caller's to remove, and not to run. Failures: those of `openBundle`, and
 * the disk's.
 */
export async function unpackBundle(
  source: string,
  options: UnpackOptions,
): Promise<Verdict<Unpacked, BundleCode>> {
  const entries = openBundle(source);
  try {
    const first = (await entries.next()).value as BundleEntry | undefined;
    if (first === undefined || first.path !== MANIFEST)
      return refuse("bundle-malformed", `a bundle begins with ${MANIFEST}`);
    if (first.size > identityLimits.bundleManifestChars)
      return refuse("bundle-malformed", "the manifest is longer than it can be");
    const text = Buffer.concat(await collect(first.content)).toString("utf8");
    const read = await readBundle(text, options.trust);
    if (!read.ok) return read;
    const { bundle } = read;
    const digest = createHash("sha256").update(text).digest("hex");
    const accepted = await options.accept(bundle, digest);
    if (!accepted.ok) return accepted;
    const refused = await takeFiles(entries, bundle, accepted.placeOf);
    return refused ?? { ok: true, bundle, digest };
  } catch (cause) {
    if (cause instanceof TributaryError && cause.code === "bundle-malformed")
      return refuse("bundle-malformed", cause.message);
    throw cause;
  } finally {
    await entries.return(undefined);
  }
}

async function collect(content: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of content) chunks.push(chunk);
  return chunks;
}

async function takeFiles(
  entries: AsyncIterable<BundleEntry>,
  { files }: Bundle,
  placeOf: PlaceOf,
): Promise<Refusal<BundleCode> | undefined> {
  const missing = new Map(files.map((file) => [file.path, file]));
  for await (const { path, size, content } of entries) {
    const file = missing.get(path);
    if (file === undefined)
      return refuse("bundle-digest", `${path} is not in the manifest, or is there twice`);
    if (size !== file.bytes)
      return refuse("bundle-digest", `${path} has ${size} bytes; ${file.bytes} were signed`);
    missing.delete(path);
    const digest = await take(content, file, placeOf(path));
    if (digest !== file.sha256)
      return refuse("bundle-digest", `${path} is not what was signed: its digest differs`);
  }
  const [absent] = missing.keys();
  return absent === undefined
    ? undefined
    : refuse("bundle-digest", `${absent} is in the manifest and not in the bundle`);
}

/** Reads a file to its end, writing it durably where it goes. Resolves with its digest. */
async function take(
  content: AsyncIterable<Uint8Array>,
  { mode }: BundleFile,
  place: string | undefined,
): Promise<string> {
  const hash = createHash("sha256");
  if (place === undefined) {
    for await (const chunk of content) hash.update(chunk);
    return hash.digest("hex");
  }
  await mkdir(dirname(place), { recursive: true });
  const handle = await open(place, "wx", mode).catch((cause: unknown) => {
    throw diskFailed(place, cause);
  });
  try {
    for await (const chunk of content) {
      hash.update(chunk);
      await handle.write(chunk);
    }
    await handle.chmod(mode); // the umask may have taken bits
    await handle.sync();
  } catch (cause) {
    throw cause instanceof TributaryError ? cause : diskFailed(place, cause);
  } finally {
    await handle.close();
  }
  await syncFolder(dirname(place));
  return hash.digest("hex");
}

/** Makes the entries of a folder durable. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function diskFailed(path: string, cause: unknown): TributaryError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new TributaryError("disk-failed", `cannot write ${path}: ${why}`, { cause });
}

/** Which part of a bundle an installation runs from; the rest sets a machine up, once. */
const RELEASE = "release/";

/** Where a bundle's files go: those of the release into a slot, the rest elsewhere, or nowhere. */
export function bundlePlaces(slot: string | undefined, setup: string | undefined): PlaceOf {
  return (path) => {
    if (!path.startsWith(RELEASE)) return setup && join(setup, path);
    return slot && join(slot, path.slice(RELEASE.length));
  };
}
