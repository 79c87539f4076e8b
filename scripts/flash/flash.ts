import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BundleCode } from "@tributary/proto/identity/bundle.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";
import { type MadeBundle, writeArchive, writeFolder } from "./archive.js";
import { type InstallOutcome, install } from "./install.js";

/** Ending of a bundle in one file; anything else is a folder. */
const ARCHIVE = /\.(tar\.gz|tgz)$/;

/** Writes a bundle where it was asked for. Nothing that is there is replaced but an archive. */
export async function writeBundle(made: MadeBundle, out: string): Promise<void> {
  if (ARCHIVE.test(out)) return writeArchive(made, out);
  const there = await stat(out).catch(() => undefined);
  if (there !== undefined)
    throw new TributaryError("disk-failed", `${out} is there already; name a new folder`);
  await writeFolder(made, out);
}

/** Installs a bundle straight into a mounted image, as its install.sh would. */
export async function installInto(
  made: MadeBundle,
  root: string,
): Promise<Verdict<InstallOutcome, BundleCode>> {
  const scratch = await mkdtemp(join(tmpdir(), "tributary-flash-"));
  try {
    const source = join(scratch, "bundle");
    await writeFolder(made, source);
    return await install({ source, root });
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
