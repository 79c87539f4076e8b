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
  if (error.code === "identity-mismatch") return exitCodes.config;
  if (/^(authority|backup|claim|request|identity|certificate|grant)-/.test(error.code)) {
    return exitCodes.refused;
  }
  if (["link-failed", "port-in-use", "store-unreachable"].includes(error.code)) {
    return exitCodes.unavailable;
  }
  if (
    error.code.startsWith("disk-") ||
    error.code.startsWith("journal-") ||
    error.code.startsWith("store-") ||
    error.code.startsWith("secret-") ||
    error.code === "index-corrupt" ||
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

/** How long a start that a signal meets may take to come to its end, which then is a good one. */
const START_PATIENCE_MS = 5_000;
/** After a failure has been reported, whatever still keeps the process alive has so long. */
const LINGER_MS = 5_000;

/**
 * Runs a tier until SIGINT or SIGTERM, then closes it; a second signal ends the process at once
 * with 130, and so does one alone for a start that hangs. Whatever is thrown and not caught ends it with one clear line: every tier recovers
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
  /** Set once it has ended. */
  let endCode: number | undefined;
  const signalled = new Promise<void>((resolve) => {
    const onSignal = () => {
      signals++;
      if (endCode !== undefined) process.exit(endCode);
      if (signals > 1) process.exit(exitCodes.interrupted);
      resolve();
    };
    process.on("SIGINT", onSignal);
    process.on("SIGTERM", onSignal);
  });
  /** The code that the process ends with, by force if it has to. */
  function endWith(code: number): number {
    endCode = code;
    if (code !== exitCodes.ok) setTimeout(() => process.exit(code), LINGER_MS).unref();
    return code;
  }
  try {
    const starting = start();
    await Promise.race([starting, signalled, broken]);
    const running = await Promise.race([withinPatience(starting), broken]);
    if (running === undefined) {
      report("interrupted before the start had come to its end");
      return endWith(exitCodes.interrupted);
    }
    const failed = running.failed ?? broken;
    let failure: unknown;
    await Promise.race([signalled, failed, broken]).catch((error: unknown) => {
      failure = error;
    });
    await Promise.race([running.close(), broken]);
    if (failure !== undefined) throw failure;
    return endWith(exitCodes.ok);
  } catch (error) {
    report(describeError(error));
    return endWith(exitCodeOf(error));
  }
}

/** Undefined when it takes too long. */
async function withinPatience<T>(starting: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), START_PATIENCE_MS);
  });
  return Promise.race([starting, patience]).finally(() => clearTimeout(timer));
}
