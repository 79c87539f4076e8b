import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { chmod, mkdir, readFile, stat, symlink, unlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { runCloud } from "@tributary/cloud/main.js";
import { runHere } from "./testing/command.js";

const dir = mkdtempSync(join(tmpdir(), "tributary-package-"));
const at = (...parts: string[]) => join(dir, ...parts);
after(() => rmSync(dir, { recursive: true, force: true }));

async function source(name: string, over: object = {}): Promise<string> {
  await mkdir(at(name, "lib"), { recursive: true });
  await writeFile(at(name, "train.py"), "print(1)\n");
  await writeFile(at(name, "lib", "a.py"), "x = 1\n");
  const described = { name: "steps", version: 3, entryPoints: { train: ["python3", "train.py"] } };
  await writeFile(at(name, "tributary-package.json"), JSON.stringify({ ...described, ...over }));
  return at(name);
}

async function run(...args: string[]): Promise<string> {
  const ended = await runHere(["package", ...args]);
  assert.equal(ended.code, 0, ended.stderr);
  return ended.stdout;
}

async function refused(...args: string[]): Promise<string> {
  const ended = await runHere(["package", ...args]);
  assert.notEqual(ended.code, 0, ended.stdout);
  return ended.stderr;
}

describe("a package from the command line", () => {
  test("the same files give the same bytes, whenever they were written", async () => {
    const [one, two] = [await source("one"), await source("two")];
    await chmod(join(two, "train.py"), 0o600);
    await utimes(join(two, "train.py"), 1, 1);
    await run("build", one, "--out", at("one.package"));
    await run("build", two, "--out", at("two.package"));
    assert.deepEqual(await readFile(at("one.package")), await readFile(at("two.package")));
  });

  test("is signed with a key that only its owner reads, and shown with who signed it", async () => {
    const made = JSON.parse(await run("key", "--out", at("signer.pem"), "--json"));
    assert.equal((await stat(at("signer.pem"))).mode & 0o777, 0o600);
    assert.match(made.signer, /^[\w-]{43}$/);
    assert.match(await refused("key", "--out", at("signer.pem")), /there already/);
    await run("build", await source("signed"), "--out", at("s.package"));
    assert.match(await run("show", at("s.package")), /nobody yet/);
    await run("sign", at("s.package"), "--key", at("signer.pem"));
    const shown = JSON.parse(await run("show", at("s.package"), "--json"));
    assert.deepEqual([shown.package, shown.signer, shown.files], ["steps.3", made.signer, 2]);
    await run("build", at("signed"), "--out", at("t.package"), "--key", at("signer.pem"));
    assert.deepEqual(await readFile(at("s.package")), await readFile(at("t.package")));
  });

  test("a tampered package is seen, wherever it was changed", async () => {
    const bytes = await readFile(at("s.package"));
    for (const place of [3, 40, 400, bytes.length - 100]) {
      const changed = Buffer.from(bytes);
      changed[place] = (changed[place] ?? 0) ^ 1;
      await writeFile(at("bad.package"), changed);
      assert.match(await refused("show", at("bad.package")), /bad\.package/);
    }
  });

  test("is not built of what cannot be one", async () => {
    const linked = await source("linked");
    await symlink("/etc/passwd", join(linked, "passwd"));
    assert.match(await refused("build", linked, "--out", at("x")), /no plain file/);
    await unlink(join(linked, "passwd"));
    await writeFile(join(linked, "a b"), "");
    assert.match(await refused("build", linked, "--out", at("x")), /no file of that name/);
    const outside = await source("outside", { entryPoints: { train: ["/bin/sh"] } });
    assert.match(await refused("build", outside, "--out", at("x")), /entryPoints.train/);
    assert.match(await refused("build", at("nowhere"), "--out", at("x")), /cannot read/);
    await mkdir(at("empty"));
    await writeFile(
      at("empty", "tributary-package.json"),
      JSON.stringify({ name: "e", version: 1, entryPoints: { train: ["node"] } }),
    );
    assert.match(await refused("build", at("empty"), "--out", at("x")), /files/);
  });
});

describe("packages at the cloud", () => {
  let cloud: Awaited<ReturnType<typeof runCloud>>;
  let url: string[];
  before(async () => {
    const env = {
      TRIBUTARY_CLOUD_DATA_DIR: at("cloud"),
      TRIBUTARY_CLOUD_HTTP__PORT: "0",
      TRIBUTARY_CLOUD_GRPC__PORT: "0",
    };
    cloud = await runCloud({ env, softwareVersion: "test", write: () => undefined });
    url = ["--url", `http://127.0.0.1:${cloud.httpPort}`];
  });
  after(() => cloud?.close());

  test("are uploaded once, listed and removed", async () => {
    assert.match(await run("list", ...url), /no package yet/);
    await run("key", "--out", at("cloud.pem"));
    const dir = await source("up");
    await run("build", dir, "--out", at("up.package"));
    assert.match(await refused("upload", at("up.package"), ...url), /not signed/);
    await run("sign", at("up.package"), "--key", at("cloud.pem"));
    assert.match(await run("upload", at("up.package"), ...url), /package steps\.3/);
    assert.match(await run("upload", at("up.package"), ...url), /package steps\.3/);
    await writeFile(join(dir, "train.py"), "print(2)\n");
    await run("build", dir, "--out", at("other.package"), "--key", at("cloud.pem"));
    assert.match(await refused("upload", at("other.package"), ...url), /new version/);
    const listed = JSON.parse(await run("list", "--json", ...url));
    assert.deepEqual(
      listed.map(({ id, project }: { id: string; project: string }) => [id, project]),
      [["steps.3", "default"]],
    );
    assert.match(await run("remove", "steps.3", ...url), /is removed/);
    assert.match(await refused("remove", "steps.3", ...url), /no package/);
    assert.match(await run("upload", at("other.package"), ...url), /package steps\.3/);
  });
});
