import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { type MemoryDisk, memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import { decodePackageFile, encodePackageFile } from "@tributary/proto/wire/package.js";
import { openStore, type SqlStore } from "../store/open.js";
import { packageFile } from "../testing/package.js";
import { createPackages, type Packages } from "./packages.js";

async function* piecesOf(bytes: Uint8Array) {
  for (let at = 0; at < bytes.length; at += 100) yield bytes.subarray(at, at + 100);
}

describe("compute packages at the cloud", () => {
  let dir: string;
  let store: SqlStore;
  let disk: MemoryDisk;
  let packages: Packages;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "tributary-packages-"));
    store = await openStore({ dataDir: dir });
  });
  beforeEach(() => {
    disk = memoryDisk();
    packages = createPackages(disk, store.packages);
  });
  after(async () => {
    await store?.close();
    await rm(dir, { recursive: true, force: true });
  });
  const upload = async (file: Uint8Array, project = "default") => {
    const uploaded = await packages.upload(piecesOf(file), project, 5);
    return uploaded.ok ? uploaded.package.id : uploaded.code;
  };

  test("are kept as they came, and planned and read under their digest", async () => {
    const { file, archive, statement } = await packageFile("whole.1");
    assert.equal(await upload(file), "whole.1");
    const planned = await packages.planned("whole.1");
    assert.deepEqual(planned?.says, statement);
    assert.deepEqual(planned?.offered.manifest.digest, statement.digest);
    const opened = await packages.open("whole.1", statement.digest);
    assert.ok(opened);
    assert.deepEqual(Buffer.from(await opened.read(0, 1_000)), Buffer.from(archive));
    await opened.close();
    assert.equal(await packages.open("whole.1", "0".repeat(64)), undefined);
    assert.equal(await packages.planned("whole.2"), undefined);
  });

  test("keep their id for good: the same again is as good as new, another is refused", async () => {
    const key = makeKey("EdDSA");
    const { file } = await packageFile("once.1", {}, { key });
    assert.equal(await upload(file), "once.1");
    assert.equal(await upload(file), "once.1");
    assert.equal(await upload((await packageFile("once.1")).file), "package-exists");
    assert.equal(await upload(file, "other"), "package-exists");
    const changed = await packageFile("once.1", { timeMs: 2 }, { key });
    assert.equal(await upload(changed.file), "package-exists");
  });

  test("a tampered package: another archive, another statement, no signature", async () => {
    const { file, archive, statement } = await packageFile("bad.1");
    const changed = Buffer.from(file);
    const last = changed.length - 1;
    changed[last] = (changed[last] ?? 0) ^ 1;
    assert.equal(await upload(changed), "package-malformed");
    const forged = Buffer.from(file);
    // Within the statement's text, which is most of the file.
    forged[200] = forged[200] === 65 ? 66 : 65;
    assert.ok(["package-malformed", "package-signature"].includes(await upload(forged)));
    // Another statement, that fits its archive, under the signature of this one.
    const textOf = (bytes: Uint8Array) => {
      const read = decodePackageFile(bytes);
      assert.ok(read.ok && "statement" in read.head);
      return String(read.head.statement).split(".");
    };
    const [head, , signature] = textOf(file);
    const other = textOf((await packageFile("bad.1", { timeMs: 2 })).file)[1];
    const swapped = { statement: `${head}.${other}.${signature}` };
    assert.equal(await upload(encodePackageFile(swapped, archive)), "package-signature");
    assert.equal(
      await upload(encodePackageFile({ draft: statement }, archive)),
      "package-signature",
    );
    assert.equal(await upload(file.subarray(0, 50)), "package-malformed");
    assert.equal(await upload(new Uint8Array(0)), "package-malformed");
    assert.equal(await store.packages.package("bad.1"), undefined);
  });

  test("go with their archive, unless another has the same", async () => {
    const one = await packageFile("same.1", {}, { content: "shared" });
    const two = await packageFile("same.2", {}, { content: "shared" });
    await upload(one.file);
    await upload(two.file);
    assert.equal((await packages.remove("same.1"))?.id, "same.1");
    assert.deepEqual(await disk.list("packages"), [`${one.statement.digest}.tar.gz`]);
    assert.ok(await packages.planned("same.2"));
    await packages.remove("same.2");
    assert.deepEqual(await disk.list("packages"), []);
    assert.equal(await packages.remove("same.2"), undefined);
  });

  test("what a crash left without a row is removed at the next start", async () => {
    const { file, statement } = await packageFile("swept.1");
    await upload(file);
    await disk.writeFileAtomic(`packages/${"1".repeat(64)}.tar.gz`, [Uint8Array.of(1)]);
    await packages.sweep();
    assert.deepEqual(await disk.list("packages"), [`${statement.digest}.tar.gz`]);
  });

  test("one is uploaded at a time", async () => {
    const { file } = await packageFile("turn.1");
    let go = () => {};
    const held = new Promise<void>((resolve) => {
      go = resolve;
    });
    async function* slowly() {
      await held;
      yield file;
    }
    const first = packages.upload(slowly(), "default", 1);
    assert.equal(await upload(file), "busy");
    go();
    assert.ok((await first).ok);
  });
});
