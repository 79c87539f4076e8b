import { readFileSync } from "node:fs";
import { describeError, exitCodeOf, exitCodes } from "@tributary/proto/host/process.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { CommanderError } from "commander";
import { CommandFailure } from "./failure.js";
import { createProgram } from "./program.js";
import type { Output, World } from "./world.js";

const helpWidthMax = 100;

function outputOf(stream: NodeJS.WriteStream): Output {
  return {
    write: (text) => void stream.write(text),
    isTerminal: stream.isTTY,
    width: Math.min(helpWidthMax, stream.columns ?? 80),
  };
}

/** The version of the package that this command is part of. */
function packageVersion(): string {
  const manifest = new URL("../../package.json", import.meta.url);
  return String((JSON.parse(readFileSync(manifest, "utf8")) as { version?: unknown }).version);
}

/** Reports a failure on stderr, as JSON where that was asked for, and gives the exit code. */
function report(error: unknown, { stderr }: World, json: boolean): number {
  const write = (code: string, message: string): void => {
    stderr.write(
      json ? `${JSON.stringify({ error: { code, message } })}\n` : `tributary: ${message}\n`,
    );
  };
  // Commander has printed help, the version, or what is wrong with the command line.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitCodes.usage;
  if (error instanceof CommandFailure) {
    write(error.code, error.message);
    return error.exitCode;
  }
  write(error instanceof TributaryError ? error.code : "internal", describeError(error));
  return exitCodeOf(error);
}

const world: World = {
  env: process.env,
  stdout: outputOf(process.stdout),
  stderr: outputOf(process.stderr),
  nowMs: () => Date.now(),
};

// A reader that has seen enough, as in `tributary model list | head -1`, is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(exitCodes.ok);
  throw error;
});

const program = createProgram(world, packageVersion());
try {
  await program.parseAsync(process.argv);
} catch (error) {
  process.exitCode = report(error, world, process.argv.includes("--json"));
}
