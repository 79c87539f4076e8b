import { TributaryError } from "../wire/errors.js";

/** Exit codes, after BSD's sysexits(3). */
export const exitCodes = {
  ok: 0,
  /** The other side refused. */
  refused: 1,
  /** The command line is wrong. */
  usage: 64,
  /** A service that is needed cannot be reached. */
  unavailable: 69,
  /** A defect: please report it. */
  internal: 70,
  /** The disk does not take what must be written. */
  cannotWrite: 73,
  /** The configuration, or the place in the tree that it gives a tier. */
  config: 78,
  interrupted: 130,
} as const;

export function exitCodeOf(error: unknown): number {
  if (!(error instanceof TributaryError)) return exitCodes.internal;
  if (
    error.code.startsWith("config-") ||
    /^secret-(exposed|malformed|missing)$/.test(error.code) ||
    error.code === "gateway-loop"
  ) {
    return exitCodes.config;
  }
  if (/^(authority|backup)-/.test(error.code)) return exitCodes.refused;
  if (["link-failed", "port-in-use", "store-unreachable"].includes(error.code)) {
    return exitCodes.unavailable;
  }
  if (
    error.code.startsWith("disk-") ||
    error.code.startsWith("journal-") ||
    error.code.startsWith("store-") ||
    error.code.startsWith("secret-") ||
    error.code === "data-dir-locked"
  ) {
    return exitCodes.cannotWrite;
  }
  return exitCodes.internal;
}

/** One line for a person: what happened, and its code where it has one. */
export function describeError(error: unknown): string {
  if (error instanceof TributaryError) return `${error.message} [${error.code}]`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

/** Something that runs until it is closed. */
export type Running = {
  close(): Promise<void>;
  /** Rejects when it cannot go on. It is closed all the same. */
  readonly failed?: Promise<never>;
};

/**
 * Runs a tier until SIGINT or SIGTERM, then closes it; a second signal ends the process at once
 * with 130. Whatever is thrown and not caught ends it with one clear line: every tier recovers
 * from its journal. Resolves with the exit code.
 */
export async function runUntilSignal(
  start: () => Promise<Running>,
  report: (line: string) => void,
): Promise<number> {
  let giveUp: (error: unknown) => void = () => {};
  const broken = new Promise<never>((_, reject) => {
    giveUp = reject;
  });
  broken.catch(() => {});
  process.on("uncaughtException", giveUp);
  process.on("unhandledRejection", giveUp);
  let signals = 0;
  const signalled = new Promise<void>((resolve) => {
    const onSignal = () => {
      signals++;
      if (signals > 1) process.exit(exitCodes.interrupted);
      resolve();
    };
    process.on("SIGINT", onSignal);
    process.on("SIGTERM", onSignal);
  });
  try {
    const running = await Promise.race([start(), broken]);
    const failed = running.failed ?? broken;
    let failure: unknown;
    await Promise.race([signalled, failed, broken]).catch((error: unknown) => {
      failure = error;
    });
    await Promise.race([running.close(), broken]);
    if (failure !== undefined) throw failure;
    return exitCodes.ok;
  } catch (error) {
    report(describeError(error));
    return exitCodeOf(error);
  }
}
