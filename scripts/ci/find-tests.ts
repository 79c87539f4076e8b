import { existsSync } from "node:fs";
import { join } from "node:path";
import { filesBelow, workspaceFolders } from "./house.js";

export type TestFile = {
  /** Path of the source, relative to the repository's root. */
  readonly source: string;
  /** Absolute path of the compiled file that runs. */
  readonly compiled: string;
};

export type FoundTests = {
  readonly files: readonly TestFile[];
  /** Compiled tests whose source is gone; they are not run. */
  readonly stale: readonly string[];
  /** Tests in the source whose compiled file does not exist. */
  readonly unbuilt: readonly TestFile[];
};

const enterAll: ReadonlySet<string> = new Set(["node_modules"]);

/** Pairs every `*.test.ts` of the workspaces with its compiled `dist` file. */
export function findTests(root: string): FoundTests {
  const files: TestFile[] = [];
  const stale: string[] = [];
  const unbuilt: TestFile[] = [];
  for (const workspace of workspaceFolders(root)) {
    const folder = join(root, workspace);
    for (const path of filesBelow(join(folder, "dist"), ".test.js", enterAll)) {
      const source = path.replace(/\.js$/, ".ts");
      if (existsSync(join(folder, source))) {
        files.push({ source: `${workspace}/${source}`, compiled: join(folder, "dist", path) });
      } else {
        stale.push(`${workspace}/dist/${path}`);
      }
    }
    for (const source of filesBelow(folder, ".test.ts")) {
      const compiled = join(folder, "dist", source.replace(/\.ts$/, ".js"));
      if (!existsSync(compiled)) unbuilt.push({ source: `${workspace}/${source}`, compiled });
    }
  }
  return { files, stale, unbuilt };
}

/** The test files whose source path contains any of the patterns; all when there is no pattern. */
export function matching(
  files: readonly TestFile[],
  patterns: readonly string[],
): readonly TestFile[] {
  if (patterns.length === 0) return files;
  return files.filter((file) => patterns.some((pattern) => file.source.includes(pattern)));
}
