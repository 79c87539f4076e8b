import { exitCodes } from "@tributary/proto/host/process.js";

/** Why a command ends without doing what it was asked, in words for its user. */
export class CommandFailure extends Error {
  override readonly name = "CommandFailure";
  readonly exitCode: number;
  readonly code: string;

  /** `message` says what happened, where, and what to do next. */
  constructor(code: string, message: string, exitCode: number, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.exitCode = exitCode;
  }
}

/** A command line, or a file that it names, that cannot be used. */
export function usageFailure(message: string): CommandFailure {
  return new CommandFailure("usage", message, exitCodes.usage);
}

export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
