import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { runCloud } from "@tributary/cloud/main.js";
import { readClaim } from "@tributary/proto/identity/claim.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { credentialsFor } from "./credentials.js";
import type { CommandFailure } from "./failure.js";
import { createHttp } from "./http.js";
import { runHere } from "./testing/command.js";
import { ownerOf, urlOf } from "./testing/owner.js";

const dir = mkdtempSync(join(tmpdir(), "tributary-claim-"));
let cloud: Awaited<ReturnType<typeof runCloud>>;
let url: string;
let env: Record<string, string>;

before(async () => {
  const made = await runHere(["cloud", "init", "--data", dir]);
  assert.equal(made.code, 0, made.stderr);
  const settings = {
    TRIBUTARY_CLOUD_DATA_DIR: dir,
    TRIBUTARY_CLOUD_HTTP__PORT: "0",
    TRIBUTARY_CLOUD_HTTP__PLAIN: "true",
    TRIBUTARY_CLOUD_GRPC__PORT: "0",
  };
  cloud = await runCloud({ env: settings, softwareVersion: "test", write: () => undefined });
  env = ownerOf(dir);
  url = await urlOf(cloud.httpPort);
});
after(async () => {
  await cloud?.close();
  rmSync(dir, { recursive: true, force: true });
});

const command = (...args: string[]) => runHere([...args, "--url", url], { env });

test("somebody enrols with a claim from the command line, is accepted, and shut out", async () => {
  const none = await command("claim", "list");
  assert.match(none.stdout, /no claim yet/);
  const scope = ["--kind", "device", "--name", "press-*", "--site", "north"];
  const more = ["--uses", "3", "--expires", "7d", "--approval"];
  const created = await command("claim", "create", ...scope, ...more);
  assert.equal(created.code, 0, created.stderr);
  const text = created.stdout.trimEnd();
  const { id = "" } = readClaim(text) ?? {};
  assert.equal(created.stdout, `${text}\n`);
  assert.ok(created.stderr.startsWith(`claim ${id}: device press-* of north, until `));

  const asked = { kind: "device", name: "press-7", site: "north", claim: id } as const;
  const nonce = "0123456789abcdef";
  const key = makeKey("EdDSA");
  const request = await writeRequest({ ...asked, nonce, iat: 1 }, key);
  const { TRIBUTARY_ANCHORS: anchors = "" } = env;
  const { call } = createHttp({
    url,
    credentials: () => credentialsFor({ TRIBUTARY_ANCHORS: anchors }, url),
  });
  const enrol = async (): Promise<{ code?: string; certificate?: string }> =>
    call({ method: "POST", path: "/enrolments", json: { claim: text, request } }).catch(
      (error: unknown) => ({ code: (error as CommandFailure).code }),
    ) as Promise<object>;
  assert.equal((await enrol()).code, "claim-pending");
  const listed = await command("claim", "list", "--json");
  const { claims, waiting } = JSON.parse(listed.stdout);
  assert.deepEqual([claims.length, waiting.length, waiting[0].name], [1, 1, "press-7"]);
  const shown = (await command("claim", "list")).stdout;
  assert.match(shown, new RegExp(`${id} +device +press-\\* +north +1 of 3 +open, asks`));
  assert.match(shown, new RegExp(`${waiting[0].id} +device +press-7 +north`));
  assert.ok(!shown.includes(readClaim(text)?.secret ?? ""));

  const accepted = await command("claim", "accept", waiting[0].id);
  assert.deepEqual([accepted.code, accepted.stdout], [0, "device press-7: accepted\n"]);
  assert.match((await enrol()).certificate ?? "", /BEGIN CERTIFICATE/);
  const late = await command("claim", "reject", waiting[0].id);
  assert.deepEqual([late.code, /wrong-state/.test(late.stderr)], [1, true]);

  const revoked = await command("revoke", "device", "press-7");
  assert.equal(revoked.code, 0, revoked.stderr);
  assert.match(revoked.stdout, /^device press-7 is shut out: denylist \d+\nno gateway is known\n$/);
  assert.equal((await enrol()).code, "identity-revoked");
  const unknown = await command("revoke", "gateway", "press-7");
  assert.deepEqual([unknown.code, /identity-unknown/.test(unknown.stderr)], [1, true]);
  assert.equal((await command("revoke", "user", "ada")).code, 64);

  const withdrawn = await command("claim", "revoke", id);
  assert.deepEqual([withdrawn.code, withdrawn.stdout], [0, `claim ${id}: taken back\n`]);
  assert.match((await command("claim", "list")).stdout, /taken back/);
});

test("a claim that cannot be is refused", async () => {
  const scope = ["--name", "a", "--site", "north"];
  for (const [args, code] of [
    [["--kind", "cloud", ...scope], 64],
    [scope, 64],
    [["--kind", "device", ...scope, "--expires", "soon"], 64],
    [["--kind", "device", ...scope, "--expires", "91d"], 1],
    [["--kind", "device", "--name", "a*b*", "--site", "north"], 1],
  ] as const)
    assert.equal((await command("claim", "create", ...args)).code, code, args.join(" "));
});
