import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { BundleArch } from "@tributary/proto/identity/bundle.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { levelFolder } from "./code.js";
import { archOfElf } from "./elf.js";

/** Where the package keeps what it was built to, for Linux with the GNU C library. */
const prebuilt: Readonly<Record<BundleArch, string>> = {
  x64: "linux-x64/classic-level.node",
  arm64: "linux-arm64/classic-level.armv8.node",
  armv7: "linux-arm/classic-level.armv7.node",
};

/** The package that has the gateway's one native part. */
export const nativePackage = "classic-level";

/** LevelDB for a kind of machine. Throws `config-native` when the package has none for it. */
export async function nativePart(arch: BundleArch): Promise<Uint8Array> {
  const path = join(levelFolder(), "prebuilds", prebuilt[arch]);
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw new TributaryError("config-native", `${nativePackage} has no part for ${arch}: ${path}`, {
      cause,
    });
  });
  const found = archOfElf(bytes);
  if (found !== arch)
    throw new TributaryError(
      "config-native",
      `${path} is for ${found ?? "nothing we know"}, not ${arch}`,
    );
  return bytes;
}
