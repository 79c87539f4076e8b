import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { fsyncSync, readlinkSync } from "node:fs";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { EMBEDDED_VERSION, openEmbedded, type SyncFile } from "./embedded.js";
import type { Sql } from "./sql.js";

const onLinux = process.platform === "linux";
const MIB = 1024 * 1024;

// With these arguments this file is the process that the test kills.
const [, , role, killedDir = ""] = process.argv;

if (role === "write-until-killed") {
  process.on("disconnect", () => process.exit(1));
  const sql = await openEmbedded(killedDir);
  for (let n = 1; ; n++) {
    await sql.write("durable", (query) => query("INSERT INTO kept VALUES ($1)", [n]));
    process.send?.(n);
  }
} else {
  describe("embedded store", () => {
    let dir: string;
    let sql: Sql;
    const synced: string[] = [];
    const sync: SyncFile = (descriptor) => {
      if (onLinux) synced.push(readlinkSync(`/proc/self/fd/${descriptor}`).slice(dir.length));
      fsyncSync(descriptor);
    };
    const open = () => openEmbedded(dir, sync, { logBytes: 8 * MIB, writesPerLogCheck: 8 });
    before(async () => {
      dir = await mkdtemp(join(tmpdir(), "tributary-embedded-"));
      sql = await open();
      await sql.write("durable", (query) => query("CREATE TABLE kept (n integer, filler text)"));
    });
    after(async () => {
      await sql?.close();
      await rm(dir, { recursive: true, force: true });
    });

    test("the engine is the PostgreSQL version that the directory check expects", async () => {
      const [row] = await sql.read("SELECT current_setting('server_version') AS v");
      assert.equal(String(row?.v).split(".")[0], EMBEDDED_VERSION);
      const names = ["fsync", "synchronous_commit", "full_page_writes"];
      for (const name of names) {
        const [setting] = await sql.read("SELECT current_setting($1) AS v", [name]);
        assert.equal(setting?.v, "on", name);
      }
    });

    test("a durable write syncs the write-ahead log before it resolves; a lazy one does not", {
      skip: !onLinux && "descriptors are named by /proc",
    }, async () => {
      const insert = (durability: "durable" | "lazy") =>
        sql.write(durability, (query) => query("INSERT INTO kept VALUES (0)"));
      await insert("durable");
      synced.length = 0;
      await insert("lazy");
      assert.equal(synced.length, 0);
      await insert("durable");
      assert.ok(synced.length > 0 && synced.every((path) => path.startsWith("/pg/pg_wal/")));
    });

    test("a body that throws leaves no trace, and the next write goes on", async () => {
      const count = async () => (await sql.read("SELECT count(*)::int AS n FROM kept"))[0]?.n;
      const already = await count();
      const broken = sql.write("durable", async (query) => {
        await query("INSERT INTO kept VALUES (7)");
        throw new Error("changed its mind");
      });
      await assert.rejects(broken, /changed its mind/);
      assert.equal(await count(), already);
      await sql.write("durable", (query) => query("INSERT INTO kept VALUES (7)"));
      assert.equal(await count(), Number(already) + 1);
    });

    test("the write-ahead log does not grow without bound", async () => {
      // 128 KB of text that does not compress, copied 16 times in each write: 128 MiB in all.
      await sql.write("durable", (query) =>
        query(`INSERT INTO kept SELECT -1, string_agg(md5(random()::text), '')
               FROM generate_series(1, 4096)`),
      );
      for (let n = 0; n < 64; n++)
        await sql.write("lazy", (query) =>
          query(`INSERT INTO kept SELECT 1, filler FROM kept, generate_series(1, 16) WHERE n = -1`),
        );
      const folder = join(dir, "pg", "pg_wal");
      let bytes = 0;
      for (const name of await readdir(folder)) bytes += (await stat(join(folder, name))).size;
      assert.ok(bytes < 100 * MIB, `${bytes} bytes`);
    });

    test("after SIGKILL every write that resolved is there, in order", async () => {
      await sql.write("durable", (query) => query("TRUNCATE kept"));
      await sql.close();
      const child = fork(new URL(import.meta.url), ["write-until-killed", dir], { execArgv: [] });
      let told = 0;
      await new Promise<void>((resolve, reject) => {
        child.on("message", (n) => {
          told = Number(n);
          if (told >= 25) resolve();
        });
        child.on("exit", () => reject(new Error(`the writer ended by itself after ${told}`)));
      });
      child.kill("SIGKILL");
      await once(child, "exit");
      sql = await open();
      const rows = await sql.read("SELECT n FROM kept ORDER BY n");
      assert.ok(rows.length >= told, `${rows.length} of ${told}`);
      assert.deepEqual(
        rows.map(({ n }) => n),
        rows.map((_, index) => index + 1),
      );
    });
  });
}
