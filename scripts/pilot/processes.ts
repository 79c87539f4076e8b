import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { ProcessEntry } from "./report/report.js";

/** One line of a tier's event log. */
export type TierLine = Readonly<Record<string, unknown>> & { readonly name: string };

/** A tier that runs as an operating-system process of its own. */
export type TierProcess = {
  readonly name: string;
  readonly pid: number;
  /** Resolves with the first event of that name; rejects when the process ends before it. */
  event(name: string): Promise<TierLine>;
  /** Ends the process and waits until it is gone. */
  end(signal: "SIGTERM" | "SIGKILL"): Promise<void>;
  readonly isRunning: boolean;
  /** Resolves when the process is gone, whatever ended it. */
  readonly gone: Promise<void>;
};

export type Processes = {
  start(name: string, args: readonly string[]): TierProcess;
  /** Runs a command to its end. Rejects when it fails. */
  run(name: string, args: readonly string[]): Promise<void>;
  entries(): ProcessEntry[];
  /** Called when a process ends that nobody asked to end. */
  onUnexpectedEnd(listener: (name: string, how: string, log: string) => void): void;
  endAll(): Promise<void>;
};

const bin = fileURLToPath(new URL("../../bin/tributary.js", import.meta.url));

/** How long a process may take to end by itself before it is killed. */
const STOP_LIMIT_MS = 8_000;

export function createProcesses(logDir: string, elapsedMs: () => number): Processes {
  const spawned = (args: readonly string[]) =>
    spawn(process.execPath, [bin, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  const logOf = (name: string) => join(logDir, `${name}.log`);
  const started: { process: TierProcess; entry: () => ProcessEntry }[] = [];
  let unexpected: (name: string, how: string, log: string) => void = () => {};

  return {
    start(name, args) {
      const child = spawned(args);
      const tier = watch(name, child, logOf(name), elapsedMs, (how, log) =>
        unexpected(name, how, log),
      );
      started.push(tier);
      return tier.process;
    },
    async run(name, args) {
      const child = spawned(args);
      const tier = watch(name, child, logOf(name), elapsedMs, () => {});
      await tier.process.gone;
      if (child.exitCode !== 0)
        throw new Error(`${name} ended (exit code ${child.exitCode}); see ${logOf(name)}`);
    },
    entries: () => started.map(({ entry }) => entry()),
    onUnexpectedEnd(listener) {
      unexpected = listener;
    },
    async endAll() {
      // Devices first, then gateways, then the cloud: the reverse of their start.
      for (const { process: tier } of started.toReversed()) await tier.end("SIGTERM");
    },
  };
}

function watch(
  name: string,
  child: ChildProcess,
  logFile: string,
  elapsedMs: () => number,
  unexpected: (how: string, log: string) => void,
): { process: TierProcess; entry: () => ProcessEntry } {
  const { stdout, stderr } = child;
  if (stdout === null || stderr === null) throw new Error(`${name} has no output`);
  const startedMs = elapsedMs();
  const log = createWriteStream(logFile, { flags: "a" });
  const seen = new Map<string, TierLine>();
  const waiting = new Map<
    string,
    { resolve: (line: TierLine) => void; reject: (error: Error) => void }[]
  >();
  let endedMs: number | undefined;
  let isAsked = false;

  for (const stream of [stdout, stderr]) {
    createInterface({ input: stream }).on("line", (text) => {
      log.write(`${text}\n`);
      const line = parseLine(text);
      if (line === undefined) return;
      if (!seen.has(line.name)) seen.set(line.name, line);
      for (const { resolve } of waiting.get(line.name) ?? []) resolve(line);
      waiting.delete(line.name);
    });
  }
  const gone = new Promise<void>((resolve) => {
    child.once("error", () => resolve());
    child.once("close", () => resolve());
  }).then(() => {
    endedMs = elapsedMs();
    log.end();
    const how = child.signalCode ?? `exit code ${child.exitCode}`;
    for (const waiters of waiting.values()) {
      for (const { reject } of waiters) reject(new Error(`${name} ended (${how}); see ${logFile}`));
    }
    if (!isAsked) unexpected(how, logFile);
  });

  const tier: TierProcess = {
    name,
    pid: child.pid ?? 0,
    gone,
    get isRunning() {
      return endedMs === undefined;
    },
    event(event) {
      const line = seen.get(event);
      if (line !== undefined) return Promise.resolve(line);
      if (endedMs !== undefined)
        return Promise.reject(new Error(`${name} has ended; see ${logFile}`));
      return new Promise((resolve, reject) => {
        waiting.set(event, [...(waiting.get(event) ?? []), { resolve, reject }]);
      });
    },
    async end(signal) {
      if (endedMs !== undefined) return;
      isAsked = true;
      child.kill(signal);
      const timer = setTimeout(() => child.kill("SIGKILL"), STOP_LIMIT_MS);
      await gone;
      clearTimeout(timer);
    },
  };
  const entry = (): ProcessEntry => ({
    name,
    pid: tier.pid,
    ...portOf(seen),
    startedMs,
    ...(endedMs === undefined
      ? {}
      : { endedMs, exitCode: child.exitCode, signal: child.signalCode }),
  });
  return { process: tier, entry };
}

function portOf(seen: ReadonlyMap<string, TierLine>): { port?: number } {
  const port = seen.get("gateway-started")?.port ?? seen.get("cloud-started")?.grpcPort;
  return typeof port === "number" ? { port } : {};
}

function parseLine(text: string): TierLine | undefined {
  if (!text.startsWith("{")) return undefined;
  try {
    const line: unknown = JSON.parse(text);
    return typeof line === "object" &&
      line !== null &&
      "name" in line &&
      typeof line.name === "string"
      ? (line as TierLine)
      : undefined;
  } catch {
    return undefined;
  }
}
