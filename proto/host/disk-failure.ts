import { TributaryError } from "../wire/errors.js";

const kinds = {
  "disk-full": ["ENOSPC", "EDQUOT"],
  "disk-read-only": ["EROFS", "EACCES", "EPERM"],
  "disk-missing": ["ENOENT"],
} as const;

type DiskCode = keyof typeof kinds | "disk-failed";

const systemCode = (cause: unknown): string => (cause as NodeJS.ErrnoException).code ?? "";

function codeOf(cause: unknown): DiskCode {
  const system = systemCode(cause);
  for (const code of ["disk-full", "disk-read-only", "disk-missing"] as const) {
    if ((kinds[code] as readonly string[]).includes(system)) return code;
  }
  return "disk-failed";
}

function failure(cause: unknown, message: string): TributaryError {
  const code = codeOf(cause);
  const retryable = code === "disk-full" || code === "disk-read-only";
  return new TributaryError(code, message, { retryable, cause });
}

/** What the system answered, as the failure of a `Disk`. */
export function diskFailure(action: string, path: string, cause: unknown): TributaryError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return failure(cause, `cannot ${action} ${path}: ${why}`);
}

const reasons: Readonly<Record<string, readonly [why: string, advice: string]>> = {
  ENOSPC: ["its disk is full", "Make room there"],
  EDQUOT: ["this user's share of its disk is used up", "Make room there"],
  EROFS: ["its disk is mounted read-only", "Mount it so that it can be written"],
  EACCES: ["this user may not write there", "Let it"],
  EPERM: ["this user may not write there", "Let it"],
  EEXIST: ["it is a file, not a directory", "Move the file away"],
  ENOTDIR: ["a part of its path is a file, not a directory", "Move the file away"],
  ENOENT: ["nothing can be made in the directory above it", "Look whether its disk is there"],
};

/** The same of a data directory that cannot be used, for whoever wants to start on it. */
export function dataDirFailure(path: string, cause: unknown): TributaryError {
  const [why, advice] = reasons[systemCode(cause)] ?? [
    cause instanceof Error ? cause.message : String(cause),
    "Look at its disk",
  ];
  return failure(cause, `cannot write ${path}: ${why}. ${advice}, or choose another dataDir.`);
}
