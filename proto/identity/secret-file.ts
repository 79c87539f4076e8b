import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, link, mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { TributaryError } from "../wire/errors.js";
import { identityLimits } from "./limits.js";

/**
 * Files that only their owner may read: keys, and what holds keys.
 *
 *     secret-exposed    others than the owner may read or write the file
 *     secret-exists     the file is there already, and was not to be replaced
 *     secret-malformed  the file is longer than it can be, or does not hold what it should
 *     secret-missing    there is no such file
 *     secret-failed     the disk's answer to anything else
 */

/** Bits of a mode that let the group or anybody read, write or execute. */
const OTHERS = 0o077;

/**
 * Reads a file that nobody but its owner may read. One that is open to others is refused, not mended:
 * what stood open may have been read.
 */
export async function readSecretFile(path: string): Promise<string> {
  const file = await open(path, constants.O_RDONLY).catch((cause: unknown) => {
    throw failure("read", path, cause);
  });
  try {
    // Of the file that is open, not of the path: nobody can put another in its place in between.
    const { mode, size } = await file.stat();
    if (process.platform !== "win32" && (mode & OTHERS) !== 0) {
      const octal = (mode & 0o777).toString(8).padStart(3, "0");
      throw new TributaryError(
        "secret-exposed",
        `${path} can be read by others (mode ${octal}): run \`chmod 600 ${path}\`, and if somebody may have read it, replace what it holds`,
      );
    }
    if (size > identityLimits.secretFileBytes)
      throw new TributaryError("secret-malformed", `${path} is longer than such a file can be`);
    return await file.readFile("utf8");
  } finally {
    await file.close();
  }
}

/**
 * Writes a file of mode 0600, whole and durably, in a directory that it makes with mode 0700. One that
 * is there stays as it is (`secret-exists`), unless it is to be replaced.
 */
export async function writeSecretFile(
  path: string,
  text: string,
  { replace }: { readonly replace: boolean },
): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await fill(await open(temporary, "wx", 0o600), text);
    if (replace) await rename(temporary, path);
    else await link(temporary, path);
    await syncDirectory(dirname(path));
  } catch (cause) {
    throw failure("write", path, cause);
  } finally {
    await rm(temporary, { force: true });
  }
}

async function fill(file: FileHandle, text: string): Promise<void> {
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, constants.O_RDONLY);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function failure(action: string, path: string, cause: unknown): TributaryError {
  const system = (cause as NodeJS.ErrnoException).code;
  const why = cause instanceof Error ? cause.message : String(cause);
  if (system === "EEXIST")
    return new TributaryError("secret-exists", `${path} is there already`, { cause });
  const code = system === "ENOENT" ? "secret-missing" : "secret-failed";
  return new TributaryError(code, `cannot ${action} ${path}: ${why}`, { cause });
}
