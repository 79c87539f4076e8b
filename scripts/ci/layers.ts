import { isBuiltin } from "node:module";
import { posix } from "node:path";
import { packageName, readImports, type SourceImport, type SourceImports } from "./imports.js";

export type Violation = {
  readonly file: string;
  readonly line: number;
  readonly message: string;
};

export type House = {
  /** Each workspace folder with its package name. */
  readonly packages: readonly { readonly folder: string; readonly name: string }[];
};

/** Which of our folders each workspace folder may import. A folder that is not named may import none. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  proto: [],
  gateway: ["proto"],
  cloud: ["proto"],
  "device-sdk/typescript": ["proto"],
  scripts: ["proto", "gateway", "cloud", "device-sdk/typescript"],
  test: ["proto", "gateway", "cloud", "device-sdk/typescript", "scripts"],
};

/**
 * The rooms of proto that may touch Node: the host's ports, what serves gateways, keys and what they
 * sign, what buf generates, the vectors' makers.
 */
const nodeRooms = ["proto/host/", "proto/tier/", "proto/identity/", "proto/gen/", "proto/vectors/"];

/** Judges every import against the layer rules. */
export function layerViolations(house: House, { imports }: SourceImports): readonly Violation[] {
  return imports.flatMap((entry) => {
    const message = judge(house, entry);
    return message === undefined ? [] : [{ file: entry.file, line: entry.line, message }];
  });
}

function judge({ packages }: House, { file, specifier }: SourceImport): string | undefined {
  const home = packages.find(({ folder }) => file.startsWith(`${folder}/`));
  if (home === undefined) return "the file is in no workspace";
  if (specifier.startsWith(".")) {
    const target = posix.join(posix.dirname(file), specifier);
    if (/^proto\/(?!tier\/)/.test(file) && target.startsWith("proto/tier/")) {
      return `"${specifier}" leads into proto/tier, which only those who serve gateways import`;
    }
    if (target.startsWith(`${home.folder}/`)) return undefined;
    return `"${specifier}" leaves ${home.folder}/; import another package by its name`;
  }
  if (specifier.startsWith("/") || specifier.startsWith("file:")) {
    return `"${specifier}" is an absolute path`;
  }
  if (isBuiltin(specifier)) return judgeBuiltin(file, specifier);
  const target = packages.find(
    ({ name }) => specifier === name || specifier.startsWith(`${name}/`),
  );
  if (target === undefined || target === home) return undefined;
  if (home.folder.startsWith("device-sdk/") && specifier.startsWith(`${target.name}/tier/`)) {
    return `"${specifier}" serves gateways: a device installs without gRPC`;
  }
  if (mayImport[home.folder]?.includes(target.folder)) return undefined;
  return `${home.folder} may not import ${target.name}`;
}

function judgeBuiltin(file: string, specifier: string): string | undefined {
  if (!specifier.startsWith("node:")) return `write "node:${specifier}"`;
  if (!file.startsWith("proto/") || file.endsWith(".test.ts")) return undefined;
  if (nodeRooms.some((room) => file.startsWith(room))) return undefined;
  return `only proto/host, proto/tier and proto/identity touch Node; "${specifier}" does not belong here`;
}

/** Reads the whole house and judges it. Throws when there is nothing to read. */
export function checkLayers(
  root: string,
  folders: readonly string[],
): { readonly filesRead: number; readonly violations: readonly Violation[] } {
  const packages = folders.map((folder) => ({ folder, name: packageName(root, folder) }));
  const read = readImports(root);
  if (read.files.length === 0) throw new Error(`no TypeScript source was read below ${root}`);
  return { filesRead: read.files.length, violations: layerViolations({ packages }, read) };
}
