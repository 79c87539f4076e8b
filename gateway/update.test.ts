import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, it } from "node:test";
import { gzipSync } from "node:zlib";
import { type Bundle, signBundle } from "@tributary/proto/identity/bundle.js";
import {
  sampleBundle,
  sampleFiles,
  sampleSigner,
  writeSampleArchive,
  writeSampleBundle,
} from "./testing/bundle.js";
import { installBundle, type UpdateOptions } from "./update.js";
import { openSlots } from "./update-slots.js";

let dir = "";
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "tributary-update-"));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const signer = sampleSigner();
const gateway = { site: "north", gateway: "north-1" };

async function setUp() {
  const home = join(dir, "home");
  await mkdir(home, { recursive: true });
  const slots = openSlots(home);
  const install = (source: string, given: Partial<UpdateOptions> = {}) =>
    installBundle(source, { slots, trust: signer.trust, gateway, arch: "x64", ...given });
  const bundle = (version: string, given: Partial<Bundle> = {}) =>
    writeSampleBundle(join(dir, `${version}.tar.gz`), version, signer, given);
  return { home, slots, install, bundle };
}

/** Every file of the home with its content: what a refusal must leave as it was. */
async function contentOf(home: string): Promise<Record<string, string>> {
  const entries = await readdir(home, { recursive: true, withFileTypes: true });
  const found: Record<string, string> = {};
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile()) found[path] = await readFile(path, "utf8");
    if (entry.isSymbolicLink()) found[path] = await readlink(path);
  }
  return found;
}

describe("an update of the software", () => {
  it("goes into the other slot, runs on trial, and is kept or given up", async () => {
    const { home, slots, install, bundle } = await setUp();
    const first = await install(await bundle("1.0.0"));
    assert.ok(first.ok && first.changed);
    assert.equal(await readlink(join(home, "current")), "slots/a");
    assert.equal(await slots.trial(), undefined); // there is nothing to go back to
    const script = join(home, "current/app/bin/tributary.mjs");
    assert.equal(await readFile(script, "utf8"), "// 1.0.0\n");
    assert.equal((await stat(script)).mode & 0o777, 0o755);
    assert.deepEqual(await readdir(join(home, "slots/a")), [
      "app",
      "installed.json",
      "package.json",
    ]);

    const next = await install(await bundle("1.1.0", { minimumVersion: "1.1.0" }));
    assert.ok(next.ok && next.changed);
    assert.equal(await readFile(script, "utf8"), "// 1.1.0\n");
    assert.deepEqual(await slots.trial(), { starts: 0, previous: "a" });
    assert.equal(await slots.minimumVersion(), "1.0.0"); // not before it is kept
    const third = await install(await bundle("1.2.0"));
    assert.ok(!third.ok && third.code === "update-busy");
    assert.equal(await readFile(join(home, "slots/a/package.json"), "utf8"), '{"version":"1.0.0"}');

    await slots.keep();
    assert.equal(await slots.trial(), undefined);
    assert.equal(await slots.minimumVersion(), "1.1.0");
    assert.ok((await install(await bundle("1.2.0"))).ok);
    assert.equal(await readlink(join(home, "current")), "slots/a");
    await slots.goBack();
    assert.equal(await readlink(join(home, "current")), "slots/b");
    assert.equal(await slots.trial(), undefined);
    assert.equal(await slots.takeWentBack(), true);
    assert.equal(await slots.takeWentBack(), false);
  });

  it("changes nothing when the same bundle is installed again, from a folder too", async () => {
    const { home, install, bundle } = await setUp();
    assert.ok((await install(await bundle("1.0.0"))).ok);
    const before = await contentOf(home);
    const again = await install(await bundle("1.0.0"));
    assert.ok(again.ok && !again.changed);
    const folder = join(dir, "folder");
    for (const [path, { text }] of sampleFiles("1.0.0")) {
      await mkdir(dirname(join(folder, path)), { recursive: true });
      await writeFile(join(folder, path), text);
    }
    const manifest = await signBundle(sampleBundle("1.0.0"), signer.signing);
    await writeFile(join(folder, "manifest.jws"), manifest);
    const unpacked = await install(folder);
    assert.ok(unpacked.ok && !unpacked.changed);
    assert.deepEqual(await contentOf(home), before);
  });

  it("refuses a downgrade, and past the minimum in any case", async () => {
    const { home, slots, install, bundle } = await setUp();
    assert.ok((await install(await bundle("1.2.0", { minimumVersion: "1.1.0" }))).ok);
    const before = await contentOf(home);
    const older = await install(await bundle("1.1.9"));
    assert.ok(!older.ok && older.code === "bundle-older");
    assert.match(older.message, /1\.1\.9 is older than 1\.2\.0, which runs; allow it/);
    const tooOld = await install(await bundle("1.0.9"), { allowOlder: true });
    assert.ok(!tooOld.ok && tooOld.code === "bundle-older");
    const before120 = await install(await bundle("1.2.0-rc1"));
    assert.ok(!before120.ok && before120.code === "bundle-older");
    assert.deepEqual(await contentOf(home), before);
    assert.ok((await install(await bundle("1.1.9"), { allowOlder: true })).ok);
    await slots.keep();
    assert.equal(await slots.minimumVersion(), "1.1.0"); // 1.1.9's own is 1.0.0: it never goes back
  });

  it("refuses what is for another gateway or another machine", async () => {
    const { install, bundle } = await setUp();
    const elsewhere = await install(
      await bundle("1.0.0", { for: { site: "north", gateway: "north-2" } }),
    );
    assert.ok(!elsewhere.ok && elsewhere.code === "bundle-other");
    assert.match(elsewhere.message, /for the gateway north-2 of north, not for north-1/);
    const arm = await install(await bundle("1.0.0", { arch: "arm64" }));
    assert.ok(!arm.ok && arm.code === "bundle-other");
    assert.match(arm.message, /for arm64, this machine is x64/);
    assert.ok((await install(await bundle("1.0.0", { arch: "arm64" }), { arch: "any" })).ok);
  });
});

