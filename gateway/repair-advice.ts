import { TributaryError } from "@tributary/proto/wire/errors.js";

/** What a start that damage has stopped says, with what to do about it. */
export function adviseRepair(error: unknown, dataDir: string): unknown {
  if (!(error instanceof TributaryError)) return error;
  // The index fails for other reasons, too: a disk that is full, or not this user's.
  const index =
    error.code === "store-failed" &&
    (!error.retryable || /corrupt|no such file/i.test(error.message));
  const damaged = error.code === "journal-corrupt" || index;
  if (!damaged) return error;
  const advice =
    `${error.message}\nThe gateway does not start on damaged data. Look with ` +
    "`tributary gateway repair --config FILE --dry-run`; without --dry-run it keeps what can be\n" +
    `read and puts the rest aside in ${dataDir}/damaged.`;
  return new TributaryError(error.code, advice, { retryable: error.retryable, cause: error });
}
