import { readFile } from "node:fs/promises";
import { arch as machineArch } from "node:process";
import type { BundleArch } from "@tributary/proto/identity/bundle.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { archOfElf } from "./elf.js";

/** A Node to run on: pinned, as its digest stands in the signed manifest. */
export type Runtime = { readonly bytes: Uint8Array; readonly version: string };

/** Every build of Node names where its headers are had, with its own version (`process.release`). */
const headersUrl = /\/node-v(\d+\.\d+\.\d+)-headers\.tar\.gz/;

/** What the code is built for. */
const OLDEST = 20;

export function archHere(): BundleArch | undefined {
  if (machineArch === "x64" || machineArch === "arm64") return machineArch;
  return machineArch === "arm" ? "armv7" : undefined;
}

/**
 * Reads a Node for a kind of machine; without a path the one that runs this. It is not run: its version
 * and its machine are read from the file. Throws `config-runtime` for anything else than such a Node.
 */
export async function readRuntime(arch: BundleArch, path: string | undefined): Promise<Runtime> {
  if (path === undefined && archHere() !== arch)
    throw new TributaryError(
      "config-runtime",
      `this machine's Node is not for ${arch}; name one by --runtime: bin/node of Node's Linux ${arch === "armv7" ? "armv7l" : arch} release`,
    );
  const from = path ?? process.execPath;
  const bytes = await readFile(from).catch((cause: unknown) => {
    throw new TributaryError("config-runtime", `cannot read the runtime ${from}`, { cause });
  });
  const found = archOfElf(bytes);
  if (found !== arch)
    throw new TributaryError(
      "config-runtime",
      `${from} is ${found === undefined ? "no Linux program for a machine that we know" : `for ${found}`}, not for ${arch}`,
    );
  const version = headersUrl.exec(bytes.toString("latin1"))?.[1];
  if (version === undefined || Number(version.split(".")[0]) < OLDEST)
    throw new TributaryError(
      "config-runtime",
      `${from} is ${version === undefined ? "no Node" : `Node ${version}`}; it must be ${OLDEST} or later`,
    );
  return { bytes, version };
}
