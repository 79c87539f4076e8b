import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { filesBelow } from "./house.js";
import { runTool, type ToolResult } from "./tool.js";

/** Generates code from the .proto files into a temporary folder and compares it with proto/gen. */
export async function checkGenerated(root: string): Promise<ToolResult> {
  const scratch = mkdtempSync(join(tmpdir(), "tributary-generated-"));
  try {
    const generated = await runTool(root, "buf", ["generate", "--output", scratch], "proto");
    if (!generated.ok) return generated;
    const problems = differences(join(root, "proto", "gen"), join(scratch, "gen"));
    if (problems.length === 0) return { ok: true, output: "" };
    return {
      ok: false,
      output: `${problems.join("\n")}\nrun: cd proto && npx buf generate\n`,
    };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** How the files below two folders differ. An expected folder without files is a difference. */
export function differences(actual: string, expected: string): readonly string[] {
  const actualFiles = new Set(filesBelow(actual, ""));
  const expectedFiles = filesBelow(expected, "");
  if (expectedFiles.length === 0) return ["nothing was generated"];
  const problems: string[] = [];
  for (const path of expectedFiles) {
    if (!actualFiles.delete(path)) problems.push(`missing: proto/gen/${path}`);
    else if (!readFileSync(join(actual, path)).equals(readFileSync(join(expected, path)))) {
      problems.push(`out of date: proto/gen/${path}`);
    }
  }
  for (const path of actualFiles) problems.push(`left over: proto/gen/${path}`);
  return problems;
}
