import { readdirSync, readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository's root directory, found from this compiled file (scripts/dist/ci/). */
export const repositoryRoot: string = fileURLToPath(new URL("../../../", import.meta.url));

/** Folders that hold no source of ours. */
const skippedFolders: ReadonlySet<string> = new Set(["node_modules", "dist", ".git"]);

/** The workspace folders that the root package.json names, as paths with `/`. */
export function workspaceFolders(root: string): readonly string[] {
  const manifest: unknown = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  if (typeof manifest !== "object" || manifest === null || !("workspaces" in manifest)) {
    throw new Error(`${join(root, "package.json")} names no workspaces`);
  }
  const { workspaces } = manifest;
  if (!Array.isArray(workspaces) || !workspaces.every((entry) => typeof entry === "string")) {
    throw new Error(`"workspaces" in ${join(root, "package.json")} is not a list of folders`);
  }
  return workspaces;
}

/**
 * Every file below `folder` whose name ends with `ending`, sorted, as paths relative to `folder`
 * with `/`. Folders in `skip` are not entered; a folder that does not exist holds no file.
 */
export function filesBelow(
  folder: string,
  ending: string,
  skip: ReadonlySet<string> = skippedFolders,
): readonly string[] {
  const found: string[] = [];
  const visit = (directory: string): void => {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = join(directory, entry.name);
      if (entry.isDirectory()) {
        if (!skip.has(entry.name)) visit(path);
      } else if (entry.name.endsWith(ending)) {
        found.push(relative(folder, path).split(sep).join("/"));
      }
    }
  };
  try {
    visit(folder);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
  }
  return found.sort();
}
