import { spawn } from "node:child_process";
import { once } from "node:events";
import { delimiter, join } from "node:path";

export type ToolResult = { readonly ok: boolean; readonly output: string };

/**
 * Runs a tool that an npm package installed (node_modules/.bin) and keeps what it prints. Tools
 * find each other on the path, as under `npm run`.
 */
export async function runTool(
  root: string,
  name: string,
  args: readonly string[],
  folder = ".",
): Promise<ToolResult> {
  const bin = join(root, "node_modules", ".bin");
  const child = spawn(join(bin, name), args, {
    cwd: join(root, folder),
    env: {
      ...process.env,
      PATH: `${bin}${delimiter}${process.env.PATH ?? ""}`,
      NO_COLOR: "1",
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  const keep = (chunk: Buffer): void => {
    output += chunk.toString("utf8");
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  const [code] = await once(child, "close");
  return { ok: code === 0, output };
}