describe("a tampered bundle", () => {
  /** Installs 1.0.0, then offers what `tamper` makes of 1.1.0. */
  async function offer(
    tamper: (entries: { name: string; mode?: number; text: string }[]) => void,
    signing = signer.signing,
  ) {
    const { home, install, bundle } = await setUp();
    assert.ok((await install(await bundle("1.0.0"))).ok);
    const before = await contentOf(home);
    const entries = [
      { name: "manifest.jws", text: await signBundle(sampleBundle("1.1.0"), signing) },
      ...[...sampleFiles("1.1.0")].map(([name, { mode, text }]) => ({ name, mode, text })),
    ];
    tamper(entries);
    const refused = await install(await writeSampleArchive(join(dir, "bad.tar.gz"), entries));
    assert.deepEqual(await contentOf(home), before, "it left something behind");
    assert.ok(!refused.ok);
    return refused;
  }
  const entry = (entries: { name: string; text: string }[], name: string) => {
    const found = entries.find((one) => one.name === name);
    assert.ok(found);
    return found;
  };

  it("with another byte in a file is refused", async () => {
    const refused = await offer((entries) => {
      entry(entries, "release/app/bin/tributary.mjs").text = "// 1.1.1\n";
    });
    assert.equal(refused.code, "bundle-digest");
    assert.match(refused.message, /tributary\.mjs is not what was signed/);
  });

  it("with a file more, twice, missing or of another length is refused", async () => {
    const more = await offer((entries) => entries.push({ name: "release/zzz.mjs", text: "x" }));
    assert.match(more.message, /zzz\.mjs is not in the manifest/);
    const twice = await offer((entries) => {
      entries.push({ ...entry(entries, "release/package.json") });
    });
    assert.match(twice.message, /is there twice/);
    const fewer = await offer((entries) => entries.pop());
    assert.match(fewer.message, /package\.json is in the manifest and not in the bundle/);
    const longer = await offer((entries) => {
      entry(entries, "release/package.json").text += " ";
    });
    assert.match(longer.message, /has 20 bytes; 19 were signed/);
    for (const { code } of [more, twice, fewer, longer]) assert.equal(code, "bundle-digest");
  });

  it("with another signature, or another manifest under the signature, is refused", async () => {
    const stranger = await offer(() => {}, sampleSigner().signing);
    assert.equal(stranger.code, "bundle-signature");
    const unknown = await offer(() => {}, sampleSigner("key-2").signing);
    assert.equal(unknown.code, "bundle-signature");
    const edited = await offer((entries) => {
      const manifest = entry(entries, "manifest.jws");
      const [head = "", , mark = ""] = manifest.text.split(".");
      const body = Buffer.from(JSON.stringify(sampleBundle("9.9.9"))).toString("base64url");
      manifest.text = `${head}.${body}.${mark}`;
    });
    assert.equal(edited.code, "bundle-signature");
    const none = await offer((entries) => {
      const manifest = entry(entries, "manifest.jws");
      const [, body = ""] = manifest.text.split(".");
      const head = { alg: "none", typ: "tributary-bundle+jwt", kid: "key-1" };
      manifest.text = `${Buffer.from(JSON.stringify(head)).toString("base64url")}.${body}.`;
    });
    assert.equal(none.code, "bundle-signature");
  });

  it("of another fleet is refused, though its key were trusted", async () => {
    const { install, bundle } = await setUp();
    const refused = await install(await bundle("1.0.0", { fleet: "others" }));
    assert.ok(!refused.ok && refused.code === "bundle-signature");
  });

  it("that leads out of its place, holds links, or does not begin with its manifest is refused", async () => {
    const { home, install } = await setUp();
    const outside = sampleBundle("1.0.0", {
      files: [{ path: "release/../../../evil", mode: 0o755, bytes: 1, sha256: "ab".repeat(32) }],
    });
    const text = await signBundle(outside, signer.signing);
    const leading = await install(
      await writeSampleArchive(join(dir, "out.tar.gz"), [{ name: "manifest.jws", text }]),
    );
    assert.ok(!leading.ok && leading.code === "bundle-malformed");
    const manifest = await signBundle(sampleBundle("1.0.0"), signer.signing);
    const linked = await install(
      await writeSampleArchive(join(dir, "link.tar.gz"), [
        { name: "manifest.jws", text: manifest },
        { name: "install.sh", type: "symlink", linkname: "/etc/passwd", text: "" },
      ]),
    );
    assert.ok(!linked.ok && linked.code === "bundle-malformed");
    assert.match(linked.message, /install\.sh is a symlink, not a file/);
    const late = await install(
      await writeSampleArchive(join(dir, "late.tar.gz"), [{ name: "install.sh", text: manifest }]),
    );
    assert.ok(!late.ok && late.code === "bundle-malformed");
    assert.match(late.message, /begins with manifest\.jws/);
    assert.equal(await openSlots(home).current(), undefined);
  });

  it("that is cut short, no archive at all, or not there fails", async () => {
    const { install, bundle } = await setUp();
    const whole = await readFile(await bundle("1.0.0"));
    for (const length of [0, 10, whole.length - 1, Math.floor(whole.length / 2)]) {
      const file = join(dir, "cut.tar.gz");
      await writeFile(file, whole.subarray(0, length));
      const refused = await install(file);
      assert.ok(!refused.ok && refused.code === "bundle-malformed", `${length} bytes`);
    }
    const text = join(dir, "text.tar.gz");
    await writeFile(
      text,
      gzipSync("this is no archive, and longer than a header of one".repeat(40)),
    );
    const refused = await install(text);
    assert.ok(!refused.ok && refused.code === "bundle-malformed");
    await assert.rejects(install(join(dir, "none.tar.gz")), { code: "bundle-missing" });
  });
});
