import type { KeyObject } from "node:crypto";
import { sha256 } from "@tributary/proto/host/digest.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import { signPackage } from "@tributary/proto/identity/package.js";
import { encodePackageFile, type PackageStatement } from "@tributary/proto/wire/package.js";

/** The file of a signed package; its archive is bytes that nobody unpacks here. */
export async function packageFile(
  id: string,
  over: Partial<PackageStatement> = {},
  { content = id, key = makeKey("EdDSA") }: { content?: string; key?: KeyObject } = {},
): Promise<{ file: Buffer; archive: Uint8Array; statement: PackageStatement }> {
  const archive = new TextEncoder().encode(content);
  const statement: PackageStatement = {
    package: id,
    digest: sha256(archive),
    bytes: archive.length,
    files: 1,
    unpackedBytes: 1,
    entryPoints: { train: ["node", "train.mjs"] },
    environment: {},
    memoryBytes: 1024 * 1024,
    timeMs: 1_000,
    ...over,
  };
  const head = { statement: await signPackage(statement, key) };
  return { file: Buffer.from(encodePackageFile(head, archive)), archive, statement };
}
