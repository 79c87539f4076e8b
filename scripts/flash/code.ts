import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, type Plugin } from "esbuild";

/** A package whose code is in a bundle. */
export type CarriedPackage = {
  readonly name: string;
  readonly version: string;
  /** An SPDX expression, or what else the package says; empty when it says nothing. */
  readonly licence: string;
  /** The text of its licence, where it has one. */
  readonly licenceText: string;
};

export type Code = {
  /** One ES module for Node 20 and later. */
  readonly bytes: Uint8Array;
  /** By name, then version. */
  readonly packages: readonly CarriedPackage[];
};

/** Whose command a single file is: the other tiers' commands in it say that they are not there. */
export type CodeOf = "gateway" | "device";

const tiers = ["gateway", "cloud", "device-sdk"] as const;
const own: Readonly<Record<CodeOf, (typeof tiers)[number]>> = {
  gateway: "gateway",
  device: "device-sdk",
};

const entry = fileURLToPath(new URL("../cli/main.js", import.meta.url));
/** Above `scripts/`: paths in the code are named from here, so that they are the same everywhere. */
const root = fileURLToPath(new URL("../../../", import.meta.url));

/** What CommonJS code of packages expects to find in a module. */
const banner =
  "import{createRequire as tributaryRequire}from'node:module';const require=tributaryRequire(import.meta.url);";

/**
 * The whole command as one file, for a machine with nothing but Node. The file looks for
 * `../kernel/fold.wasm`, `../native/classic-level.node` and `../../package.json` beside itself.
 */
export async function bundleCode(of: CodeOf): Promise<Code> {
  const absent = tiers.filter((tier) => tier !== own[of]);
  const { outputFiles, metafile } = await build({
    entryPoints: [entry],
    absWorkingDir: root,
    bundle: true,
    write: false,
    metafile: true,
    platform: "node",
    format: "esm",
    target: "node20",
    charset: "utf8",
    legalComments: "none", // licences are carried whole, in a file of their own
    sourcemap: false,
    banner: { js: banner },
    outfile: join(root, "tributary.mjs"),
    logLevel: "silent",
    plugins: [leaveOut(absent), besideTheFile()],
  });
  const [file] = outputFiles;
  if (file === undefined) throw new Error("esbuild wrote no file");
  return { bytes: file.contents, packages: await packagesOf(Object.keys(metafile.inputs)) };
}

/**
 * What this machine never runs: other tiers, and what makes bundles. A command that loads such a part
 * when it runs says that it is not there; the little that the command tree itself needs of one stays.
 */
function leaveOut(absent: readonly string[]): Plugin {
  const filter = new RegExp(`^@tributary/(?:${absent.join("|")})/|^(?:esbuild|cbor-extract)$`);
  return {
    name: "leave-out",
    setup(made) {
      made.onResolve({ filter }, ({ path, kind }) =>
        kind === "dynamic-import" || !path.startsWith("@tributary/")
          ? { path, namespace: "left-out" }
          : undefined,
      );
      made.onLoad({ filter: /.*/, namespace: "left-out" }, ({ path }) => ({
        contents: `const left = new Error(${JSON.stringify(`${path} is not part of this installation`)});
delete left.stack; // what it says is all there is to know
throw left;`,
        loader: "js",
      }));
    },
  };
}

const NATIVE = "../native/classic-level.node";

/** LevelDB's native part is looked for in one place, not by its package's search. */
function besideTheFile(): Plugin {
  return {
    name: "beside-the-file",
    setup(made) {
      made.onLoad({ filter: /[\\/]classic-level[\\/]binding\.js$/ }, () => ({
        contents: `module.exports = require("${NATIVE}");`,
        loader: "js",
      }));
      made.onResolve({ filter: /native\/classic-level\.node$/ }, () => ({
        path: NATIVE,
        external: true,
      }));
    },
  };
}

const licenceNames = ["LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "license", "COPYING"];

async function packagesOf(inputs: readonly string[]): Promise<CarriedPackage[]> {
  const folders = new Set(inputs.flatMap((input) => packageFolder(input) ?? []));
  const packages = await Promise.all([...folders].map((folder) => describePackage(folder)));
  const byName = new Map(packages.map((found) => [`${found.name}@${found.version}`, found]));
  return [...byName.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, found]) => found);
}

/** The folder of the package that a file is of; undefined for our own. */
function packageFolder(input: string): string | undefined {
  const at = input.lastIndexOf("node_modules/");
  if (at < 0 || input.includes(":")) return undefined;
  const [scope = "", name = ""] = input.slice(at + "node_modules/".length).split("/");
  const folder = scope.startsWith("@") ? `${scope}/${name}` : scope;
  return join(root, input.slice(0, at), "node_modules", folder);
}

/** Reads what a package says of itself. */
export async function describePackage(folder: string): Promise<CarriedPackage> {
  const manifest = JSON.parse(await readFile(join(folder, "package.json"), "utf8")) as {
    name?: unknown;
    version?: unknown;
    license?: unknown;
  };
  let licenceText = "";
  for (const name of licenceNames) {
    licenceText = await readFile(join(folder, name), "utf8").catch(() => "");
    if (licenceText !== "") break;
  }
  return {
    name: String(manifest.name),
    version: String(manifest.version),
    licence: typeof manifest.license === "string" ? manifest.license : "",
    licenceText: licenceText.replaceAll("\r\n", "\n").trim(),
  };
}

/** The folder of LevelDB's package, found as the gateway's code finds it. */
export function levelFolder(): string {
  const level = createRequire(import.meta.resolve("@tributary/gateway/main.js")).resolve("level");
  return dirname(createRequire(level).resolve("classic-level/package.json"));
}

/** The kernel as it was compiled. */
export function kernelFile(): string {
  return fileURLToPath(
    new URL("../kernel/fold.wasm", import.meta.resolve("@tributary/proto/host/wasm.js")),
  );
}
