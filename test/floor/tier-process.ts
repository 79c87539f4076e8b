import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { createEventLog } from "./event-log.js";

/** The file that npm links as `tributary`. */
const command = fileURLToPath(new URL("../../../scripts/bin/tributary.js", import.meta.url));

type Line = { readonly name: string } & Readonly<Record<string, unknown>>;

/** A tier in a process of its own, so that it can be killed as a power cut would. */
export type TierProcess = {
  readonly pid: number;
  /** Resolves with the first event of a name, past or to come, that has these fields. */
  event(name: string, fields?: Readonly<Record<string, unknown>>): Promise<Line>;
  count(name: string, fields?: Readonly<Record<string, unknown>>): number;
  /** What it wrote to its standard error, by line. */
  readonly complaints: readonly string[];
  /** Waits until the process ends by itself; its exit code. */
  ended(): Promise<number | null>;
  /** Sends the signal and waits until the process is gone; the exit code, or null after SIGKILL. */
  end(signal: "SIGKILL" | "SIGTERM" | "SIGINT"): Promise<number | null>;
};

export type ProcessPlace = {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
};

/**
 * Runs `tributary <args>` with its log as JSON. Whatever it writes that is no event, and an end
 * that nobody asked for, is shown with the test's output.
 */
export function startTier(
  args: readonly string[],
  { cwd = process.cwd(), env = {} }: ProcessPlace = {},
): TierProcess {
  // Source maps, which a test run asks for, make a process start twice as slowly.
  const { TRIBUTARY_URL: _url, NODE_OPTIONS: _options, ...inherited } = process.env;
  const child = spawn(process.execPath, [command, ...args, "--json"], {
    cwd,
    env: { ...inherited, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const who = args.slice(0, 2).join(" ");
  const log = createEventLog<Line>(`${who} (${child.pid})`);
  createInterface({ input: child.stdout }).on("line", (text) => {
    if (text.startsWith("{")) log.add(JSON.parse(text) as Line);
    else process.stderr.write(`${who}: ${text}\n`);
  });
  const complaints: string[] = [];
  createInterface({ input: child.stderr }).on("line", (text) => {
    complaints.push(text);
    process.stderr.write(`${text}\n`);
  });
  const gone = once(child, "close");
  let asked = false;
  void gone.then(([code, signal]) => {
    if (!asked) process.stderr.write(`${who} ended unasked: ${code ?? signal}\n`);
  });
  return {
    pid: child.pid ?? 0,
    event: async (name, fields) => (await log.event(name, fields)) as Line,
    count: log.count,
    complaints,
    async ended() {
      asked = true;
      await gone;
      return child.exitCode;
    },
    async end(signal) {
      asked = true;
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
      await gone;
      return child.exitCode;
    },
  };
}
