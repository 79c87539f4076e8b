import assert from "node:assert/strict";
import { cp, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { examineIndex, refuseDamagedIndex } from "./index-files.js";
import { levelDatabase } from "./store-table.js";

let root = "";
/** LevelDB's files with records in a compressed table and in a log, some across its blocks. */
let path = "";
const expected = new Map<string, string>();

before(async () => {
  root = await mkdtemp(join(tmpdir(), "index-"));
  path = join(root, "whole");
  for (const run of ["table", "log"]) {
    const database = levelDatabase(path);
    await database.open();
    for (let i = 0; i < 40; i++) {
      const length = i === 20 ? 70_000 : 40 * i;
      // What does not compress beside what does, and no sector of zeros.
      const text =
        `${i}`.repeat(length) +
        Math.sin(i)
          .toString(36)
          .repeat(length % 7);
      const key = `${run}!${String(i).padStart(4, "0")}`;
      await database.batch([{ type: "put", key, value: Buffer.from(text) }], { sync: true });
      expected.set(key, text);
    }
    await database.batch([{ type: "put", key: "both", value: Buffer.from(run) }], { sync: true });
    expected.set("both", run);
    await database.batch([{ type: "del", key: `${run}!0003` }], { sync: true });
    expected.delete(`${run}!0003`);
    await database.close();
  }
});
after(() => rm(root, { recursive: true, force: true }));

const named = async (pattern: RegExp) => {
  const file = (await readdir(path)).find((name) => pattern.test(name));
  assert.ok(file);
  return file;
};
const copied = async () => {
  const dir = await mkdtemp(join(root, "copy-"));
  await cp(path, dir, { recursive: true });
  return dir;
};

/** What LevelDB makes of the files. */
async function recordsIn(dir: string): Promise<Map<string, string>> {
  const database = levelDatabase(dir);
  await database.open();
  try {
    const all = await database.iterator({ gte: "", lt: "\u007f" }).all();
    return new Map(all.map(([key, value]) => [key, Buffer.from(value).toString()]));
  } finally {
    await database.close();
  }
}

/** Either the damage is named, or LevelDB still has every record. */
async function holds(dir: string, file: string, at: number): Promise<"named" | "all there"> {
  try {
    await refuseDamagedIndex(dir);
  } catch (error) {
    assert.ok(error instanceof TributaryError);
    assert.equal(error.code, "index-corrupt");
    assert.match(error.message, new RegExp(`${file} at byte \\d+`), `byte ${at}`);
    return "named";
  }
  const opened = await copied();
  await writeFile(join(opened, file), await readFile(join(dir, file)));
  assert.deepEqual(await recordsIn(opened), expected, `${file}, byte ${at}`);
  return "all there";
}

async function damageEach(
  pattern: RegExp,
  step: number,
  change: (bytes: Buffer, at: number) => void,
  from = 0,
): Promise<number> {
  const dir = await copied();
  const file = await named(pattern);
  const bytes = await readFile(join(dir, file));
  let count = 0;
  for (let at = from; at < bytes.length; at += step) {
    const changed = Buffer.from(bytes);
    change(changed, at);
    if (changed.equals(bytes)) continue;
    await writeFile(join(dir, file), changed);
    if ((await holds(dir, file, at)) === "named") count++;
  }
  await rm(dir, { recursive: true });
  return count;
}

const flip = (bytes: Buffer, at: number) => {
  bytes[at] = (bytes[at] as number) ^ 0x10;
};
const overwrite = (bytes: Buffer, at: number) =>
  bytes.subarray(at, at + 2).set([0xaa, 0x55].slice(0, bytes.length - at));
const blank = (bytes: Buffer, at: number) => bytes.subarray(at, at + 64).fill(0);

describe("the index's files", () => {
  it("hold every change, and are whole, while nobody has damaged them", async () => {
    const found = new Map<string, { order: bigint; text: string | undefined }>();
    const damage = await examineIndex(path, ({ key, order, value }) => {
      const text = value && Buffer.from(value).toString();
      if (order > (found.get(key)?.order ?? -1n)) found.set(key, { order, text });
    });
    assert.deepEqual(damage, []);
    const kept = [...found].flatMap(([key, { text }]) => (text === undefined ? [] : [[key, text]]));
    assert.deepEqual(new Map(kept as [string, string][]), expected);
    assert.deepEqual(await recordsIn(await copied()), expected);
  });

  it("name damage anywhere in a write-ahead log, in its last record, too", async () => {
    assert.ok((await damageEach(/\.log$/, 64, flip)) > 1_000);
    assert.ok((await damageEach(/\.log$/, 203, overwrite)) > 300);
    const size = (await readFile(join(path, await named(/\.log$/)))).length;
    for (const change of [flip, overwrite]) {
      const found = await damageEach(/\.log$/, 1, change, size - 120);
      assert.ok(found > 100, `${found}`);
    }
    // Zeros at the very end are what a power cut leaves.
    const file = await named(/\.log$/);
    const bytes = await readFile(join(path, file));
    const dir = await copied();
    for (let at = 0; at < bytes.length - 20_000; at += 500) {
      const changed = Buffer.from(bytes);
      blank(changed, at);
      await writeFile(join(dir, file), changed);
      await holds(dir, file, at);
    }
  });

  it("name damage anywhere in a table", async () => {
    for (const change of [flip, overwrite, blank]) {
      assert.ok((await damageEach(/\.ldb$/, 64, change)) > 10);
    }
  });

  it("name a table of which a part belongs to no block", async () => {
    const dir = await copied();
    const file = await named(/\.ldb$/);
    const bytes = await readFile(join(dir, file));
    // The footer names the block of the index twice, and what lies before it no more.
    const footer = bytes.subarray(bytes.length - 48);
    const ends = [...footer.keys()].filter((at) => (footer[at] as number) < 0x80);
    const [, metaEnd = 0, , indexEnd = 0] = ends;
    const handle = Buffer.from(footer.subarray(metaEnd + 1, indexEnd + 1));
    footer.fill(0, 0, 40);
    footer.set([...handle, ...handle]);
    await writeFile(join(dir, file), bytes);
    assert.equal(await holds(dir, file, bytes.length - 48), "named");
  });

  it("name damage anywhere in the MANIFEST and in CURRENT", async () => {
    for (const pattern of [/^MANIFEST/, /^CURRENT/]) {
      for (const change of [flip, overwrite]) await damageEach(pattern, 1, change);
    }
  });

  it("are cut where a kill or a power cut has left the newest log, and nothing else is lost", async () => {
    const dir = await copied();
    const file = await named(/\.log$/);
    const bytes = await readFile(join(path, file));
    for (let at = bytes.length - 1; at >= 0; at -= 997) {
      await writeFile(join(dir, file), bytes.subarray(0, at));
      assert.deepEqual(await examineIndex(dir), [], `cut at byte ${at}`);
      // Pages that were not written yet.
      await writeFile(join(dir, file), Buffer.from(bytes).fill(0, at - (at % 4_096)));
      assert.deepEqual(await examineIndex(dir), [], `zeros from byte ${at - (at % 4_096)}`);
    }
    // The last change was a deletion: without its end that is as if it had not come.
    await writeFile(join(dir, file), bytes.subarray(0, -1));
    const left = await recordsIn(dir);
    assert.ok(left.delete("log!0003"));
    assert.deepEqual(left, expected);
  });

  it("name one that is gone, or shorter than it was", async () => {
    for (const pattern of [/\.ldb$/, /\.log$/, /^MANIFEST/, /^CURRENT/]) {
      const dir = await copied();
      const file = await named(pattern);
      await rm(join(dir, file));
      const [found] = await examineIndex(dir);
      assert.equal(found?.file, file.startsWith("MANIFEST") ? "CURRENT" : file);
      assert.equal(found?.offset, 0);
    }
    const dir = await copied();
    const file = await named(/\.ldb$/);
    await truncate(join(dir, file), 100);
    assert.deepEqual(
      [(await examineIndex(dir))[0]].map((d) => [d?.file, d?.offset]),
      [[file, 100]],
    );
  });

  it("are none before the first start has made them", async () => {
    const dir = await mkdtemp(join(root, "none-"));
    assert.deepEqual(await examineIndex(dir), []);
    assert.deepEqual(await examineIndex(join(dir, "missing")), []);
    await writeFile(join(dir, "MANIFEST-000001"), "");
    assert.deepEqual(await examineIndex(dir), []);
  });
});
