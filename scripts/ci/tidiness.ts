import { execFileSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const allowedNames: ReadonlySet<string> = new Set([
  "README.md",
  "cloud",
  "device-sdk",
  "gateway",
  "package.json",
  "proto",
  "scripts",
  "test",
  "tsconfig.json",
]);

/** Dot files, lock files and licence files. */
const allowedForms = /^(\..+|.*[-.]lock(\.\w+)?|LICEN[CS]E(\.\w+)?|NOTICE)$/;

/** The names at the top level that do not belong there. */
export function strayNames(names: readonly string[]): readonly string[] {
  return names.filter((name) => !allowedNames.has(name) && !allowedForms.test(name));
}

/** The names at the top level: what git tracks, or without git what lies there but node_modules. */
export function topLevelNames(root: string): readonly string[] {
  if (!existsSync(join(root, ".git"))) {
    return readdirSync(root).filter((name) => name !== "node_modules");
  }
  const options = { cwd: root, encoding: "utf8" } as const;
  const tracked = execFileSync("git", ["ls-files", "-z"], options).split("\0");
  return [
    ...new Set(tracked.filter((path) => path !== "").map((path) => path.split("/")[0] ?? "")),
  ];
}

/**
 * The entries of an npm lock file that say where they come from, or that lack a digest. A lock
 * file that names no host works with whichever registry npm is set to.
 */
export function lockFileProblems(text: string): readonly string[] {
  const lock: unknown = JSON.parse(text);
  if (typeof lock !== "object" || lock === null || !("packages" in lock)) {
    return ["it has no packages"];
  }
  const entries = Object.entries(lock.packages as Readonly<Record<string, LockEntry>>);
  const installed = entries.filter(([path]) => path.startsWith("node_modules/"));
  if (installed.length === 0) return ["it locks no package"];
  return entries.flatMap(([path, { resolved, integrity, link }]) => {
    const problems: string[] = [];
    if (resolved !== undefined && /^[a-z+]+:/.test(resolved)) {
      problems.push(`${path} names a host: ${resolved}`);
    }
    if (path.includes("node_modules/") && link !== true && integrity === undefined) {
      problems.push(`${path} has no integrity digest`);
    }
    return problems;
  });
}

type LockEntry = {
  readonly resolved?: string;
  readonly integrity?: string;
  readonly link?: boolean;
};
