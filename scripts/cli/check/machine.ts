import { mkdir, open, readFile, rm, stat, statfs } from "node:fs/promises";
import { createServer } from "node:net";
import { dirname, join, resolve } from "node:path";
import { buildDateMs } from "@tributary/gateway/build-date.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { reasonOf } from "../failure.js";
import { bytes } from "../text/words.js";
import { type Finding, failure, fine, warning } from "./finding.js";

/** A clock that is further off than this spoils what expires. */
const offsetMaxMs = 60_000;
const probeBytes = 64 * 1024;

/** `offsetMs`: how far a running gateway found this clock to be from the site's time. */
export function checkClock(nowMs: number, offsetMs = 0): Finding {
  const now = new Date(nowMs).toISOString();
  const advice = "Set the clock, and let NTP or a battery keep it: timedatectl set-ntp true.";
  if (nowMs < buildDateMs) {
    const built = new Date(buildDateMs).toISOString();
    return failure("clock", `${now} is before this software was built (${built})`, advice);
  }
  if (Math.abs(offsetMs) > offsetMaxMs) {
    const off = Math.round(Math.abs(offsetMs) / 1_000);
    const which = offsetMs < 0 ? "behind" : "ahead";
    return warning("clock", `${now} is ${off} s ${which} of what the gateway knows`, advice);
  }
  return fine("clock", now);
}

/** Free space, and one file written, synced and removed. A folder that is not there is not made. */
export async function checkDisk(dataDir: string, leastBytes: number): Promise<readonly Finding[]> {
  const dir = await nearestFolder(resolve(dataDir));
  const findings: Finding[] = [];
  try {
    const { bavail, bsize } = await statfs(dir);
    const free = bavail * bsize;
    const detail = `${bytes(free)} free at ${dir}`;
    findings.push(
      free >= leastBytes
        ? fine("disk space", detail)
        : warning(
            "disk space",
            `${detail}, less than the ${bytes(leastBytes)} that may be needed`,
            "Free space, or lower budgetBytes and reserveDiskBytes.",
          ),
    );
  } catch (error) {
    findings.push(
      failure("disk space", `${dir}: ${reasonOf(error)}`, "Mount the disk, or mend dataDir."),
    );
  }
  return [...findings, await tryWriting(dir)];
}

async function nearestFolder(path: string): Promise<string> {
  for (let dir = path; ; dir = dirname(dir)) {
    if (dir === dirname(dir)) return dir;
    if (await stat(dir).catch((error) => (error as NodeJS.ErrnoException).code !== "ENOENT")) {
      return dir;
    }
  }
}

async function tryWriting(dir: string): Promise<Finding> {
  const probe = join(dir, `.tributary-check-${systemRandom().id(12)}`);
  try {
    await mkdir(probe);
    const file = await open(join(probe, "file"), "wx", 0o600);
    try {
      // Not zeros: a file system may keep those as a hole.
      await file.writeFile(Buffer.alloc(probeBytes, "tributary"));
      await file.sync();
    } finally {
      await file.close();
    }
    return fine("disk write", `written and synced at ${dir}`);
  } catch (error) {
    const advice = "Let this user write there, free space, or remount the disk read-write.";
    return failure("disk write", `${dir}: ${reasonOf(error)}`, advice);
  } finally {
    await rm(probe, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** The process that holds a data directory, if one lives. */
export async function holderOf(dataDir: string): Promise<number | undefined> {
  const text = await readFile(join(dataDir, "LOCK"), "utf8").catch(() => "");
  const pid = Number(/^(\d{1,10}) /.exec(text)?.[1] ?? 0);
  if (pid === 0) return undefined;
  try {
    process.kill(pid, 0);
    return pid;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM" ? pid : undefined;
  }
}

/** Whether a port can be listened on; `own`: a running tier of this config is taken to hold it. */
export async function checkPort(
  setting: string,
  { host, port }: { readonly host: string; readonly port: number },
  own: boolean,
): Promise<Finding> {
  const name = `port ${setting}`;
  const server = createServer();
  const code = await new Promise<string | undefined>((done) => {
    server.once("error", (error: NodeJS.ErrnoException) => done(error.code ?? error.message));
    server.listen({ host, port, exclusive: true }, () => server.close(() => done(undefined)));
  });
  const at = `${host}:${port}`;
  if (own) {
    return code === "EADDRINUSE"
      ? fine(name, `${at} is held by the running process`)
      : warning(name, `${at} is free although it runs`, "Restart it: its config has changed.");
  }
  if (code === undefined) return fine(name, port === 0 ? "any free port" : `${at} is free`);
  const what = code === "EADDRINUSE" ? "is held by another process" : `cannot be used: ${code}`;
  const advice =
    code === "EADDRINUSE"
      ? `Stop that process (ss -ltnp 'sport = :${port}'), or set ${setting}.port.`
      : `Set ${setting} to an address of this machine and a port that this user may use.`;
  return failure(name, `${at} ${what}`, advice);
}
