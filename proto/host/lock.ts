import { link, mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { TributaryError } from "../wire/errors.js";
import { systemRandom } from "./random.js";

export type Lock = { release(): Promise<void> };

/** A takeover takes milliseconds: one that is older was left by a process that died in it. */
const TAKEOVER_MS = 10_000;
const ATTEMPTS = 200;

/**
 * Takes a data directory for this process. Two processes on one directory would hand out the same
 * sequence numbers, so a second one is refused with `data-dir-locked`. A lock whose owner is gone
 * is taken over, by one process at a time; the owner's start time tells a process from a later one
 * with its number.
 */
export async function acquireLock(dir: string): Promise<Lock> {
  await mkdir(dir, { recursive: true });
  const path = join(dir, "LOCK");
  const own = `${process.pid} ${(await startTimeOf(process.pid)) ?? "unknown"} ${systemRandom().id(12)}`;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (await place(path, own)) {
      return {
        async release() {
          if ((await contentOf(path)) === own) await rm(path, { force: true });
        },
      };
    }
    const owner = await contentOf(path);
    if (owner !== undefined && (await isAlive(owner))) throw inUse(dir, owner);
    await takeOver(path, own);
  }
  throw inUse(dir, (await contentOf(path)) ?? "");
}

function inUse(dir: string, owner: string): TributaryError {
  return new TributaryError(
    "data-dir-locked",
    `${dir} is in use by process ${owner.split(" ")[0]}. Stop it, or give this one another dataDir.`,
  );
}

/** Makes the file with its content in one step; false when it is there already. */
async function place(path: string, content: string): Promise<boolean> {
  const prepared = `${path}.${content.split(" ").at(-1)}`;
  await writeFile(prepared, content);
  try {
    await link(prepared, path);
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw new TributaryError("disk-failed", `cannot make the lock ${path}`, { cause });
  } finally {
    await rm(prepared, { force: true });
  }
}

/** Removes a lock whose owner is gone. Only the holder of the takeover lock may remove one. */
async function takeOver(path: string, own: string): Promise<void> {
  const takeover = `${path}-takeover`;
  if (!(await place(takeover, own))) {
    const age = Date.now() - ((await stat(takeover).catch(() => undefined))?.mtimeMs ?? Date.now());
    // A file from the future is as old: the clock was set back since.
    if (Math.abs(age) > TAKEOVER_MS) await rm(takeover, { force: true });
    // The other one is about to finish: let it, then look again.
    await new Promise((resolve) => setTimeout(resolve, 10));
    return;
  }
  try {
    const owner = await contentOf(path);
    if (owner !== undefined && !(await isAlive(owner))) await rm(path, { force: true });
  } finally {
    await rm(takeover, { force: true });
  }
}

function contentOf(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch(() => undefined);
}

async function isAlive(owner: string): Promise<boolean> {
  const [pidText = "", startTime] = owner.split(" ");
  const pid = Number(pidText);
  if (!Number.isInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  const running = await startTimeOf(pid);
  return running === undefined || startTime === "unknown" || running === startTime;
}

/** Start time in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)). Linux only. */
async function startTimeOf(pid: number): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  // The second field, the program's name, may hold spaces and brackets.
  return text?.slice(text.lastIndexOf(")") + 2).split(" ")[19];
}
