import { findTests, matching, type TestFile } from "./find-tests.js";
import { type FileResult, runTestFile } from "./test-file.js";

export type TestRun = {
  readonly root: string;
  /** Parts of source paths; a file runs when it contains any of them. None means all. */
  readonly patterns: readonly string[];
  /** Files that run at the same time. */
  readonly width: number;
  readonly fileTimeoutMs: number;
  readonly write: (line: string) => void;
};

/**
 * Runs every compiled test of every workspace, each file in its own process; the last line written
 * is `N passed, N failed`. Resolves to the exit code: 1 when a test failed or none ran.
 */
export async function runTests(settings: TestRun): Promise<0 | 1> {
  const { root, patterns, write } = settings;
  const startedMs = performance.now();
  const found = findTests(root);
  const unbuilt = matching(found.unbuilt, patterns);
  for (const source of found.stale) write(`stale, not run (its source is gone): ${source}`);
  for (const { source } of unbuilt) {
    write(`FAILED  ${source} has no compiled file; run npm run build`);
  }
  const chosen = matching(found.files, patterns);
  if (chosen.length === 0) {
    write(patterns.length === 0 ? "no test found" : `no test file matches ${patterns.join(" ")}`);
  }
  const results = await runAll(chosen, settings);
  return report(results, unbuilt.length, performance.now() - startedMs, write);
}

/** Runs the files, at most `width` at a time, printing each as it ends. */
async function runAll(
  files: readonly TestFile[],
  { width, fileTimeoutMs, write }: TestRun,
): Promise<readonly FileResult[]> {
  const results: FileResult[] = [];
  const queue = files.values();
  const worker = async (): Promise<void> => {
    for (const file of queue) {
      const result = await runTestFile(file, fileTimeoutMs);
      results.push(result);
      printFile(result, write);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  return results;
}

function printFile(result: FileResult, write: (line: string) => void): void {
  const verdict = result.failures.length === 0 ? "ok    " : "FAILED";
  const count = `${result.passed} passed`;
  write(`${verdict}  ${result.source}  ${count}, ${seconds(result.durationMs)}`);
  for (const failure of result.failures) {
    write(`\n  not ok: ${failure.name}\n${indented(failure.detail)}\n`);
  }
  if (result.failures.length > 0 && result.output.trim() !== "") {
    write(`  the file wrote:\n${indented(result.output.trimEnd())}\n`);
  }
}

function report(
  results: readonly FileResult[],
  unbuilt: number,
  durationMs: number,
  write: (line: string) => void,
): 0 | 1 {
  const passed = results.reduce((sum, result) => sum + result.passed, 0);
  const failed = results.reduce((sum, result) => sum + result.failures.length, unbuilt);
  const skipped = results.flatMap((result) =>
    result.skipped.map((name) => `${result.source}: ${name}`),
  );
  const slow = results
    .flatMap((result) => result.slow.map((test) => ({ source: result.source, ...test })))
    .sort((a, b) => b.durationMs - a.durationMs)
    .slice(0, 5);
  write("");
  if (slow.length > 0) write("slowest tests:");
  for (const test of slow) {
    write(`  ${seconds(test.durationMs).padStart(7)}  ${test.source}: ${test.name}`);
  }
  if (skipped.length > 0) write("skipped:");
  for (const name of skipped) write(`  ${name}`);
  const failing = results.filter((result) => result.failures.length > 0);
  if (failing.length > 0) write("failed:");
  for (const result of failing) {
    for (const failure of result.failures) write(`  ${result.source}: ${failure.name}`);
  }
  write(`${results.length} files in ${seconds(durationMs)}`);
  write(`${passed} passed, ${failed} failed`);
  return failed > 0 || passed === 0 ? 1 : 0;
}

function seconds(durationMs: number): string {
  return `${(durationMs / 1000).toFixed(1)} s`;
}

function indented(text: string): string {
  return text.replace(/^/gm, "    ");
}
