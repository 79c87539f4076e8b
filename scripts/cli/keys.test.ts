import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { runHere } from "./testing/command.js";

const scratch = mkdtempSync(join(tmpdir(), "tributary-keys-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const data = join(scratch, "data");
const env = { TRIBUTARY_PASSPHRASE: "correct horse battery staple" };
const file = join(data, "authority", "authority.json");
const list = async (dir = data) => {
  const { code, stdout } = await runHere(["keys", "list", "--data", dir, "--json"]);
  assert.equal(code, 0);
  return JSON.parse(stdout) as {
    what: string;
    id: string;
    state: string;
    endsAtMs: number | null;
  }[];
};

test("an authority is made once, and its keys are shown and rotated", async () => {
  const missing = await runHere(["keys", "rotate", "--data", data]);
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /no authority at .*; make one with `tributary cloud init`/);
  assert.ok(!existsSync(data));

  const made = await runHere(["cloud", "init", "--data", data, "--fleet", "press-works"]);
  assert.equal(made.code, 0, made.stderr);
  assert.match(made.stdout, /^fleet press-works: .*authority\.json\nanchor [A-Za-z0-9_-]{43}\n/);
  assert.match(made.stdout, /\nthe first owner's token, good for 7 d: .*owner\.token\n$/);
  assert.equal(statSync(join(data, "authority", "owner.token")).mode & 0o777, 0o600);
  assert.match(readFileSync(join(data, "authority", "anchors.pem"), "utf8"), /BEGIN CERTIFICATE/);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const kept = readFileSync(file, "utf8");
  const again = await runHere(["cloud", "init", "--data", data]);
  assert.equal(again.code, 1);
  assert.match(again.stderr, /has an authority already/);
  assert.equal(readFileSync(file, "utf8"), kept);

  const first = await list();
  assert.deepEqual(
    first.map(({ what, state }) => `${what} ${state}`),
    ["authority current", "signing current"],
  );
  const rotated = await runHere(["keys", "rotate", "--data", data, "--overlap", "7d"]);
  assert.equal(rotated.code, 0, rotated.stderr);
  assert.match(rotated.stdout, /signing +\S+ +retired .*\nsigning +\S+ +current/);
  const leftMs = ((await list())[1]?.endsAtMs ?? 0) - Date.now();
  assert.ok(leftMs > 6.9 * 86_400_000 && leftMs <= 7 * 86_400_000);
  assert.equal((await runHere(["keys", "rotate", "--authority", "--data", data])).code, 0);
  assert.equal((await runHere(["keys", "rotate", "--data", data, "--overlap", "0s"])).code, 0);
  assert.deepEqual(
    (await list()).map(({ what, state }) => `${what} ${state}`),
    ["authority retired", "authority current", "signing retired", "signing current"],
  );
  assert.doesNotMatch(rotated.stdout + JSON.stringify(first), /PRIVATE/);
});

test("a backup restores the keys elsewhere, by its passphrase alone", async () => {
  const out = join(scratch, "backup.json");
  const saved = await runHere(["keys", "backup", "--data", data, "--out", out], { env });
  assert.equal(saved.code, 0, saved.stderr);
  assert.equal(statSync(out).mode & 0o777, 0o600);
  assert.doesNotMatch(readFileSync(out, "utf8"), /PRIVATE/);
  const over = await runHere(["keys", "backup", "--data", data, "--out", out], { env });
  assert.equal(over.code, 73);

  const other = join(scratch, "other");
  const wrong = { TRIBUTARY_PASSPHRASE: "another horse battery staple" };
  const closed = await runHere(["keys", "restore", out, "--data", other], { env: wrong });
  assert.equal(closed.code, 1);
  assert.match(closed.stderr, /passphrase is another/);
  assert.equal((await runHere(["keys", "restore", out, "--data", other])).code, 64);
  assert.ok(!existsSync(other));

  const passphrase = join(scratch, "passphrase");
  writeFileSync(passphrase, `${env.TRIBUTARY_PASSPHRASE}\n`, { mode: 0o644 });
  const restore = ["keys", "restore", out, "--data", other, "--passphrase-file", passphrase];
  assert.equal((await runHere(restore)).code, 78);
  chmodSync(passphrase, 0o600);
  const restored = await runHere(restore);
  assert.equal(restored.code, 0, restored.stderr);
  assert.deepEqual(await list(other), await list());
  assert.equal((await runHere(restore)).code, 1);
});

test("the directory can come from a config or the environment; keys that others read are refused", async () => {
  const config = join(scratch, "cloud.yaml");
  writeFileSync(config, `dataDir: ${data}\n`);
  const byConfig = await runHere(["keys", "list", "--config", config, "--json"]);
  assert.deepEqual(JSON.parse(byConfig.stdout), await list());
  const byEnv = await runHere(["keys", "list"], { env: { TRIBUTARY_CLOUD_DATA_DIR: data } });
  assert.equal(byEnv.code, 0);
  assert.equal((await runHere(["keys", "list"])).code, 78);
  assert.equal((await runHere(["keys", "list", "--config", config, "--data", data])).code, 64);
  assert.equal((await runHere(["cloud", "init", "--data", data, "--fleet", "__proto__"])).code, 64);
  assert.equal((await runHere(["keys", "rotate", "--data", data, "--overlap", "7"])).code, 64);
  assert.equal((await runHere(["keys", "rotate", "--data", data, "--overlap", "900d"])).code, 64);
  chmodSync(file, 0o640);
  const exposed = await runHere(["keys", "list", "--data", data]);
  assert.equal(exposed.code, 78);
  assert.match(exposed.stderr, /can be read by others \(mode 640\)/);
});
