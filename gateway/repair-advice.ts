import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { Disk } from "@tributary/proto/host/disk.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";

/** What a start that damage has stopped says, with what to do about it. */
export function adviseRepair(error: unknown, dataDir: string): unknown {
  if (!(error instanceof TributaryError)) return error;
  // The index fails for other reasons, too: a disk that is full, or not this user's.
  const index =
    error.code === "store-failed" &&
    (!error.retryable || /corrupt|no such file/i.test(error.message));
  const damaged =
    ["index-corrupt", "journal-corrupt", "journal-missing"].includes(error.code) || index;
  if (!damaged) return error;
  const advice =
    `${error.message}\nThe gateway does not start on damaged data. Look with ` +
    "`tributary gateway repair --config FILE --dry-run`; without --dry-run it keeps what can be\n" +
    `read and puts the rest aside in ${dataDir}/damaged.`;
  return new TributaryError(error.code, advice, { retryable: error.retryable, cause: error });
}

/**
 * Rejects when the index is gone and what it names is not: a start takes whatever the index does
 * not name for a left-over, and would remove it.
 */
export async function refuseLostIndex(disk: Disk, dataDir: string): Promise<void> {
  const index = join(dataDir, "index", "CURRENT");
  if ((await stat(index).catch(() => undefined)) !== undefined) return;
  const dirs = ["rounds", "sites", "outbox"];
  const names = await Promise.all(dirs.map((dir) => disk.list(dir)));
  const file = names.flatMap((of, i) => of.map((name) => `${dirs[i]}/${name}`))[0];
  if (file === undefined) return;
  throw new TributaryError(
    "store-failed",
    `${dataDir} has ${file} and no index that names it. Bring back ${dataDir}/index, or move ` +
      `${dirs.join(", ")} away to start anew.`,
  );
}
