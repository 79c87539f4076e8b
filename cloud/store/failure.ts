import { TributaryError } from "@tributary/proto/wire/errors.js";

/** SQLSTATE classes 23 (a constraint), 08, 57P0x and 53 (the server, for now). */
const CONSTRAINT = /^23/;
const UNREACHABLE = /^(08|57P0|53)/;
/** System errors of a connection that was not made or that broke. */
const BROKEN_LINK = /^(ECONN|EPIPE|ETIMEDOUT|EHOST|ENET|ENOTFOUND|EAI_AGAIN)/;

/** The failure that a driver's error stands for; a `TributaryError` stays as it is. */
export function storeFailure(cause: unknown): TributaryError {
  if (cause instanceof TributaryError) return cause;
  const code = codeOf(cause);
  const message = cause instanceof Error ? cause.message : String(cause);
  if (CONSTRAINT.test(code))
    return new TributaryError("store-conflict", `the store has another such row: ${message}`, {
      cause,
    });
  const lost =
    UNREACHABLE.test(code) || BROKEN_LINK.test(code) || /terminat|timeout/i.test(message);
  return lost
    ? new TributaryError("store-unreachable", `the store does not answer: ${message}`, {
        retryable: true,
        cause,
      })
    : new TributaryError("store-failed", `the store failed: ${message}`, { cause });
}

function codeOf(cause: unknown): string {
  const code = (cause as { code?: unknown } | null)?.code;
  return typeof code === "string" ? code : "";
}
