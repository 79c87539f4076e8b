import type { KeyObject } from "node:crypto";
import { gzipSync } from "node:zlib";
import { makeKey, publicJwk, thumbprint } from "@tributary/proto/identity/keys.js";
import { signPackage } from "@tributary/proto/identity/package.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import type { PackageStatement } from "@tributary/proto/wire/package.js";
import type { PlanPackage } from "@tributary/proto/wire/plan.js";
import { type Header, pack } from "tar-stream";
import { sha256 } from "./sample.js";

/** A compute package for tests. */
export type SamplePackage = {
  readonly statement: PackageStatement;
  readonly archive: Uint8Array;
  readonly offered: PlanPackage;
  readonly signer: string;
};

export async function tarOf(
  entries: readonly (readonly [Partial<Header> & Pick<Header, "name">, string])[],
): Promise<Uint8Array> {
  const tar = pack();
  for (const [header, content] of entries) tar.entry(header, content);
  tar.finalize();
  const pieces: Uint8Array[] = [];
  for await (const piece of tar as AsyncIterable<Uint8Array>) pieces.push(piece);
  return new Uint8Array(gzipSync(Buffer.concat(pieces)));
}

export async function samplePackage(
  files: Readonly<Record<string, string>>,
  changes: Partial<PackageStatement> = {},
  key: KeyObject = makeKey("EdDSA"),
): Promise<SamplePackage> {
  const archive = await tarOf(Object.entries(files).map(([name, text]) => [{ name }, text]));
  const statement: PackageStatement = {
    package: "steps.1",
    digest: sha256(archive),
    bytes: archive.length,
    files: Object.keys(files).length,
    unpackedBytes: Object.values(files).reduce((sum, text) => sum + Buffer.byteLength(text), 0),
    entryPoints: {
      train: ["node", "run.mjs"],
      validate: ["node", "run.mjs"],
      predict: ["node", "run.mjs"],
    },
    environment: {},
    memoryBytes: 1024 * 1024 * 1024,
    timeMs: 120_000,
    ...changes,
  };
  const offered = {
    statement: await signPackage(statement, key),
    manifest: makeManifest(statement.package, archive, sha256, 1024),
  };
  return { statement, archive, offered, signer: await thumbprint(publicJwk(key)) };
}

/** Moves every weight by what the variable STEP says; the answer to a prediction names the task. */
export const runModule = `
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
const { TRIBUTARY_TASK: task, TRIBUTARY_INPUT: from, TRIBUTARY_OUTPUT: to, STEP = "0.25" } = process.env;
const file = readFileSync(join(from, "model.safetensors"));
if (task === "predict") {
  const input = JSON.parse(readFileSync(join(from, "input.json"), "utf8"));
  writeFileSync(join(to, "output.json"), JSON.stringify({ task, input }));
} else {
  writeFileSync(join(to, "result.json"), JSON.stringify({ samples: 7, metrics: { loss: 0.5 } }));
}
if (task === "train") {
  const at = 8 + Number(file.readBigUInt64LE(0));
  for (let i = at; i < file.length; i += 4) file.writeFloatLE(file.readFloatLE(i) + Number(STEP), i);
  writeFileSync(join(to, "weights.safetensors"), file);
}
`;
