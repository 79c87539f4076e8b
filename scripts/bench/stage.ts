import { type ChildProcess, fork, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** One line of a tier's event log. */
export type TierLine = Readonly<Record<string, unknown>>;

/** A tier that runs as an operating-system process of its own, started by the `tributary` command. */
export type Tier = {
  readonly pid: number;
  /** The line with which it said that it is up. */
  readonly started: TierLine;
  /** All it has logged. Its log is a file: a pipe's reader would take time from what is measured. */
  log(): Promise<TierLine[]>;
};

/** A process of the bench's own that answers commands, one at a time. */
export type Worker = {
  ask(command: object): Promise<TierLine>;
};

/** What one bench opens. All of it is gone when the bench ends, however it ends. */
export type Stage = {
  /** On a real disk where the temporary directory is; `TMPDIR` moves it. */
  readonly directory: string;
  tier(options: TierOptions): Promise<Tier>;
  worker(script: string): Worker;
  /** Called at the end, last opened first. */
  onClose(close: () => Promise<void> | void): void;
};

export type TierOptions = {
  readonly tier: "cloud" | "gateway" | "device";
  readonly name: string;
  readonly config: object;
  /** The event after which it is up. */
  readonly startedEvent: string;
};

const bin = fileURLToPath(new URL("../../bin/tributary.js", import.meta.url));

/** How long a process may take to end by itself before it is killed. */
const STOP_LIMIT_MS = 5_000;
/** Characters of a process's last words that an error shows. */
const LAST_WORDS_CHARS = 2_000;

/** Runs a bench on a stage of its own; rejects when it takes longer than `limitMs`. */
export async function onStage<T>(
  limitMs: number,
  signal: AbortSignal,
  run: (stage: Stage) => Promise<T>,
): Promise<T> {
  const closing: (() => Promise<void> | void)[] = [];
  let fail: (error: Error) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {});
  const interrupt = () => fail(new Error("interrupted"));
  signal.addEventListener("abort", interrupt);
  const limit = setTimeout(() => fail(new Error(`not done within ${limitMs} ms`)), limitMs);
  try {
    signal.throwIfAborted();
    const directory = await mkdtemp(join(tmpdir(), "tributary-bench-"));
    closing.push(() => rm(directory, { recursive: true, force: true }));
    return await Promise.race([run(createStage(directory, closing, fail)), failed]);
  } finally {
    clearTimeout(limit);
    signal.removeEventListener("abort", interrupt);
    for (const close of closing.reverse()) await close();
  }
}

function createStage(
  directory: string,
  closing: (() => Promise<void> | void)[],
  fail: (error: Error) => void,
): Stage {
  const own = (name: string, child: ChildProcess) => {
    let isEnding = false;
    let lastWords = "";
    child.stderr?.on("data", (text: Buffer) => {
      lastWords = `${lastWords}${text.toString()}`.slice(-LAST_WORDS_CHARS);
    });
    child.on("error", fail);
    child.on("exit", (code, sign) => {
      if (!isEnding) fail(new Error(`${name} ended (${sign ?? code}): ${lastWords}`));
    });
    closing.push(async () => {
      isEnding = true;
      await end(child);
    });
  };

  return {
    directory,
    async tier({ tier, name, config, startedEvent }) {
      await mkdir(join(directory, "tiers"), { recursive: true });
      const file = join(directory, "tiers", `${name}.json`);
      await writeFile(file, JSON.stringify({ ...config, log: "json" }));
      const logFile = join(directory, "tiers", `${name}.log`);
      const log = await open(logFile, "a");
      const child = spawn(process.execPath, [bin, tier, "start", "--config", file], {
        stdio: ["ignore", log.fd, "pipe"],
      });
      own(name, child);
      await log.close();
      const started = await waitFor(`${name} starts`, async () =>
        (await readLog(logFile)).find((line) => line.name === startedEvent),
      );
      return { pid: child.pid as number, started, log: () => readLog(logFile) };
    },
    worker(script) {
      const child = fork(fileURLToPath(new URL(script, import.meta.url)), {
        stdio: ["ignore", "inherit", "pipe", "ipc"],
      });
      own(script, child);
      return {
        async ask(command) {
          child.send(command);
          const [reply] = (await once(child, "message")) as [TierLine];
          if (typeof reply.error === "string") throw new Error(reply.error);
          return reply;
        },
      };
    },
    onClose: (close) => void closing.push(close),
  };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_LIMIT_MS);
  await gone;
  clearTimeout(timer);
}

/** The whole lines of a log. */
async function readLog(file: string): Promise<TierLine[]> {
  const lines = (await readFile(file, "utf8")).split("\n").slice(0, -1);
  return lines.filter((text) => text.startsWith("{")).map((text) => JSON.parse(text) as TierLine);
}

/** Looks again and again until there is an answer that is not false; throws after `limitMs`. */
export async function waitFor<T>(
  what: string,
  look: () => T | Promise<T>,
  limitMs = 60_000,
  pauseMs = 5,
): Promise<NonNullable<T>> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== null && found !== false) return found;
    if (performance.now() > endMs) throw new Error(`${what}: not within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}
