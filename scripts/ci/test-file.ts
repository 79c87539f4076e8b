import { relative } from "node:path";
import { run } from "node:test";
import { inspect } from "node:util";
import type { TestFile } from "./find-tests.js";

export type TestFailure = { readonly name: string; readonly detail: string };

export type FileResult = {
  readonly source: string;
  readonly passed: number;
  readonly failures: readonly TestFailure[];
  readonly skipped: readonly string[];
  readonly slow: readonly { readonly name: string; readonly durationMs: number }[];
  /** The end of what the file wrote to stdout and stderr. */
  readonly output: string;
  readonly durationMs: number;
};

export const testLimits = {
  /** A file that runs longer is stopped and fails. */
  fileTimeoutMs: 600_000,
  /** A single test at or above this is listed as slow. */
  slowTestMs: 2_000,
  /** Characters of a file's output that are kept for the report of a failure. */
  outputChars: 16_384,
} as const;

/**
 * Runs one compiled test file in its own process. Suites are not counted, nor are parents that
 * fail only because a subtest did. A file that defines no test fails: node:test reports it as one
 * passed test, which hides a file that nobody runs.
 */
export async function runTestFile(file: TestFile, fileTimeoutMs: number): Promise<FileResult> {
  const failures: TestFailure[] = [];
  const skipped: string[] = [];
  const slow: { name: string; durationMs: number }[] = [];
  const path: string[] = [];
  let passed = 0;
  let output = "";
  const startedMs = performance.now();
  // run()'s own timeout reaches the test but leaves a hung process alive on Node 24.
  const stop = new AbortController();
  const deadline = setTimeout(() => {
    const detail = `it was stopped after ${fileTimeoutMs / 1000} s`;
    failures.push({ name: "(the whole file)", detail });
    stop.abort();
  }, fileTimeoutMs);
  const stream = run({ files: [file.compiled], concurrency: 1, signal: stop.signal });
  for await (const event of stream) {
    switch (event.type) {
      case "test:stdout":
      case "test:stderr":
        output = (output + event.data.message).slice(-testLimits.outputChars);
        break;
      case "test:start":
        path[event.data.nesting] = event.data.name;
        path.length = event.data.nesting + 1;
        break;
      case "test:pass": {
        const { name, details, skip, todo } = event.data;
        if (isWholeFile(name, file)) {
          failures.push({ name: "(the whole file)", detail: "it defines no test" });
        } else if (skip !== undefined || todo !== undefined) {
          skipped.push(fullName(path, event.data));
        } else if (details.type !== "suite") {
          passed += 1;
          const durationMs = details.duration_ms;
          if (durationMs >= testLimits.slowTestMs) slow.push({ name, durationMs });
        }
        break;
      }
      case "test:fail": {
        const error = event.data.details.error;
        if (hasFailureType(error, "subtestsFailed") || stop.signal.aborted) break;
        const name = isWholeFile(event.data.name, file)
          ? "(the whole file)"
          : fullName(path, event.data);
        failures.push({ name, detail: describe(error) });
        break;
      }
      default:
        break;
    }
  }
  clearTimeout(deadline);
  const durationMs = performance.now() - startedMs;
  if (passed + failures.length + skipped.length === 0) {
    failures.push({ name: "(the whole file)", detail: "it reported no test" });
  }
  return { source: file.source, passed, failures, skipped, slow, output, durationMs };
}

function isWholeFile(name: string, file: TestFile): boolean {
  return name === file.compiled || name === relative(process.cwd(), file.compiled);
}

function fullName(
  path: readonly string[],
  data: { readonly name: string; readonly nesting: number },
): string {
  return [...path.slice(0, data.nesting), data.name].join(" > ");
}

function hasFailureType(error: Error, failureType: string): boolean {
  return "failureType" in error && error.failureType === failureType;
}

function describe(error: Error): string {
  const cause = error.cause ?? error;
  return typeof cause === "string" ? cause : inspect(cause, { depth: 4 });
}
