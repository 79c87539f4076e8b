import { mkdir, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { TributaryError } from "../wire/errors.js";

export type Lock = { release(): Promise<void> };

/**
 * Takes a data directory for this process. Two processes on one directory would hand out the same
 * sequence numbers, so a second one is refused with `data-dir-locked`. A lock whose owner is gone
 * is taken over; the owner's start time tells a process from a later one with its number.
 */
export async function acquireLock(dir: string): Promise<Lock> {
  await mkdir(dir, { recursive: true });
  const path = join(dir, "LOCK");
  const own = `${process.pid} ${(await startTimeOf(process.pid)) ?? "unknown"}`;
  for (let attempt = 0; ; attempt++) {
    try {
      const handle = await open(path, "wx");
      await handle.writeFile(own);
      await handle.sync();
      await handle.close();
      return { release: () => rm(path, { force: true }) };
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "EEXIST") {
        throw new TributaryError("disk-failed", `cannot lock ${dir}`, { cause });
      }
    }
    const owner = await readFile(path, "utf8").catch(() => "");
    if (attempt >= 3 || (await isAlive(owner))) {
      const pid = owner.split(" ")[0] ?? "";
      throw new TributaryError(
        "data-dir-locked",
        `${dir} is in use by process ${pid}. Stop it, or give this one another dataDir.`,
      );
    }
    await rm(path, { force: true });
  }
}

async function isAlive(owner: string): Promise<boolean> {
  const [pidText = "", startTime] = owner.split(" ");
  const pid = Number(pidText);
  // An empty file: its owner stopped between making and filling it.
  if (!Number.isInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  const running = await startTimeOf(pid);
  return running === undefined || startTime === undefined || running === startTime;
}

/** Start time in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)). Linux only. */
async function startTimeOf(pid: number): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  // The second field, the program's name, may hold spaces and brackets.
  return text?.slice(text.lastIndexOf(")") + 2).split(" ")[19];
}
