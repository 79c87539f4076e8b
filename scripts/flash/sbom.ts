import { createHash } from "node:crypto";
import type { BundleArch } from "@tributary/proto/identity/bundle.js";
import type { CarriedPackage } from "./code.js";

export type SbomParts = {
  readonly version: string;
  readonly arch: BundleArch;
  readonly packages: readonly CarriedPackage[];
  readonly runtime: { readonly version: string; readonly sha256: string };
  /** The native part of a package, as it lies in the bundle. */
  readonly native: { readonly package: string; readonly path: string; readonly sha256: string };
};

const MAIN = "tributary";

/**
 * What a bundle consists of, in CycloneDX 1.6 (ECMA-424). It holds no time and its serial number
 * follows from its content, so that the same parts give the same bytes.
 */
export function sbomOf(parts: SbomParts): Uint8Array {
  const body = bodyOf(parts);
  const digest = createHash("sha256").update(JSON.stringify(body)).digest("hex");
  const document = {
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    serialNumber: `urn:uuid:${uuidOf(digest)}`,
    version: 1,
    ...body,
  };
  return new TextEncoder().encode(`${JSON.stringify(document, null, 2)}\n`);
}

function bodyOf({ version, arch, packages, runtime, native }: SbomParts) {
  const sha256 = (content: string) => [{ alg: "SHA-256", content }];
  const node = `node@${runtime.version}`;
  const components = [
    {
      type: "application",
      "bom-ref": node,
      name: "node",
      version: runtime.version,
      cpe: `cpe:2.3:a:nodejs:node.js:${runtime.version}:*:*:*:*:*:*:*`,
      hashes: sha256(runtime.sha256),
      licenses: [{ license: { id: "MIT" } }],
      properties: [{ name: "tributary:arch", value: arch }],
    },
    ...packages.map((found) => ({
      type: "library",
      "bom-ref": purlOf(found),
      name: found.name,
      version: found.version,
      purl: purlOf(found),
      ...(found.licence === "" ? {} : { licenses: [licenceOf(found.licence)] }),
      ...(found.name === native.package
        ? { components: [{ type: "file", name: native.path, hashes: sha256(native.sha256) }] }
        : {}),
    })),
  ];
  return {
    metadata: {
      component: {
        type: "application",
        "bom-ref": `${MAIN}@${version}`,
        name: MAIN,
        version,
        licenses: [{ license: { id: "Apache-2.0" } }],
      },
    },
    components,
    dependencies: [{ ref: `${MAIN}@${version}`, dependsOn: [node, ...packages.map(purlOf)] }],
  };
}

/** A package's address (package URL specification, type npm: the scope's @ is encoded). */
function purlOf({ name, version }: Pick<CarriedPackage, "name" | "version">): string {
  return `pkg:npm/${name.replace(/^@/, "%40")}@${version}`;
}

/** One identifier of SPDX, or an expression of several. */
function licenceOf(licence: string) {
  return /^[A-Za-z0-9.+-]+$/.test(licence) ? { license: { id: licence } } : { expression: licence };
}

/** A UUID of version 8 (RFC 9562, 5.8) from the first bits of a digest. */
function uuidOf(digest: string): string {
  const [, a, b, c, d, e] = /^(.{8})(.{4}).(.{3}).(.{3})(.{12})/.exec(digest) ?? [];
  return `${a}-${b}-8${c}-8${d}-${e}`;
}
