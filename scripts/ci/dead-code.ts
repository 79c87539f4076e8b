import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { workspaceFolders } from "./house.js";
import { packageName } from "./imports.js";
import { runTool, type ToolResult } from "./tool.js";

const notCopied: ReadonlySet<string> = new Set(["node_modules", "dist", ".git"]);

/**
 * Runs knip for unused files, exports and dependencies. Knip takes every file that a package's
 * `exports` pattern can reach for an entry, which here is all of them, and would find nothing dead.
 * So it looks at a copy of the sources in which the packages export by plain path.
 */
export async function checkDeadCode(root: string): Promise<ToolResult> {
  const shadow = mkdtempSync(join(tmpdir(), "tributary-dead-code-"));
  try {
    copySources(root, shadow);
    const folders = workspaceFolders(root);
    for (const folder of folders) exportByPath(join(shadow, folder, "package.json"));
    linkModules(root, shadow, folders);
    return await runTool(shadow, "knip", ["--no-progress"]);
  } finally {
    rmSync(shadow, { recursive: true, force: true });
  }
}

function copySources(root: string, shadow: string): void {
  cpSync(root, shadow, {
    recursive: true,
    filter: (source) => source === root || !notCopied.has(basename(source)),
  });
}

function exportByPath(manifestPath: string): void {
  const manifest: unknown = JSON.parse(readFileSync(manifestPath, "utf8"));
  const changed = Object.assign({}, manifest, { exports: { "./*": "./*" } });
  writeFileSync(manifestPath, JSON.stringify(changed));
}

/** Links what npm installed into the copy, and the workspaces to their copies. */
function linkModules(root: string, shadow: string, folders: readonly string[]): void {
  const modules = join(shadow, "node_modules");
  const ours = new Map(folders.map((folder) => [packageName(root, folder), folder]));
  const link = (target: string, name: string): void => {
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(target, join(modules, name));
  };
  for (const name of readdirSync(join(root, "node_modules"))) {
    const scoped = name.startsWith("@") ? readdirSync(join(root, "node_modules", name)) : [];
    const names = name.startsWith("@") ? scoped.map((part) => `${name}/${part}`) : [name];
    for (const each of names) {
      if (!ours.has(each)) link(join(root, "node_modules", each), each);
    }
  }
  for (const [name, folder] of ours) link(join(shadow, folder), name);
}
