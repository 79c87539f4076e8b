import assert from "node:assert/strict";
import { createReadStream, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createGunzip } from "node:zlib";
import { systemRandom } from "@tributary/proto/host/random.js";
import { claimText, makeClaim } from "@tributary/proto/identity/claim.js";
import { keyToPem, makeKey } from "@tributary/proto/identity/keys.js";
import fc from "fast-check";
import { extract } from "tar-stream";
import { redactText } from "./support-bundle-redaction.js";
import { runHere } from "./testing/command.js";

const dir = mkdtempSync(join(tmpdir(), "tributary-bundle-"));
after(() => rmSync(dir, { recursive: true, force: true }));

const claim = makeClaim(systemRandom(), "A".repeat(43));
const key = makeKey("EdDSA");
const jwk = key.export({ format: "jwk" });
const jwt = `${Buffer.from('{"alg":"EdDSA"}').toString("base64url")}.${Buffer.from("payload").toString("base64url")}.${"s".repeat(86)}`;

/** Secrets as they may stand in a log or a config, and the part that must not be left. */
const planted = {
  key: [keyToPem(key), keyToPem(key).split("\n")[1]],
  claim: [`enrolling with ${claimText(claim)} now`, claim.secret],
  invitation: [`ti1.${claim.id}.${claim.secret}`, claim.secret],
  token: [`connect press-7 password=${jwt}`, "s".repeat(86)],
  bare: [`got ${jwt}`, "s".repeat(86)],
  jwk: [JSON.stringify(jwk), jwk.d],
  url: ["store postgres://tributary:hunter22@db.example:5432/fleet", "hunter22"],
  header: ["Authorization: Bearer abcdefghijklmnop", "abcdefghijklmnop"],
  member: ['{"user":"ada","password":"open \\"sesame\\""}', "sesame"],
  setting: ["db_password: swordfish, next: fine", "swordfish"],
  variable: ["TRIBUTARY_PASSPHRASE=correct-horse-battery", "correct-horse"],
} as const;

for (const [name, [text = "", secret = ""]] of Object.entries(planted))
  test(`a ${name} in a log is hidden, and nothing else`, () => {
    const { text: shown, places } = redactText(`before it\n${text}\nafter it\n`);
    assert.ok(!shown.includes(secret), shown);
    assert.ok(places >= 1);
    assert.match(shown, /^before it\n/);
    assert.match(shown, /\nafter it\n$/);
  });

test("what is not secret is left as it is", () => {
  const log = [
    "2030-05-01T12:00:00Z info round-opened round=spring.12 gateways=3",
    `model ${"ab".repeat(32)} of 50890 parameters, key press-7, d: 12`,
    "upstream https://cloud.example:7443/api/v1/tokens answered 200; author ada@example.org",
    '{"level":"warn","name":"claim-expired","claim":"kq2m5xw7aapn","k":"v"}',
  ].join("\n");
  assert.deepEqual(redactText(log), { text: log, places: 0 });
});

test("no secret is left, whatever stands around it", () => {
  const text = fc.string({ maxLength: 40 });
  fc.assert(
    fc.property(text, text, (head, tail) => {
      for (const [one, secret] of [planted.claim, planted.bare, planted.url])
        assert.ok(!redactText(`${head}\n${one}\n${tail}`).text.includes(secret));
    }),
  );
});

async function unpack(file: string): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  const tar = extract();
  createReadStream(file).pipe(createGunzip()).pipe(tar);
  for await (const entry of tar) {
    const pieces: Uint8Array[] = [];
    for await (const piece of entry) pieces.push(piece as Uint8Array);
    found.set(entry.header.name.replace(/^support-bundle\//, ""), Buffer.concat(pieces).toString());
  }
  return found;
}

test("a bundle has what helps, and no secret of the machine's", async () => {
  const dataDir = join(dir, "data");
  mkdirSync(join(dataDir, "identity"), { recursive: true });
  writeFileSync(join(dataDir, "identity", "key.pem"), keyToPem(key), { mode: 0o600 });
  writeFileSync(join(dataDir, "identity", "token.jwt"), jwt, { mode: 0o600 });
  const config = join(dir, "gateway.json");
  const settings = { site: "north", gateway: "north-1", dataDir, upstream: "127.0.0.1:1" };
  writeFileSync(config, JSON.stringify({ ...settings, status: { port: 2 } }));
  const log = join(dir, "gateway.log");
  writeFileSync(
    log,
    `${Object.values(planted)
      .map(([text]) => text)
      .join("\n")}\nthe last line\n`,
  );
  const out = join(dir, "bundle.tar.gz");
  const bundle = (...more: string[]) =>
    runHere(["support-bundle", "--config", config, "--out", out, "--log", log, ...more], {
      env: { TRIBUTARY_PASSPHRASE: "correct-horse-battery" },
    });
  const made = await bundle("--log", join(dir, "none.log"), "--json");
  assert.equal(made.code, 0, made.stderr);
  assert.ok(JSON.parse(made.stdout).hidden >= Object.keys(planted).length);
  assert.equal(statSync(out).mode & 0o777, 0o600);

  const parts = await unpack(out);
  for (const name of ["manifest.json", "machine.json", "check.json", "config.yaml", "files.json"])
    assert.ok(parts.has(name), name);
  assert.match(parts.get("config.yaml") ?? "", /gateway: north-1/);
  assert.match(parts.get("files.json") ?? "", /identity\/key\.pem/);
  assert.match(parts.get("machine.json") ?? "", /TRIBUTARY_PASSPHRASE/);
  assert.match(parts.get("logs/1-gateway.log") ?? "", /the last line\n$/);
  for (const name of ["status.json", "certificate.json", "logs/2-none.log"])
    assert.ok(parts.has(`${name}.missing`), name);
  const all = [...parts.values()].join("\n");
  for (const [name, [, secret = ""]] of Object.entries(planted))
    assert.ok(!all.includes(secret), name);

  assert.equal((await bundle()).code, 73);
  assert.equal((await bundle("--force")).code, 0);
  assert.equal((await bundle("--tier", "moon")).code, 64);
});

test("a bundle is made of a config that cannot be read, too: it says why", async () => {
  const config = join(dir, "broken.yaml");
  writeFileSync(config, "site: [");
  const out = join(dir, "broken.tar.gz");
  const made = await runHere(["support-bundle", "--config", config, "--out", out]);
  assert.equal(made.code, 0, made.stderr);
  const parts = await unpack(out);
  assert.match(parts.get("config.yaml.missing") ?? "", /broken\.yaml/);
  assert.match(parts.get("check.json") ?? "", /"error"/);
});

test("of a log only the end goes in, from the start of a line on", async () => {
  const log = join(dir, "long.log");
  writeFileSync(log, `${claimText(claim)}${"x".repeat(4 * 1024 * 1024)}\nthe end\n`);
  const out = join(dir, "long.tar.gz");
  await runHere(["support-bundle", "--out", out, "--log", log]);
  assert.equal((await unpack(out)).get("logs/1-long.log"), "the end\n");
});
