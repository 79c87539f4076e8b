import { type ChildProcess, fork, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** One line of a tier's event log. */
export type TierLine = Readonly<Record<string, unknown>>;

/** A tier that runs as an operating-system process of its own, started by the `tributary` command. */
export type Tier = {
  readonly pid: number;
  /** The line with which it said that it is up. */
  readonly started: TierLine;
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
  onClose(close: () => Promise<unknown> | unknown): void;
};

export type TierOptions = {
  readonly tier: "cloud" | "gateway" | "device";
  readonly name: string;
  readonly config: object;
  /** The event after which it is up. */
  readonly startedEvent: string;
  readonly onLine?: (line: TierLine) => void;
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
  const closing: (() => Promise<unknown> | unknown)[] = [];
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
  closing: (() => Promise<unknown> | unknown)[],
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
    async tier({ tier, name, config, startedEvent, onLine }) {
      await mkdir(join(directory, "config"), { recursive: true });
      const file = join(directory, "config", `${name}.json`);
      await writeFile(file, JSON.stringify({ ...config, log: "json" }));
      const child = spawn(process.execPath, [bin, tier, "start", "--config", file], {
        stdio: ["ignore", "pipe", "pipe"],
      });
      own(name, child);
      const started = await new Promise<TierLine>((resolve) => {
        createInterface({ input: child.stdout }).on("line", (text) => {
          if (!text.startsWith("{")) return;
          const line = JSON.parse(text) as TierLine;
          if (line.name === startedEvent) resolve(line);
          onLine?.(line);
        });
      });
      return { pid: child.pid as number, started };
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
