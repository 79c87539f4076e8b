import { mkdir, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";

/**
 * Makes a directory and those above it. One step at a time: a recursive `mkdir` never ends where the
 * system says of a directory that is there that it is not, as in /proc. Rejects as the system does.
 */
export async function makeDirectory(path: string): Promise<void> {
  const missing: string[] = [];
  let at = resolve(path);
  while (!(await isDirectory(at))) {
    missing.unshift(at);
    if (dirname(at) === at) break;
    at = dirname(at);
  }
  for (const dir of missing) {
    await mkdir(dir).catch(async (cause: NodeJS.ErrnoException) => {
      // Somebody else may make it at the same time; a file of that name is in the way.
      if (cause.code !== "EEXIST" || !(await isDirectory(dir))) throw cause;
    });
  }
}

async function isDirectory(path: string): Promise<boolean> {
  const found = await stat(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== "ENOENT") throw cause;
  });
  return found?.isDirectory() ?? false;
}
