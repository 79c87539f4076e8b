import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { run } from "../run.js";
import type { Output } from "../world.js";

/** The file that npm links as `tributary`. */
export const commandFile = fileURLToPath(new URL("../../../bin/tributary.js", import.meta.url));

export type Ended = { readonly code: unknown; readonly stdout: string; readonly stderr: string };

export type CommandOptions = {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
};

/** Runs the real command in a process of its own until it ends. */
export async function tributary(
  args: readonly string[],
  { env = {}, cwd = process.cwd() }: CommandOptions = {},
): Promise<Ended> {
  // Source maps, which the test run asks for, make a short process take twice as long.
  const { TRIBUTARY_URL: _url, NODE_OPTIONS: _options, ...inherited } = process.env;
  const child = spawn(process.execPath, [commandFile, ...args], {
    cwd,
    env: { ...inherited, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const closed = once(child, "close");
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const [code] = await closed;
  return { code, stdout, stderr };
}

/** Runs a command line within this process, on what it would see of a process of its own. */
export async function runHere(
  args: readonly string[],
  { env = {} }: Pick<CommandOptions, "env"> = {},
): Promise<Ended> {
  const written = { stdout: "", stderr: "" };
  const output = (name: keyof typeof written): Output => ({
    write: (text) => {
      written[name] += text;
    },
    isTerminal: false,
    width: 80,
  });
  const code = await run(args, {
    env,
    stdout: output("stdout"),
    stderr: output("stderr"),
    nowMs: () => Date.now(),
  });
  return { code, ...written };
}
