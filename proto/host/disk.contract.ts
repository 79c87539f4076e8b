import assert from "node:assert/strict";
import { test } from "node:test";
import { TributaryError } from "../wire/errors.js";
import type { Disk } from "./disk.js";

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (content: Uint8Array) => new TextDecoder().decode(content);

/** What every disk must do; `open` gives an empty one. */
export function diskContract(
  name: string,
  open: () => Promise<{ disk: Disk; done(): Promise<void> }>,
): void {
  const check = (what: string, run: (disk: Disk) => Promise<void>): void => {
    void test(`${name}: ${what}`, async () => {
      const { disk, done } = await open();
      try {
        await run(disk);
      } finally {
        await done();
      }
    });
  };

  check("an atomic write replaces the file and makes its directory", async (disk) => {
    await disk.writeFileAtomic("a/b", [bytes("one"), bytes(" two")]);
    assert.equal(text(await disk.readFile("a/b")), "one two");
    await disk.writeFileAtomic("a/b", [bytes("3")]);
    assert.equal(text(await disk.readFile("a/b")), "3");
    assert.deepEqual(await disk.list("a"), ["b"]);
  });

  check("an append file grows, truncates, and goes on where it was", async (disk) => {
    const file = await disk.openAppend("log");
    await file.append([bytes("abc"), bytes(""), bytes("def")]);
    await file.sync();
    assert.equal(file.size, 6);
    await file.truncate(4);
    await file.close();
    const again = await disk.openAppend("log");
    assert.equal(again.size, 4);
    await again.append([bytes("X")]);
    await again.close();
    assert.equal(text(await disk.readFile("log")), "abcdX");
  });

  check("ranges are read, short only at the end", async (disk) => {
    await disk.writeFileAtomic("f", [bytes("0123456789")]);
    const file = await disk.openRead("f");
    assert.equal(file.size, 10);
    assert.equal(text(await file.read(3, 4)), "3456");
    assert.equal(text(await file.read(8, 100)), "89");
    assert.equal((await file.read(10, 1)).length, 0);
    await file.close();
  });

  check("a missing file is disk-missing, a missing directory lists nothing", async (disk) => {
    const missing = (error: unknown) =>
      error instanceof TributaryError && error.code === "disk-missing";
    await assert.rejects(disk.readFile("nope"), missing);
    await assert.rejects(disk.openRead("nope"), missing);
    assert.deepEqual(await disk.list("nope"), []);
    assert.equal(await disk.exists("nope"), false);
    await disk.remove("nope");
  });

  check("a directory is made, listed and removed with what is in it", async (disk) => {
    await disk.makeDir("d/e");
    await disk.writeFileAtomic("d/e/f", [bytes("x")]);
    assert.equal(await disk.exists("d/e"), true);
    assert.deepEqual(await disk.list("d"), ["e"]);
    await disk.remove("d/e");
    assert.deepEqual(await disk.list("d/e"), []);
  });

  check("a path that leads out is refused", async (disk) => {
    for (const path of ["../x", "/etc/passwd", "a/../../x", "a\0b"]) {
      await assert.rejects(async () => disk.readFile(path), /leads out/);
    }
  });

  check("the root itself cannot be removed", async (disk) => {
    await disk.writeFileAtomic("kept", [bytes("x")]);
    for (const path of ["", ".", "a/.."]) {
      await assert.rejects(async () => disk.remove(path), /cannot be removed/);
    }
    assert.equal(text(await disk.readFile("kept")), "x");
  });

  check("free space is a number", async (disk) => {
    assert.ok((await disk.freeBytes()) > 0);
  });
}
