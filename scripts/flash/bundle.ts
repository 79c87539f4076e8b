import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Bundle, BundleArch } from "@tributary/proto/identity/bundle.js";
import type { Jwks } from "@tributary/proto/identity/keyring.js";
import { stringify } from "yaml";
import { type Content, type MadeBundle, sha256 } from "./archive.js";
import {
  bundleCode,
  type CarriedPackage,
  describePackage,
  kernelFile,
  levelFolder,
} from "./code.js";
import { nativePackage, nativePart } from "./native.js";
import { readRuntime } from "./runtime.js";
import { sbomOf } from "./sbom.js";

/** What a machine is set up with, besides the software. */
export type Setup = {
  readonly site: string;
  readonly gateway: string;
  /** The gateway's config, as it stands in its file. */
  readonly config: object;
  /** With which it enrols; the one secret in a bundle. */
  readonly claim: string;
  /** The certificates of the authorities that it trusts, in PEM. */
  readonly anchors: readonly string[];
};

export type BundleInputs = {
  readonly fleet: string;
  /** The fleet's public signing keys. */
  readonly jwks: Jwks;
  readonly version: string;
  readonly minimumVersion: string;
  readonly arch: BundleArch;
  /** A Node for that machine; undefined for the one that runs this. */
  readonly runtime: string | undefined;
  readonly deviceSdk: boolean;
  /** Undefined for a bundle that only updates. */
  readonly setup: Setup | undefined;
};

/** Signs a manifest with the fleet's key, wherever that is. */
export type Sign = (bundle: Bundle) => Promise<string>;

const textOf = (text: string): Content => ({ mode: 0o644, bytes: new TextEncoder().encode(text) });

/** A file that goes into bundles as it is. */
async function shipped(name: string, mode: Content["mode"]): Promise<Content> {
  const path = fileURLToPath(new URL(`../../flash/files/${name}`, import.meta.url));
  return { mode, bytes: await readFile(path) };
}

/** Makes a bundle. The same inputs, code and key give the same manifest and files. */
export async function makeBundle(inputs: BundleInputs, sign: Sign): Promise<MadeBundle> {
  const { fleet, version, minimumVersion, arch, setup } = inputs;
  const runtime = await readRuntime(arch, inputs.runtime);
  const files = new Map<string, Content>([
    ["install.sh", await shipped("install.sh", 0o755)],
    ["system/launch", await shipped("launch", 0o755)],
    ["system/tributary-gateway.service", await shipped("tributary-gateway.service", 0o644)],
    ["system/tributary.sysusers", await shipped("tributary.sysusers", 0o644)],
    ["trust.json", textOf(`${JSON.stringify({ fleet, jwks: inputs.jwks }, null, 2)}\n`)],
    ...(await softwareOf(inputs, runtime)),
    ...(setup === undefined ? [] : setupOf(setup)),
  ]);
  files.set("SHA256SUMS", textOf(sumsOf(files)));
  const bundle: Bundle = {
    fleet,
    version,
    minimumVersion,
    arch,
    node: runtime.version,
    for: setup === undefined ? null : { site: setup.site, gateway: setup.gateway },
    files: [...files]
      .map(([path, { mode, bytes }]) => ({
        path,
        mode,
        bytes: bytes.length,
        sha256: sha256(bytes),
      }))
      .sort((a, b) => (a.path < b.path ? -1 : 1)),
  };
  return { manifest: await sign(bundle), bundle, files };
}

/** What an update replaces: all of it lies under `release/`. */
async function softwareOf(
  { version, arch, deviceSdk }: BundleInputs,
  runtime: { readonly bytes: Uint8Array; readonly version: string },
): Promise<[string, Content][]> {
  const gateway = await bundleCode("gateway");
  const device = deviceSdk ? await bundleCode("device") : undefined;
  const native = await nativePart(arch);
  const nativePath = "app/native/classic-level.node";
  const packages = [
    ...new Map(
      [...gateway.packages, ...(device?.packages ?? [])].map((one) => [
        `${one.name}@${one.version}`,
        one,
      ]),
    ).values(),
  ].sort((a, b) => (`${a.name}@${a.version}` < `${b.name}@${b.version}` ? -1 : 1));
  const sbom = sbomOf({
    version,
    arch,
    packages,
    runtime: { version: runtime.version, sha256: sha256(runtime.bytes) },
    native: { package: nativePackage, path: nativePath, sha256: sha256(native) },
  });
  const software: [string, Content][] = [
    [
      "package.json",
      textOf(`${JSON.stringify({ name: "tributary", version, private: true, type: "module" })}\n`),
    ],
    ["app/bin/tributary.mjs", { mode: 0o755, bytes: gateway.bytes }],
    ["app/kernel/fold.wasm", { mode: 0o644, bytes: await readFile(kernelFile()) }],
    [nativePath, { mode: 0o644, bytes: native }],
    ["runtime/bin/node", { mode: 0o755, bytes: runtime.bytes }],
    ["sbom.cdx.json", { mode: 0o644, bytes: sbom }],
    ["LICENSES.txt", textOf(await licencesOf(packages))],
    ...(device === undefined
      ? []
      : [["app/bin/device.mjs", { mode: 0o755, bytes: device.bytes }] as [string, Content]]),
  ];
  return software.map(([path, content]) => [`release/${path}`, content]);
}

function setupOf({ config, claim, anchors }: Setup): [string, Content][] {
  return [
    ["setup/gateway.yaml", textOf(stringify(config))],
    ["setup/claim", { mode: 0o600, bytes: new TextEncoder().encode(`${claim}\n`) }],
    ["setup/anchors.pem", textOf(anchors.map((pem) => `${pem.trim()}\n`).join(""))],
  ];
}

/** As sha256sum(1) reads it, for a machine that has no Node yet. */
function sumsOf(files: ReadonlyMap<string, Content>): string {
  return [...files]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([path, { bytes }]) => `${sha256(bytes)}  ${path}\n`)
    .join("");
}

/** The licences of everything that the code carries; that of LevelDB's package counts for its native part. */
async function licencesOf(packages: readonly CarriedPackage[]): Promise<string> {
  const native = await describePackage(levelFolder());
  const all = packages.some(({ name }) => name === native.name) ? packages : [...packages, native];
  const rule = "=".repeat(80);
  return all
    .map(({ name, version, licence, licenceText }) =>
      [
        rule,
        `${name} ${version}${licence === "" ? "" : ` (${licence})`}`,
        rule,
        licenceText,
        "",
      ].join("\n"),
    )
    .join("\n");
}
