import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const bin = fileURLToPath(new URL("../../../bin/tributary.js", import.meta.url));

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
  const { TRIBUTARY_URL: _, ...inherited } = process.env;
  const child = spawn(process.execPath, [bin, ...args], {
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
