import { readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { API } from "typescript/unstable/sync";
import { filesBelow, workspaceFolders } from "./house.js";

export type SourceImport = {
  /** Path of the importing file, relative to the root, with `/`. */
  readonly file: string;
  /** The 1-based line of the specifier. */
  readonly line: number;
  /** What the source says between the quotes. */
  readonly specifier: string;
};

export type SourceImports = {
  /** Every file that was parsed, also those that import nothing. */
  readonly files: readonly string[];
  readonly imports: readonly SourceImport[];
};

/** AssemblyScript sources are no part of a TypeScript program; they import nothing. */
const kernelSource = /\.as\.ts$/;

/**
 * Reads the imports of every workspace's TypeScript, as the compiler itself sees them: static,
 * dynamic, type-only and re-exports. Throws when a source on disk is in no program of the
 * compiler, because a file that nobody reads would pass every rule.
 */
export function readImports(root: string): SourceImports {
  const api = new API({ cwd: root });
  try {
    const files = new Set<string>();
    const imports: SourceImport[] = [];
    for (const workspace of workspaceFolders(root)) {
      const config = join(root, workspace, "tsconfig.json");
      const project = api.updateSnapshot({ openProjects: [config] }).getProject(config);
      for (const path of project?.rootFiles ?? []) {
        const source = project?.program.getSourceFile(path);
        if (source === undefined) continue;
        const file = relative(root, path).split(sep).join("/");
        files.add(file);
        for (const node of source.imports) {
          const specifier = "text" in node ? String(node.text) : "";
          const { line } = source.getLineAndCharacterOfPosition(node.end);
          imports.push({ file, line: line + 1, specifier });
        }
      }
      const sources = filesBelow(join(root, workspace), ".ts");
      const unread = sources
        .map((path) => `${workspace}/${path}`)
        .filter((path) => !files.has(path) && !kernelSource.test(path));
      if (unread.length > 0) throw new Error(`not read by the compiler: ${unread.join(", ")}`);
    }
    return { files: [...files], imports };
  } finally {
    api.close();
  }
}

/** The name in a workspace's package.json. */
export function packageName(root: string, workspace: string): string {
  const manifest: unknown = JSON.parse(readFileSync(join(root, workspace, "package.json"), "utf8"));
  if (typeof manifest !== "object" || manifest === null || !("name" in manifest)) {
    throw new Error(`${workspace}/package.json has no name`);
  }
  return String(manifest.name);
}
