import { link, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { TributaryError } from "../wire/errors.js";
import { makeDirectory } from "./directory.js";
import { dataDirFailure } from "./disk-failure.js";
import { systemRandom } from "./random.js";

export type Lock = { release(): Promise<void> };

/** A takeover takes milliseconds: one that is older was left by a process that died in it. */
const TAKEOVER_MS = 10_000;
/**
 * How long an owner is waited for: a living one may be stopping; one that is being killed ends when
 * its disk answers; the lock of a dead one is free once nobody is in the middle of taking it over.
 */
const PATIENCE_MS = { on: 1_000, ending: 30_000, over: 2 * TAKEOVER_MS } as const;
const POLL_MS = 10;

/**
 * Takes a data directory for this process. Two processes on one directory would hand out the same
 * sequence numbers, so a second one is refused with `data-dir-locked`, once its owner has had a moment
 * to end. A lock whose owner is gone is taken over, by one process at a time; the owner's start time
 * tells a process from a later one with its number. A directory that cannot be made or written is
 * refused with a code of the disk's.
 */
export async function acquireLock(dir: string): Promise<Lock> {
  await makeDirectory(dir).catch((cause: unknown) => {
    throw dataDirFailure(dir, cause);
  });
  const path = join(dir, "LOCK");
  const own = `${process.pid} ${(await statOf(process.pid))?.startTime ?? "unknown"} ${systemRandom().id(12)}`;
  for (const sinceMs = performance.now(); ; ) {
    if (await place(path, own)) {
      await sweep(dir).catch(() => {}); // the next start tries again
      return {
        async release() {
          if ((await contentOf(path)) === own) await rm(path, { force: true });
        },
      };
    }
    const owner = (await contentOf(path)) ?? "";
    const life = await lifeOf(owner);
    if (performance.now() - sinceMs > PATIENCE_MS[life]) throw inUse(dir, owner);
    if (life === "over") await takeOver(path, own);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
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
  try {
    await writeFile(prepared, content);
    await link(prepared, path);
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw dataDirFailure(path, cause);
  } finally {
    // On a disk that takes no writes it may not be there, or it stays for the next start to remove.
    await rm(prepared, { force: true }).catch(() => {});
  }
}

/** Removes what processes that died while they took the directory had prepared. */
async function sweep(dir: string): Promise<void> {
  for (const name of await readdir(dir)) {
    if (!/^LOCK(-takeover)?\../.test(name)) continue;
    const path = join(dir, name);
    const content = (await contentOf(path)) ?? "";
    // One that is empty may be about to be written.
    const gone =
      content === "" ? (await ageOf(path)) > TAKEOVER_MS : (await lifeOf(content)) === "over";
    if (gone) await rm(path, { force: true });
  }
}

/** In milliseconds. A file from the future is as old: the clock was set back since. */
async function ageOf(path: string): Promise<number> {
  const nowMs = Date.now();
  return Math.abs(nowMs - ((await stat(path).catch(() => undefined))?.mtimeMs ?? nowMs));
}

/** Removes a lock whose owner is gone. Only the holder of the takeover lock may remove one. */
async function takeOver(path: string, own: string): Promise<void> {
  const takeover = `${path}-takeover`;
  if (!(await place(takeover, own))) {
    if ((await ageOf(takeover)) > TAKEOVER_MS) await rm(takeover, { force: true });
    return; // the other one is about to finish
  }
  try {
    const owner = await contentOf(path);
    if (owner !== undefined && (await lifeOf(owner)) === "over") await rm(path, { force: true });
  } finally {
    await rm(takeover, { force: true });
  }
}

function contentOf(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch(() => undefined);
}

/** `ending`: it was killed and runs no code any more, but what it wrote last may be on its way. */
type Life = keyof typeof PATIENCE_MS;

async function lifeOf(owner: string): Promise<Life> {
  const [pidText = "", startTime] = owner.split(" ");
  const pid = Number(pidText);
  if (!Number.isInteger(pid) || pid <= 0) return "over";
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM" ? "on" : "over";
  }
  const found = await statOf(pid);
  if (found === undefined) return "on";
  if (startTime !== "unknown" && found.startTime !== startTime) return "over";
  // Its parent has not taken note of its end: it has a number still, and no threads.
  if (found.isZombie && found.threads <= 1) return "over";
  return found.isZombie || found.isExiting ? "ending" : "on";
}

const PF_EXITING = 0x4;

/** Of /proc/PID/stat (proc(5)); undefined where there is none: it is there on Linux only. */
async function statOf(pid: number) {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  // The second field, the program's name, may hold spaces and brackets.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const field = (number: number) => fields[number - 3] ?? "";
  return {
    isZombie: ["Z", "X"].includes(field(3)),
    isExiting: (Number(field(9)) & PF_EXITING) !== 0,
    threads: Number(field(20)),
    /** In clock ticks since boot. */
    startTime: field(22),
  };
}
