/** What a failure can add to its code and message. */
export type FailureOptions = {
  /** Whether the same call can succeed later with nothing changed. Default: false. */
  readonly retryable?: boolean;
  readonly cause?: unknown;
};

/**
 * A failure: something the caller could not expect and cannot decide by a value (see `Verdict` for
 * what it can). `code` is lower-case words joined by `-`, part of the API; `message` is for people.
 *
 * The codes of the ports in `proto/host/`:
 *
 *     disk-full         no space or no quota left (retryable)
 *     disk-read-only    the disk or the file does not let this process write
 *     disk-missing      no such file
 *     disk-path         a path that leaves the disk's root, or is not in plain form
 *     disk-failed       any other answer of the disk, an I/O error for one
 *     journal-corrupt   a journal is damaged before its last write
 *     journal-missing   a journal that was made, and whose end is not known, is gone
 *     journal-version   a journal of a newer format than this build reads
 *     journal-closed    a call on a closed journal
 *     journal-busy      too many appends wait (retryable)
 *     frame-too-large   a frame past the journal's bound
 *     channel-closed    a push into a closed channel
 *     data-dir-locked   another process uses the data directory (retryable)
 *     config-invalid    the configuration; the message lists every problem
 */
export class TributaryError extends Error {
  override readonly name = "TributaryError";
  readonly code: string;
  readonly retryable: boolean;

  constructor(code: string, message: string, options: FailureOptions = {}) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.retryable = options.retryable ?? false;
  }
}
