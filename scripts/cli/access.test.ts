import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { get as plainGet } from "node:http";
import { get as secureGet } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { runCloud } from "@tributary/cloud/main.js";
import { readClaim } from "@tributary/proto/identity/claim.js";
import { keyToPem, makeKey } from "@tributary/proto/identity/keys.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { createHttp } from "./http.js";
import { runHere } from "./testing/command.js";
import { ownerOf, urlOf } from "./testing/owner.js";

const dir = mkdtempSync(join(tmpdir(), "tributary-access-"));
const data = join(dir, "cloud");
let cloud: Awaited<ReturnType<typeof runCloud>>;
let url: string;
let owner: Record<string, string>;

before(async () => {
  const made = await runHere(["cloud", "init", "--data", data, "--fleet", "press-works"]);
  assert.equal(made.code, 0, made.stderr);
  owner = ownerOf(data);
  const settings = {
    TRIBUTARY_CLOUD_DATA_DIR: data,
    TRIBUTARY_CLOUD_HTTP__PORT: "0",
    TRIBUTARY_CLOUD_GRPC__PORT: "0",
  };
  cloud = await runCloud({ env: settings, softwareVersion: "test", write: () => undefined });
  url = await urlOf(cloud.httpPort);
});
after(async () => {
  await cloud?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Runs a command as somebody, with a place of his own for what he logs in with. */
const as = (who: string, ...args: string[]) =>
  runHere([...args, "--url", url], { env: { XDG_CONFIG_HOME: join(dir, who) } });
const anchors = () => join(data, "authority", "anchors.pem");
const login = (who: string, token: string) => {
  const file = join(dir, `${who}.token`);
  writeFileSync(file, `${token}\n`, { mode: 0o600 });
  return as(who, "login", "--token-file", file, "--anchors", anchors());
};

test("nobody gets in without a token; the first owner logs in with the one that init made", async () => {
  const none = await runHere(["session", "list", "--url", url], {
    env: { XDG_CONFIG_HOME: join(dir, "nobody"), TRIBUTARY_ANCHORS: anchors() },
  });
  assert.deepEqual([none.code, /\[unauthenticated\]/.test(none.stderr)], [1, true]);
  const file = join(data, "authority", "owner.token");
  const first = await as("ada", "login", "--token-file", file, "--anchors", anchors());
  assert.equal(first.code, 0, first.stderr);
  assert.match(first.stdout, /user:owner-\S+ \(owner\), owner of \*\n/);
  const kept = join(dir, "ada", "tributary", "credentials.json");
  assert.equal(statSync(kept).mode & 0o777, 0o600);
  assert.equal((await as("ada", "session", "list")).code, 0);
  const bad = await login("eve", "no.such.token");
  assert.deepEqual([bad.code, /token-/.test(bad.stderr)], [1, true]);
  assert.equal((await as("eve", "logout")).code, 0);
  assert.equal((await runHere(["login", "--url", url])).code, 64);
});

test("a token is made, shown once, listed and revoked", async () => {
  const made = await as(
    "ada",
    "token",
    "create",
    "--name",
    "CI",
    "--subject",
    "ci",
    "--role",
    "*:viewer",
  );
  assert.equal(made.code, 0, made.stderr);
  const [, id = ""] = /^token (\S+): user:ci \(CI\), \*:viewer, until /.exec(made.stderr) ?? [];
  assert.equal((await login("ci", made.stdout.trimEnd())).code, 0);
  const listed = await as("ada", "token", "list");
  assert.match(listed.stdout, new RegExp(`${id} +user:ci +CI +\\*:viewer +active`));
  assert.ok(!listed.stdout.includes(made.stdout.trimEnd()));
  assert.equal((await as("ci", "model", "list")).code, 0);
  const refused = await as("ci", "session", "stop", "none");
  assert.deepEqual([refused.code, /\[forbidden\]/.test(refused.stderr)], [1, true]);
  assert.equal((await as("ada", "token", "revoke", id)).code, 0);
  const after = await as("ci", "model", "list");
  assert.deepEqual([after.code, /\[token-revoked\]/.test(after.stderr)], [1, true]);
  assert.equal((await as("ada", "token", "create", "--name", "x", "--role", "king")).code, 64);
  assert.equal((await as("ada", "token", "create")).code, 64);
  const lost = await runHere(["token", "create", "--data", data, "--expires", "1h"]);
  assert.equal((await login("rescue", lost.stdout.trimEnd())).code, 0, lost.stderr);
});

test("a project is made, given a site, and joined by invitation", async () => {
  for (const id of ["red", "blue"])
    assert.equal((await as("ada", "project", "create", id)).code, 0);
  const sites = await as("ada", "project", "sites", "red", "--add", "north");
  assert.equal(sites.stdout, "north\n");
  const token = await as("ada", "token", "create", "--name", "Guest", "--subject", "guest");
  await login("guest", token.stdout.trimEnd());
  const invited = await as("ada", "project", "invite", "red", "--role", "trainer");
  const joined = await as("guest", "project", "join", invited.stdout.trimEnd());
  assert.equal(joined.stdout, "trainer of red\n", joined.stderr);
  const spare = await as("ada", "project", "invite", "red", "--role", "viewer");
  const [, invitation = ""] = /^invitation (\S+): viewer of red/.exec(spare.stderr) ?? [];
  const back = await as("ada", "project", "invitations", "red", "--revoke", invitation);
  assert.equal(back.stdout, `invitation ${invitation}: taken back\n`);
  const shown = (await as("ada", "project", "invitations", "red")).stdout;
  assert.match(shown, new RegExp(`${invitation} +viewer +taken back`));
  assert.match(shown, /trainer +accepted: user:guest/);
  assert.ok(!shown.includes(spare.stdout.trimEnd()));
  const mine = await as("guest", "project", "list");
  assert.match(mine.stdout, /red/);
  assert.doesNotMatch(mine.stdout, /blue/);
  assert.match((await as("ada", "project", "members", "red")).stdout, /user:guest +Guest +trainer/);
  assert.equal((await as("guest", "project", "members", "red")).code, 1);
  const left = await as("ada", "project", "members", "red", "--remove", "user:guest");
  assert.equal(left.stdout, "user:guest left red\n");
});

test("the audit log is listed, exported and verified; a tampered line is found", async () => {
  const listed = await as("ada", "audit", "list", "--actor", "user:guest", "--outcome", "done");
  assert.match(listed.stdout, /user:guest +POST \/invitations\/accept/);
  const live = await as("ada", "audit", "verify");
  assert.match(live.stdout, /^\d+ lines hold\n\d+:[0-9a-f]{64}\n$/);
  const known = live.stdout.split("\n")[1] ?? "";
  const auditor = await as("ada", "token", "create", "--name", "A", "--role", "red:auditor");
  await login("auditor", auditor.stdout.trimEnd());
  const partly = await as("auditor", "audit", "verify");
  assert.deepEqual([partly.code, /takes the whole log/.test(partly.stderr)], [1, true]);
  const out = join(dir, "audit.jsonl");
  const exported = await as("ada", "audit", "export", "--out", out);
  assert.equal(exported.code, 0, exported.stderr);
  assert.equal((await as("ada", "audit", "export", "--out", out)).code, 73);
  const whole = await runHere(["audit", "verify", out, "--known", known]);
  assert.equal(whole.code, 0, whole.stderr);
  const lines = readFileSync(out, "utf8").trimEnd().split("\n");
  const broken = async (change: (lines: string[]) => void) => {
    const file = join(dir, "tampered.jsonl");
    const copy = [...lines];
    change(copy);
    writeFileSync(file, `${copy.join("\n")}\n`);
    return runHere(["audit", "verify", file, "--known", known]);
  };
  const altered = await broken((copy) => {
    copy[2] = copy[2]?.replace(/"outcome":"[^"]*"/, '"outcome":"nothing"') ?? "";
  });
  assert.equal(altered.code, 1);
  assert.match(altered.stderr, /line 3 of the audit log is altered; the 2 before it hold/);
  const gone = await broken((copy) => copy.splice(1, 1));
  assert.match(gone.stderr, /line 2 of the audit log is missing/);
  const cut = await broken((copy) => copy.splice(-3, 3));
  assert.match(cut.stderr, /is missing/);
  const nonsense = await broken((copy) => {
    copy[0] = "{";
  });
  assert.match(nonsense.stderr, /line 1 of the audit log is altered/);
  assert.equal((await runHere(["audit", "verify", join(dir, "none")])).code, 64);
});

test("a gateway's certificate is no user's: it opens nothing", async () => {
  const scope = ["--kind", "gateway", "--name", "north-1", "--site", "north"];
  const claim = (await as("ada", "claim", "create", ...scope)).stdout.trimEnd();
  const key = makeKey("ES256");
  const nonce = "0123456789abcdef";
  const who = { kind: "gateway", name: "north-1", site: "north" } as const;
  const asked = { ...who, claim: readClaim(claim)?.id ?? "", nonce, iat: 1 };
  const request = await writeRequest(asked, key);
  const ca = readFileSync(anchors(), "utf8");
  const http = createHttp({ url, credentials: async () => ({ anchors: [ca] }) });
  const json = { claim, request };
  const grant = (await http.call({ method: "POST", path: "/enrolments", json })) as {
    certificate: string;
  };
  assert.match(grant.certificate, /BEGIN CERTIFICATE/);
  const status = await new Promise((resolve, reject) => {
    const shown = {
      cert: grant.certificate,
      key: keyToPem(key),
      ca,
      checkServerIdentity: () => undefined,
    };
    const target = `${url}/api/v1/sessions`;
    const sent = url.startsWith("https:") ? secureGet(target, shown) : plainGet(target);
    sent.on("response", (response) => resolve(response.resume().statusCode)).on("error", reject);
  });
  assert.equal(status, 401);
});

test("a token is not shown in the clear to another machine", async () => {
  const refused = await runHere(["session", "list", "--url", "http://cloud.invalid:7480"], {
    env: owner,
  });
  assert.equal(refused.code, 64);
  assert.match(refused.stderr, /in the clear/);
});
