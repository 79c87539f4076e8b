import { link, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { createHasher } from "@tributary/proto/host/digest.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import { CommandFailure, reasonOf } from "./failure.js";

export type Download = {
  readonly chunks: AsyncIterable<Uint8Array>;
  /** SHA-256 that the bytes must have, in hexadecimal. */
  readonly digest: string;
  readonly file: string;
  /** Whether an existing file is replaced. */
  readonly force: boolean;
};

/**
 * Writes a download beside its place, checks its digest, makes it durable and moves it into place;
 * whatever fails, the place is as it was. Resolves to the number of bytes.
 */
export async function saveDownload({ chunks, digest, file, force }: Download): Promise<number> {
  const partial = `${file}.${process.pid}.partial`;
  const hasher = createHasher();
  let bytes = 0;
  try {
    const handle = await open(partial, "wx");
    try {
      for await (const chunk of chunks) {
        hasher.update(chunk);
        bytes += chunk.length;
        await handle.writeFile(chunk);
      }
      const found = hasher.digest();
      if (found !== digest) {
        throw new CommandFailure(
          "digest-mismatch",
          `the ${bytes} bytes that came have the digest ${found},\nnot ${digest}; ` +
            `nothing was written to ${file}. Try again.`,
          exitCodes.unavailable,
        );
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (force) await rename(partial, file);
    else await link(partial, file);
    await syncFolder(dirname(file));
    return bytes;
  } catch (error) {
    throw explained(error, file);
  } finally {
    await rm(partial, { force: true });
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export function existingFile(file: string): CommandFailure {
  return new CommandFailure(
    "file-exists",
    `${file} exists; choose another name with --out, or replace it with --force`,
    exitCodes.cannotWrite,
  );
}

function explained(error: unknown, file: string): unknown {
  if (!(error instanceof Error) || !("code" in error) || error instanceof CommandFailure) {
    return error;
  }
  if (error.code === "EEXIST") return existingFile(file);
  return new CommandFailure(
    "cannot-write",
    `cannot write ${file}: ${reasonOf(error)}`,
    exitCodes.cannotWrite,
    error,
  );
}
