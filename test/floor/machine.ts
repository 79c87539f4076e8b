import { spawn, spawnSync } from "node:child_process";
import { chownSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { createEventLog } from "./event-log.js";

type Line = { readonly name: string } & Readonly<Record<string, unknown>>;

/** A machine's file system under a folder, on which what was installed runs as it would there. */
export type Machine = {
  readonly root: string;
  /** Runs its service's program, again whenever it ends, as systemd does by `Restart=always`. */
  start(): Service;
};

export type Service = {
  event(name: string, fields?: Readonly<Record<string, unknown>>): Promise<Line>;
  count(name: string, fields?: Readonly<Record<string, unknown>>): number;
  /** What its starts wrote beside their events, by line. */
  readonly complaints: readonly string[];
  /** How often it was started. */
  readonly starts: number;
  /** Ends the process that runs, as `systemctl restart` does; the next one is started. */
  restart(): void;
  stop(): Promise<void>;
};

/** Of nobody, who owns nothing else: the service's user on such a machine. */
const USER = 65_534;

/** What a machine has besides what is installed: the C library and a shell. Read-only, it is this one's. */
const system = ["usr", "lib", "lib64", "bin", "sbin", "dev", "proc"];

/** In a mount namespace of its own, so that nothing is left mounted: the system, then the program. */
const enter = `
set -eu
root=$1
for dir in ${system.join(" ")}; do
  [ -e "/$dir" ] || continue
  mkdir -p "$root/$dir"
  mount --rbind "/$dir" "$root/$dir"
done
exec chroot --userspec=${USER}:${USER} "$root" /usr/bin/env -i PATH=/usr/bin:/bin /opt/tributary/launch
`;

/** Why no such machine can be had here; undefined where it can. */
export function whyNoMachine(): string | undefined {
  if (process.getuid?.() !== 0) return "takes root";
  const tried = spawnSync("unshare", ["--mount", "--propagation", "private", "true"]);
  return tried.status === 0 ? undefined : "takes a mount namespace";
}

export function openMachine(root: string): Machine {
  mkdirSync(root, { recursive: true });
  return { root, start: () => startService(root) };
}

/** As systemd hands a StateDirectory to its service's user. */
function handOver(folder: string): void {
  chownSync(folder, USER, USER);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) handOver(path);
    else if (!entry.isSymbolicLink()) chownSync(path, USER, USER);
  }
}

function startService(root: string): Service {
  handOver(join(root, "var/lib/tributary"));
  const log = createEventLog<Line>(`the machine at ${root}`);
  const complaints: string[] = [];
  let starts = 0;
  let stopping = false;
  let end = () => {};
  const run = (): Promise<void> =>
    new Promise((resolve) => {
      starts++;
      const child = spawn(
        "unshare",
        ["--mount", "--propagation", "private", "sh", "-c", enter, "sh", root],
        { stdio: ["ignore", "pipe", "pipe"] },
      );
      end = () => child.kill("SIGTERM");
      createInterface({ input: child.stdout }).on("line", (text) => {
        if (text.startsWith("{")) log.add(JSON.parse(text) as Line);
      });
      createInterface({ input: child.stderr }).on("line", (text) => complaints.push(text));
      child.once("close", () => resolve());
    });
  const running = (async () => {
    while (!stopping) await run();
  })();
  return {
    event: async (name, fields) => (await log.event(name, fields)) as Line,
    count: log.count,
    complaints,
    get starts() {
      return starts;
    },
    restart: () => end(),
    async stop() {
      stopping = true;
      end();
      await running;
      // What is removed with the folder must not be this machine's own: nothing may be mounted here.
      if (readFileSync("/proc/self/mountinfo", "utf8").includes(` ${root}/`))
        throw new Error(`something is still mounted under ${root}`);
    },
  };
}
