import { readFileSync } from "node:fs";
import { describeError, exitCodeOf, exitCodes } from "@tributary/proto/host/process.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { CommanderError } from "commander";
import { CommandFailure } from "./failure.js";
import { createProgram } from "./program.js";
import type { World } from "./world.js";

/** Runs one command line and resolves with its exit code; what fails is reported on stderr. */
export async function run(args: readonly string[], world: World): Promise<number> {
  try {
    await createProgram(world, packageVersion()).parseAsync(args, { from: "user" });
    return exitCodes.ok;
  } catch (error) {
    return report(error, world, args.includes("--json"));
  }
}

/** The version of the package that this command is part of. */
function packageVersion(): string {
  const manifest = new URL("../../package.json", import.meta.url);
  return String((JSON.parse(readFileSync(manifest, "utf8")) as { version?: unknown }).version);
}

/** Reports a failure, as JSON where that was asked for, and gives its exit code. */
function report(error: unknown, { stderr }: World, json: boolean): number {
  // Commander has printed help, the version, or what is wrong with the command line.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitCodes.usage;
  const write = (code: string, message: string): void => {
    stderr.write(
      json ? `${JSON.stringify({ error: { code, message } })}\n` : `tributary: ${message}\n`,
    );
  };
  if (error instanceof CommandFailure) {
    write(error.code, error.message);
    return error.exitCode;
  }
  write(error instanceof TributaryError ? error.code : "internal", describeError(error));
  return exitCodeOf(error);
}
