import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { authorityFile, jwksOf, readAuthorityKeys } from "@tributary/cloud/authority/keys.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { type Bundle, readBundle } from "@tributary/proto/identity/bundle.js";
import { claimText, makeClaim } from "@tributary/proto/identity/claim.js";
import { createKeyring } from "@tributary/proto/identity/keyring.js";
import { fakeCloud } from "../cli/testing/cloud.js";
import { runHere, tributary } from "../cli/testing/command.js";
import { archOfElf } from "./elf.js";
import { archHere } from "./runtime.js";

const scratch = mkdtempSync(join(tmpdir(), "tributary-flash-test-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const data = join(scratch, "cloud");
const claim = join(scratch, "claim");
const folder = join(scratch, "bundle");
const archive = join(scratch, "bundle.tar.gz");
const gatewayArgs = ["--site", "north", "--name", "north-1", "--upstream", "127.0.0.1:7443"];
const args = ["flash", ...gatewayArgs, "--data", data, "--claim", claim, "--device-sdk"];
/** What a bundle's install.sh needs, and its machine. */
const canInstall = process.getuid?.() === 0 && archHere() !== undefined;

type Said = { readonly key: string; readonly files: number; readonly node: string };
let said: Said | undefined;

before(async () => {
  const made = await runHere(["cloud", "init", "--data", data, "--fleet", "works"]);
  assert.equal(made.code, 0, made.stderr);
  const text = claimText(makeClaim(systemRandom(), "A".repeat(43)));
  writeFileSync(claim, `${text}\n`, { mode: 0o600 });
  const flashed = await runHere([...args, "--out", folder, "--json"]);
  assert.equal(flashed.code, 0, flashed.stderr);
  said = JSON.parse(flashed.stdout) as Said;
});

async function manifestIn(path: string): Promise<Bundle> {
  const keys = await readAuthorityKeys(authorityFile(data));
  const keyring = createKeyring(jwksOf(keys, Date.now()));
  const text = readFileSync(join(path, "manifest.jws"), "utf8");
  const read = await readBundle(text, { fleet: "works", keyring });
  assert.ok(read.ok, JSON.stringify(read));
  return read.bundle;
}

const digestOf = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");

function filesIn(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(path.length + 1))
    .sort();
}

describe("a bundle", () => {
  it("is the same to the byte when it is made again, elsewhere and otherwise", async () => {
    const flashed = await tributary([...args, "--out", archive]);
    assert.equal(flashed.code, 0, flashed.stderr);
    const elsewhere = join(scratch, "elsewhere");
    mkdirSync(elsewhere);
    const again = join(elsewhere, "again.tar.gz");
    const env = {
      TZ: "Asia/Kolkata",
      LANG: "tr_TR.UTF-8",
      SOURCE_DATE_EPOCH: "1",
      HOME: elsewhere,
    };
    const umask = process.umask(0o077);
    try {
      const repeated = await tributary([...args, "--out", again], { cwd: elsewhere, env });
      assert.equal(repeated.code, 0, repeated.stderr);
    } finally {
      process.umask(umask);
    }
    assert.equal(digestOf(again), digestOf(archive));
    assert.equal(statSync(archive).mode & 0o777, 0o600);

    const unpacked = join(scratch, "unpacked");
    mkdirSync(unpacked);
    const tar = spawnSync("tar", ["-xzpf", archive, "-C", unpacked], { encoding: "utf8" });
    assert.equal(tar.status, 0, tar.stderr);
    assert.deepEqual(filesIn(unpacked), filesIn(folder));
    for (const path of filesIn(folder)) {
      assert.equal(digestOf(join(unpacked, path)), digestOf(join(folder, path)), path);
      const [a, b] = [unpacked, folder].map((at) => statSync(join(at, path)).mode & 0o777);
      assert.equal(a, b, path);
    }
  });

  it("lists each of its files, with its digest, in its signed manifest and for sha256sum", async () => {
    const { files, version, minimumVersion, for: whose, node } = await manifestIn(folder);
    assert.deepEqual(["manifest.jws", ...files.map(({ path }) => path)].sort(), filesIn(folder));
    for (const { path, sha256, bytes, mode } of files) {
      assert.equal(digestOf(join(folder, path)), sha256, path);
      assert.equal(statSync(join(folder, path)).size, bytes);
      assert.equal(statSync(join(folder, path)).mode & 0o777, mode);
    }
    assert.deepEqual(whose, { site: "north", gateway: "north-1" });
    assert.equal(minimumVersion, version);
    assert.equal(node, process.versions.node);
    const checked = spawnSync("sha256sum", ["-c", "--strict", "SHA256SUMS"], { cwd: folder });
    assert.equal(checked.status, 0);
  });

  it("holds one secret, its claim, and nothing of the authority's", async () => {
    const kept = readFileSync(authorityFile(data), "utf8");
    const secrets = [...kept.matchAll(/BEGIN PRIVATE KEY-----\\n([A-Za-z0-9+/]{40})/g)].map(
      ([, start]) => start ?? "",
    );
    assert.equal(secrets.length, 2);
    const secret = readFileSync(claim, "utf8").split(".")[2] ?? "";
    for (const path of filesIn(folder)) {
      const bytes = readFileSync(join(folder, path));
      for (const one of secrets) assert.ok(!bytes.includes(one), path);
      assert.equal(bytes.includes(secret), path === "setup/claim", path);
    }
    assert.equal(statSync(join(folder, "setup/claim")).mode & 0o777, 0o600);
    const { fleet, jwks } = JSON.parse(readFileSync(join(folder, "trust.json"), "utf8"));
    assert.equal(fleet, "works");
    assert.equal(jwks.keys[0].d, undefined);
    assert.match(readFileSync(join(folder, "setup/anchors.pem"), "utf8"), /^-----BEGIN CERT/);
  });

  it("says what it consists of, in CycloneDX 1.6", async () => {
    const sbom = JSON.parse(readFileSync(join(folder, "release/sbom.cdx.json"), "utf8"));
    assert.equal(sbom.bomFormat, "CycloneDX");
    assert.equal(sbom.specVersion, "1.6");
    assert.match(
      sbom.serialNumber,
      /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/,
    );
    const { files } = await manifestIn(folder);
    const digest = (path: string) => files.find((file) => file.path === path)?.sha256;
    const names = sbom.components.map(({ name }: { name: string }) => name);
    for (const name of ["node", "aedes", "mqtt", "@grpc/grpc-js", "classic-level", "jose", "zod"])
      assert.ok(names.includes(name), name);
    assert.ok(
      !names.some((name: string) => /fastify|pglite|esbuild/.test(name)),
      "the cloud is in it",
    );
    const part = (name: string) =>
      sbom.components.find((one: { name: string }) => one.name === name);
    assert.equal(part("node").hashes[0].content, digest("release/runtime/bin/node"));
    const [native] = part("classic-level").components;
    assert.equal(native.hashes[0].content, digest(`release/${native.name}`));
    const refs = new Set(sbom.components.map((one: { "bom-ref": string }) => one["bom-ref"]));
    assert.equal(refs.size, sbom.components.length);
    for (const component of sbom.components.slice(1)) {
      assert.match(component.purl, /^pkg:npm\/(%40[a-z0-9-]+\/)?[a-z0-9._-]+@\d/);
      assert.ok(component.licenses?.length === 1, `${component.name} has no licence`);
    }
    const licences = readFileSync(join(folder, "release/LICENSES.txt"), "utf8");
    for (const name of names.slice(1)) assert.ok(licences.includes(`\n${name} `), name);
  });

  it("carries commands that run on its own Node alone, each what is its tier's", () => {
    const node = join(folder, "release/runtime/bin/node");
    const run = (file: string, ...line: string[]) =>
      spawnSync(node, [join(folder, "release/app/bin", file), ...line], {
        cwd: "/",
        env: {},
        encoding: "utf8",
      });
    const size = ["gateway", "size", "--devices", "4", "--parameters", "100", "--outage", "1h"];
    assert.equal(run("tributary.mjs", ...size).status, 0);
    const cloud = run("tributary.mjs", "cloud", "start");
    assert.equal(cloud.status, 70);
    assert.match(
      cloud.stderr,
      /^tributary: @tributary\/cloud\/main\.js is not part of this installation\n$/,
    );
    assert.match(run("device.mjs", "device", "start").stderr, /site/); // its config, which is missing
    assert.match(run("device.mjs", "gateway", "start").stderr, /is not part of this installation/);
  });

  it("for other machines has their native part, on a Node that is theirs", async () => {
    const headers = { arm64: [2, 183, 0], armv7: [1, 40, 0x400], x64: [2, 62, 0] } as const;
    const nodes = Object.entries(headers).map(([arch, [elfClass, machine, flags]]) => {
      const head = Buffer.alloc(64);
      head.write("\x7fELF", "latin1");
      head[4] = elfClass;
      head[5] = 1;
      head.writeUInt16LE(machine, 18);
      head.writeUInt32LE(flags, 36);
      const file = join(scratch, `node-${arch}`);
      writeFileSync(file, Buffer.concat([head, Buffer.from(".../node-v22.11.0-headers.tar.gz")]));
      return [arch, file] as const;
    });
    for (const [arch, runtime] of nodes) {
      const out = join(scratch, `for-${arch}`);
      const flashed = await runHere([...args, "--arch", arch, "--runtime", runtime, "--out", out]);
      assert.equal(flashed.code, 0, flashed.stderr);
      const made = await manifestIn(out);
      assert.equal(made.arch, arch);
      assert.equal(made.node, "22.11.0");
      const native = readFileSync(join(out, "release/app/native/classic-level.node"));
      assert.equal(archOfElf(native), arch);
    }
    const wrong = nodes.find(([arch]) => arch !== archHere())?.[1] ?? "";
    const mixed = await runHere([...args, "--runtime", wrong, "--out", join(scratch, "mixed")]);
    assert.equal(mixed.code, 78);
    assert.match(mixed.stderr, /is for (arm64|armv7|x64), not for/);
    const shell = await runHere([...args, "--runtime", "/bin/sh", "--out", join(scratch, "shell")]);
    assert.equal(shell.code, 78);
    assert.match(shell.stderr, /is no Node|no Linux program/);
    const other = archHere() === "arm64" ? "armv7" : "arm64";
    const none = await runHere([...args, "--arch", other, "--out", join(scratch, "none")]);
    assert.equal(none.code, 78);
    assert.match(none.stderr, /name one by --runtime/);
    assert.ok(!existsSync(join(scratch, "none")));
  });

  it("is signed by the cloud, with a claim of its own, where no authority is at hand", async () => {
    const jwks = jwksOf(await readAuthorityKeys(authorityFile(data)), Date.now());
    const text = claimText(makeClaim(systemRandom(), "A".repeat(43)));
    // The same manifest was signed before, by the same key.
    const manifest = readFileSync(join(folder, "manifest.jws"), "utf8");
    const anchors = [readFileSync(join(folder, "setup/anchors.pem"), "utf8")];
    const cloud = await fakeCloud(({ method, path }) => {
      if (path === "/trust") return { json: { fleet: "works", jwks, anchors } };
      if (method !== "POST") return undefined;
      if (path === "/claims") return { json: { claim: {}, text }, status: 201 };
      return path === "/bundles/signatures" ? { json: { manifest }, status: 201 } : undefined;
    });
    try {
      const out = join(scratch, "by-cloud");
      const line = ["flash", ...gatewayArgs, "--device-sdk", "--out", out, "--url", cloud.url];
      const flashed = await runHere(line);
      assert.equal(flashed.code, 0, flashed.stderr);
      assert.match(flashed.stdout, new RegExp(`signed by ${said?.key}\n$`));
      assert.equal(readFileSync(join(out, "setup/claim"), "utf8"), `${text}\n`);
      const asked = cloud.calls.find(({ path }) => path === "/bundles/signatures");
      const { files } = JSON.parse(asked?.body.toString() ?? "") as Bundle;
      assert.deepEqual(["manifest.jws", ...files.map(({ path }) => path)].sort(), filesIn(out));
      const claimed = cloud.calls.find(({ path }) => path === "/claims");
      const scope = { kind: "gateway", name: "north-1", site: "north", lifeMs: 7 * 86_400_000 };
      assert.deepEqual(JSON.parse(claimed?.body.toString() ?? ""), scope);
    } finally {
      await cloud.close();
    }
  });

  it("is not made of what cannot be used", async () => {
    const refused = async (code: number, words: RegExp, ...line: string[]) => {
      const ended = await runHere(["flash", "--data", data, "--claim", claim, ...line]);
      assert.equal(ended.code, code, ended.stderr);
      assert.match(ended.stderr, words);
    };
    const out = ["--out", join(scratch, "not-made")];
    await refused(64, /say where to/, ...gatewayArgs);
    await refused(64, /name the gateway/, ...out);
    await refused(64, /is no name/, "--site", "__proto__", "--name", "x", ...out);
    await refused(64, /an update is for every gateway/, "--update", "--site", "north", ...out);
    await refused(64, /upstream: .*see --upstream/, "--site", "north", "--name", "n", ...out);
    await refused(73, /is there already/, ...gatewayArgs, "--out", folder);
    const open = join(scratch, "open-claim");
    writeFileSync(open, readFileSync(claim), { mode: 0o644 });
    await refused(78, /can be read by others/, ...gatewayArgs, ...out, "--claim", open);
    writeFileSync(open, "no claim\n");
    chmodSync(open, 0o600);
    await refused(64, /holds no claim/, ...gatewayArgs, ...out, "--claim", open);
    assert.ok(!existsSync(join(scratch, "not-made")));
  });
});

describe("install.sh", {
  skip: canInstall ? false : "takes root, and a machine bundles are for",
}, () => {
  const install = (bundle: string, root: string, ...more: string[]) =>
    spawnSync("sh", [join(bundle, "install.sh"), "--root", root, ...more], { encoding: "utf8" });
  const emptyRoot = (name: string) => {
    const root = join(scratch, name);
    mkdirSync(root);
    return root;
  };
  const copied = (name: string) => {
    const copy = join(scratch, name);
    cpSync(folder, copy, { recursive: true });
    return copy;
  };
  const stateOf = (root: string) =>
    filesIn(root).map((path) => {
      const { mode, mtimeNs } =
        statSync(join(root, path), { bigint: true, throwIfNoEntry: false }) ?? {};
      return `${path} ${mode} ${path.includes("slots") ? mtimeNs : ""}`;
    });

  it("puts everything in its place, and nothing twice", () => {
    const root = emptyRoot("root");
    const first = install(folder, root, "--key", said?.key ?? "");
    assert.equal(first.status, 0, first.stderr);
    assert.match(first.stdout, /tributary \S+ for \S+ is installed\n/);
    assert.equal(readlinkSync(join(root, "var/lib/tributary/current")), "slots/a");
    assert.equal(
      readlinkSync(
        join(root, "etc/systemd/system/multi-user.target.wants/tributary-gateway.service"),
      ),
      "../tributary-gateway.service",
    );
    assert.equal(statSync(join(root, "opt/tributary/launch")).mode & 0o777, 0o755);
    assert.equal(statSync(join(root, "var/lib/tributary")).mode & 0o777, 0o700);
    const kept = join(root, "var/lib/tributary/data/identity/claim");
    assert.equal(statSync(kept).mode & 0o777, 0o600);
    assert.equal(readFileSync(kept, "utf8"), readFileSync(claim, "utf8"));
    const config = join(root, "etc/tributary/gateway.yaml");
    assert.match(readFileSync(config, "utf8"), /dataDir: \/var\/lib\/tributary\/data/);

    const before = stateOf(root);
    const second = install(folder, root);
    assert.equal(second.status, 0, second.stderr);
    assert.match(second.stdout, /is there already\n$/);
    assert.deepEqual(stateOf(root), before);

    appendFileSync(config, "log: json\n"); // by hand
    const third = install(folder, root);
    assert.match(third.stdout, /wrote etc\/tributary\/gateway\.yaml\.new/);
    assert.match(readFileSync(config, "utf8"), /log: json/);
  });

  it("changes nothing for a tampered bundle", () => {
    const root = emptyRoot("untouched");
    const refused = (bundle: string, status: number, words: RegExp, ...more: string[]) => {
      const ended = install(bundle, root, ...more);
      assert.equal(ended.status, status, ended.stderr);
      assert.match(ended.stderr, words);
      assert.deepEqual(filesIn(root), []);
    };
    const damaged = copied("damaged");
    appendFileSync(join(damaged, "release/app/bin/tributary.mjs"), "//");
    refused(damaged, 65, /the bundle is damaged: release\/app\/bin\/tributary\.mjs: FAILED/);
    // Whoever changes a file mends the sums, too; the signature stays.
    const sums = spawnSync(
      "sh",
      [
        "-c",
        "find . -type f ! -name SHA256SUMS ! -name manifest.jws | cut -c 3- | LC_ALL=C sort | xargs sha256sum",
      ],
      { cwd: damaged, encoding: "utf8" },
    );
    writeFileSync(join(damaged, "SHA256SUMS"), sums.stdout);
    refused(damaged, 1, /SHA256SUMS (has|is not)|tributary\.mjs (has|is not)/);
    const key = "A".repeat(43);
    refused(folder, 1, /is not signed by the key AAA/, "--key", key);
    const older = copied("other-manifest");
    const [head, body = "", mark] = readFileSync(join(older, "manifest.jws"), "utf8").split(".");
    const manifest = JSON.parse(Buffer.from(body, "base64url").toString()) as object;
    const edited = Buffer.from(JSON.stringify({ ...manifest, version: "99.0.0" }));
    writeFileSync(join(older, "manifest.jws"), `${head}.${edited.toString("base64url")}.${mark}`);
    refused(older, 1, /the signature is not its key's/);
  });

  it("is done by `flash --root` in a mounted image, of another machine too", async () => {
    const root = emptyRoot("image");
    const runtime = join(scratch, "node-arm64"); // made above, and never run
    const line = ["--arch", "arm64", "--runtime", runtime, "--root", root];
    const flashed = await runHere([...args, ...line]);
    assert.equal(flashed.code, 0, flashed.stderr);
    const home = join(root, "var/lib/tributary");
    const installed = JSON.parse(readFileSync(join(home, "current/installed.json"), "utf8"));
    assert.equal(installed.arch, "arm64");
    assert.equal(digestOf(join(home, "current/runtime/bin/node")), digestOf(runtime));
    assert.ok(existsSync(join(root, "etc/systemd/system/tributary-gateway.service")));
    assert.ok(existsSync(join(home, "data/identity/claim")));
    const missing = await runHere([...args, "--root", join(scratch, "no-image")]);
    assert.equal(missing.code, 64);
    assert.match(missing.stderr, /no-image is no folder/);
  });

  it("trusts from then on whom the machine was set up to trust", async () => {
    const root = emptyRoot("claimed");
    assert.equal(install(folder, root).status, 0);
    const strange = join(scratch, "strange-cloud");
    assert.equal((await runHere(["cloud", "init", "--data", strange, "--fleet", "works"])).code, 0);
    const bundle = join(scratch, "strange");
    const line = ["flash", ...gatewayArgs, "--data", strange, "--claim", claim, "--out", bundle];
    assert.equal((await runHere(line)).code, 0);
    const refused = install(bundle, root);
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /no trusted key signed it/);
    assert.equal(install(bundle, emptyRoot("strange-root")).status, 0);

    // The gateway hears of new keys and ones that are gone: from then on these count.
    const keys = await readAuthorityKeys(authorityFile(strange));
    const heard = { version: 1, fleet: "works", jwks: jwksOf(keys, Date.now()), listJwks: null };
    const home = join(root, "var/lib/tributary");
    writeFileSync(join(home, "data/identity/fleet.json"), JSON.stringify(heard), { mode: 0o600 });
    const rotated = install(bundle, root);
    assert.equal(rotated.status, 0, rotated.stderr);
    rmSync(join(home, "trial")); // as if it had been kept
    const former = await runHere(["gateway", "update", folder, "--home", home]);
    assert.equal(former.code, 1);
    assert.match(former.stderr, /no trusted key signed it/);
  });
});

describe("the service's unit", () => {
  const tool = spawnSync("systemd-analyze", ["--version"], { encoding: "utf8" });
  const skip = tool.status === 0 ? false : "there is no systemd-analyze";
  it("passes systemd-analyze verify, and is hardened", { skip }, () => {
    const text = readFileSync(join(folder, "system/tributary-gateway.service"), "utf8");
    const unit = join(scratch, "tributary-gateway.service");
    // The program must be there, which on this machine it is elsewhere.
    const launch = join(folder, "system/launch");
    writeFileSync(unit, text.replace("ExecStart=/opt/tributary/launch", `ExecStart=${launch}`));
    assert.ok(readFileSync(unit, "utf8").includes(launch));
    const verified = spawnSync("systemd-analyze", ["verify", unit], { encoding: "utf8" });
    assert.equal(verified.status, 0, verified.stderr);
    assert.equal(
      verified.stderr.replaceAll(/^.*(?:Failed to (?:open|connect)|not found).*\n/gm, ""),
      "",
    );
    const security = ["security", "--offline=true", "--threshold=20", "--no-pager", unit];
    const judged = spawnSync("systemd-analyze", security, { encoding: "utf8" });
    if (/unrecognized option/.test(judged.stderr)) return; // an older one does not judge files
    assert.equal(judged.status, 0, judged.stdout);
    assert.match(text, /^User=tributary$/m);
  });
});
