import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { type Bundle, signBundle } from "@tributary/proto/identity/bundle.js";
import { createKeyring } from "@tributary/proto/identity/keyring.js";
import { makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import { type Header, pack } from "tar-stream";

export const fleet = "works";

/** A fleet's signing key, and what trusts it. */
export function sampleSigner(kid = "key-1") {
  const key = makeKey("EdDSA");
  const jwk = publicJwk(key);
  if (jwk.kty !== "OKP") throw new Error("an Ed25519 key");
  const keyring = createKeyring({ keys: [{ ...jwk, kid, alg: "EdDSA", use: "sig" }] });
  return { signing: { kid, key }, trust: { fleet, keyring } };
}

export type SampleFile = { readonly mode: 0o644 | 0o755; readonly text: string };

/** What a release holds, in little. */
export function sampleFiles(version: string): Map<string, SampleFile> {
  return new Map<string, SampleFile>([
    ["install.sh", { mode: 0o755, text: "#!/bin/sh\n" }],
    ["release/app/bin/tributary.mjs", { mode: 0o755, text: `// ${version}\n` }],
    ["release/package.json", { mode: 0o644, text: `{"version":"${version}"}` }],
  ]);
}

/** The manifest of some files. */
export function sampleBundle(
  version: string,
  given: Partial<Bundle> = {},
  files: ReadonlyMap<string, SampleFile> = sampleFiles(version),
): Bundle {
  return {
    fleet,
    version,
    minimumVersion: "1.0.0",
    arch: "x64",
    node: "20.19.0",
    for: null,
    files: [...files].map(([path, { mode, text }]) => ({
      path,
      mode,
      bytes: Buffer.byteLength(text),
      sha256: createHash("sha256").update(text).digest("hex"),
    })),
    ...given,
  };
}

export type SampleEntry = Partial<Header> & { readonly name: string; readonly text: string };

/** An archive of any entries at all, in their order. */
export async function writeSampleArchive(
  file: string,
  entries: readonly SampleEntry[],
): Promise<string> {
  const tar = pack();
  const chunks: Uint8Array[] = [];
  for (const { text, ...header } of entries) tar.entry(header, text);
  tar.finalize();
  for await (const chunk of tar as AsyncIterable<Uint8Array>) chunks.push(chunk);
  await writeFile(file, gzipSync(Buffer.concat(chunks)));
  return file;
}

/** A whole, signed bundle in an archive. */
export async function writeSampleBundle(
  file: string,
  version: string,
  { signing }: Pick<ReturnType<typeof sampleSigner>, "signing">,
  given: Partial<Bundle> = {},
): Promise<string> {
  const manifest = await signBundle(sampleBundle(version, given), signing);
  return writeSampleArchive(file, [
    { name: "manifest.jws", text: manifest },
    ...[...sampleFiles(version)].map(([name, { mode, text }]) => ({ name, mode, text })),
  ]);
}
