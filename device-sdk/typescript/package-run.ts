import { type ChildProcess, spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import type { Clock } from "@tributary/proto/host/clock.js";
import { limits } from "./limits.js";

export type PackageCommand = {
  /** A program, as a package's statement names it, and its arguments. */
  readonly words: readonly string[];
  /** The working directory: that of the package. */
  readonly dir: string;
  /** The whole environment. */
  readonly environment: Readonly<Record<string, string>>;
  readonly memoryBytes: number;
  readonly timeMs: number;
  readonly clock: Clock;
  readonly signal: AbortSignal;
};

/**
 * Sets the limits, then becomes the command. A limit that is lower already stays; one that cannot be
 * set ends it before the command runs. Kilobytes of -d, blocks of 512 bytes of -f and -c, seconds of
 * -t: POSIX.1-2024, `ulimit`.
 */
const LIMIT_AND_RUN = `
lower() {
  for kind in -S -H; do
    now=$(ulimit $kind "$1") || exit 126
    if [ "$now" = unlimited ] || [ "$now" -gt "$2" ]; then ulimit $kind "$1" "$2" || exit 126; fi
  done
}
lower -c 0; lower -d "$1"; lower -f "$2"; lower -t "$3"; lower -n "$4"
shift 4
exec "$@"`;

/**
 * Runs a command of a package in a process group of its own, within limits of the kernel's: data
 * (RLIMIT_DATA: heap and private writable memory of one process), the size of a file, processor time,
 * open files, no core dump. Resolves once it ended well; whatever is left of its group is killed.
 * Rejects when it ends otherwise, takes longer than `timeMs`, or the signal aborts.
 */
export function runPackageCommand(command: PackageCommand): Promise<void> {
  const { words, dir, environment, memoryBytes, timeMs, clock, signal } = command;
  const [program = "", ...rest] = words;
  const seconds = Math.ceil((timeMs / 1000) * availableParallelism()) + 1;
  const bounds = [
    Math.max(1, Math.floor(memoryBytes / 1024)),
    Math.floor(limits.packageFileBytes / 512),
    seconds,
    limits.packageOpenFiles,
  ].map(String);
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(new Error("aborted"));
    const child = spawn(
      "/bin/sh",
      [
        ...["-c", LIMIT_AND_RUN, "package", ...bounds],
        ...[program === "node" ? process.execPath : program, ...rest],
      ],
      // A group of its own: what the command starts ends with it.
      { cwd: dir, env: environment, detached: true, stdio: ["ignore", "ignore", "pipe"] },
    );
    const said = lastWordsOf(child);
    let why: string | undefined;
    const stop = (reason: string) => {
      why ??= reason;
      killGroup(child);
    };
    const timer = clock.setTimer(timeMs, () => stop(`it took longer than ${timeMs} ms`));
    const aborted = () => stop("aborted");
    signal.addEventListener("abort", aborted, { once: true });
    const end = (error: Error | undefined) => {
      timer.cancel();
      signal.removeEventListener("abort", aborted);
      if (error === undefined) resolve();
      else reject(error);
    };
    child.on("error", (error) => end(new Error(`${program}: ${error.message}`)));
    // Its leader has ended; what it left behind, which may hold its standard error open, has not.
    child.on("exit", () => killGroup(child));
    child.on("close", (code, killedBy) => {
      if (why === undefined && code === 0) return end(undefined);
      const how = why ?? (killedBy === null ? `it ended with ${code}` : `${killedBy} ended it`);
      const words = said();
      end(new Error(`${program}: ${how}${words === "" ? "" : `: ${words}`}`));
    });
  });
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // Nobody of the group is left.
  }
}

/** The end of what a command writes to its standard error, in one line. */
function lastWordsOf({ stderr }: ChildProcess): () => string {
  let text = "";
  stderr?.setEncoding("utf8");
  stderr?.on("data", (piece: string) => {
    text = (text + piece).slice(-limits.packageErrorChars);
  });
  return () => text.trim().replace(/\s+/g, " ");
}
