import { inspect } from "node:util";
import { repositoryRoot } from "./house.js";
import { type Step, steps } from "./steps.js";
import type { ToolResult } from "./tool.js";

/**
 * `npm run check [-- name...]`: runs every step whose name contains one of the names, also after
 * one failed, and exits with 1 when any failed or none was chosen.
 */
async function main(names: readonly string[]): Promise<0 | 1> {
  const chosen = steps.filter(
    (step) => names.length === 0 || names.some((name) => step.name.includes(name)),
  );
  if (chosen.length === 0) {
    write(
      `no step is called ${names.join(" ")}; there are: ${steps.map((s) => s.name).join(", ")}`,
    );
    return 1;
  }
  let failed = 0;
  for (const step of chosen) {
    const startedMs = performance.now();
    const result = await attempt(step);
    const time = `${((performance.now() - startedMs) / 1000).toFixed(1)} s`;
    write(`${result.ok ? "ok    " : "FAILED"}  ${step.name.padEnd(16)} ${time.padStart(7)}`);
    if (!result.ok) {
      failed += 1;
      write(result.output.trimEnd().replace(/^/gm, "    "));
    }
  }
  write(
    failed === 0 ? `${chosen.length} checks ok` : `${failed} of ${chosen.length} checks failed`,
  );
  return failed === 0 ? 0 : 1;
}

/** A step that throws has failed; the steps after it still run. */
async function attempt(step: Step): Promise<ToolResult> {
  try {
    return await step.run(repositoryRoot);
  } catch (error) {
    return { ok: false, output: inspect(error) };
  }
}

function write(line: string): void {
  process.stdout.write(`${line}\n`);
}

process.exitCode = await main(process.argv.slice(2));
