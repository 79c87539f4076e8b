import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Fuse } from "./bomb.js";

type Common = {
  readonly dataDir: string;
  /** Without one the life goes on until it is ended. */
  readonly fuse?: Fuse;
};

/** What a process of the harness is to be. */
export type LifeSpec = Common &
  (
    | { readonly tier: "cloud" }
    | {
        readonly tier: "gateway";
        readonly config: object;
        readonly writeDelayMs: number;
        readonly plant?: "receipt-early";
      }
    | {
        readonly tier: "device";
        readonly name: string;
        readonly site: string;
        readonly mqttPort: number;
        readonly auditDir: string;
        readonly samples: number;
      }
  );

type Line = { readonly name: string } & Readonly<Record<string, unknown>>;

/** One life of a tier: from the start of its process to its end. */
export type Life = {
  /** Resolves with the ports once the tier stands; undefined when it ended before that. */
  readonly alive: Promise<Line | undefined>;
  /** Resolves when the process is gone: whether a SIGKILL ended it, and its last lines. */
  readonly ended: Promise<{ readonly killed: boolean; readonly lines: readonly string[] }>;
  lines(): readonly string[];
  end(): Promise<void>;
};

const program = fileURLToPath(new URL("tier.js", import.meta.url));

/** Lines kept of what a life wrote: what is shown when it ends otherwise than it should. */
const LINES_KEPT = 60;

export function startLife(spec: LifeSpec): Life {
  // Source maps, which a test run asks for, make a process start twice as slowly.
  const { NODE_OPTIONS: _options, ...env } = process.env;
  const child = spawn(process.execPath, [program, JSON.stringify(spec)], {
    env,
    stdio: ["pipe", "pipe", "pipe"],
  });
  const lines: string[] = [];
  let settle: (line: Line | undefined) => void = () => {};
  const alive = new Promise<Line | undefined>((resolve) => {
    settle = resolve;
  });
  const keep = (text: string): void => {
    lines.push(text);
    if (lines.length > LINES_KEPT) lines.shift();
  };
  createInterface({ input: child.stderr }).on("line", keep);
  createInterface({ input: child.stdout }).on("line", (text) => {
    keep(text);
    if (text.startsWith('{"name":"alive"')) settle(JSON.parse(text) as Line);
  });
  child.stdin.on("error", () => {});
  const ended = once(child, "close").then(() => {
    settle(undefined);
    return { killed: child.signalCode === "SIGKILL", lines };
  });
  return {
    alive,
    ended,
    lines: () => lines,
    async end() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}
