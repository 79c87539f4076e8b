import { fsyncSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { PGlite } from "@electric-sql/pglite";
import { NodeFS } from "@electric-sql/pglite/nodefs";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { storeFailure } from "./failure.js";
import { storeLimits } from "./limits.js";
import type { Query, Sql, SqlRow } from "./sql.js";

/** PostgreSQL's major version in the embedded engine: the format of its data directory. */
export const EMBEDDED_VERSION = "18";

/** When the write-ahead log is cut; see `storeLimits`. */
type LogBounds = { readonly logBytes: number; readonly writesPerLogCheck: number };
/** Makes what was written to a file durable before it returns. */
export type SyncFile = (descriptor: number) => void;
/** What the directory's file system needs to know of a stream: its descriptor here. */
type FileStream = { readonly nfd: number };
type EngineOptions = Parameters<NodeFS["init"]>[1];
type EngineHook = NonNullable<EngineOptions["preRun"]>[number];
type NodeFileSystem = { stream_ops: { fsync?: (stream: FileStream) => number } };

/**
 * The engine's directory on this machine's disk, with fsync. The engine's own NodeFS leaves the
 * call out, so that nothing it writes is sure to outlive a power cut; its C library calls
 * `stream_ops.fsync` where there is one.
 */
class DurableNodeFS extends NodeFS {
  readonly #sync: SyncFile;

  constructor(directory: string, sync: SyncFile) {
    super(directory);
    this.#sync = sync;
  }

  override async init(engine: PGlite, options: EngineOptions) {
    const { emscriptenOpts } = await super.init(engine, options);
    const hook: EngineHook = (module) => {
      const { NODEFS } = module as unknown as { NODEFS: NodeFileSystem };
      NODEFS.stream_ops.fsync = (stream) => {
        this.#sync(stream.nfd);
        return 0;
      };
    };
    return {
      emscriptenOpts: { ...emscriptenOpts, preRun: [...(emscriptenOpts.preRun ?? []), hook] },
    };
  }
}

/**
 * Later settings win over the engine's own `-F` (no fsync). `wal_sync_method` must be fsync: the
 * default, fdatasync, never reaches the file system above. The engine runs in single-user mode,
 * where no checkpoint happens by itself: `cutLog` does it.
 */
const settings = [
  "fsync=on",
  "synchronous_commit=on",
  "full_page_writes=on",
  "wal_sync_method=fsync",
  "shared_buffers=16MB",
  "min_wal_size=32MB",
  "max_wal_size=64MB",
].flatMap((setting) => ["-c", setting]);

/**
 * Opens PostgreSQL in this process on `<dataDir>/pg`, which one process may use at a time (the
 * caller holds the data directory's lock). The first start writes the directory, in seconds.
 */
export async function openEmbedded(
  dataDir: string,
  sync: SyncFile = fsyncSync,
  bounds: LogBounds = storeLimits,
): Promise<Sql> {
  const directory = join(dataDir, "pg");
  await mkdir(directory, { recursive: true });
  await checkVersion(directory);
  const engine = await PGlite.create({
    fs: new DurableNodeFS(directory, sync),
    startParams: [...PGlite.defaultStartParams, ...settings],
  }).catch((cause) => {
    throw storeFailure(cause);
  });
  const read: Query = (statement, parameters = []) =>
    engine.query<SqlRow>(statement, [...parameters]).then(({ rows }) => rows, fail);
  const cutLog = createLogCutter(read, bounds);
  return {
    read,
    async write(durability, body) {
      try {
        const result = await engine.transaction(async (transaction) => {
          const query: Query = async (statement, parameters = []) =>
            (await transaction.query<SqlRow>(statement, [...parameters])).rows;
          if (durability === "lazy") await query("SET LOCAL synchronous_commit = off");
          return body(query);
        });
        await cutLog();
        return result;
      } catch (cause) {
        return fail(cause);
      }
    },
    close: () => engine.close(),
  };
}

function fail(cause: unknown): never {
  throw storeFailure(cause);
}

async function checkVersion(directory: string): Promise<void> {
  const found = await readFile(join(directory, "PG_VERSION"), "utf8").catch(() => undefined);
  if (found !== undefined && found.trim() !== EMBEDDED_VERSION)
    throw new TributaryError(
      "store-version",
      `${directory} was written by PostgreSQL ${found.trim()}; this build embeds ${EMBEDDED_VERSION}: use the build that wrote it`,
    );
}

/** Checkpoints when the write-ahead log has grown by its bound since the last checkpoint. */
function createLogCutter(query: Query, bounds: LogBounds): () => Promise<void> {
  let writes = 0;
  let cutAt: number | undefined;
  return async () => {
    if (cutAt !== undefined && ++writes < bounds.writesPerLogCheck) return;
    writes = 0;
    const [row] = await query("SELECT (pg_current_wal_insert_lsn() - '0/0')::float8 AS position");
    const position = Number(row?.position);
    if (cutAt !== undefined && position - cutAt < bounds.logBytes) return;
    if (cutAt !== undefined) await query("CHECKPOINT");
    cutAt = position;
  };
}
