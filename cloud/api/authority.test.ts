import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { systemRandom } from "@tributary/proto/host/random.js";
import { readClaim } from "@tributary/proto/identity/claim.js";
import { readDenylist } from "@tributary/proto/identity/denylist.js";
import { createKeyring, jwksSchema } from "@tributary/proto/identity/keyring.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { ownerToken } from "../access/owner-token.js";
import {
  authorityFile,
  keepAuthority,
  makeAuthorityKeys,
  readAuthorityKeys,
} from "../authority/keys.js";
import { startCloud, type TestCloud } from "../testing/cloud.js";

const random = systemRandom();

/** A cloud as it runs, asked over HTTP. */
async function cloudIn(dir: string, t: { after(done: () => Promise<void>): void }) {
  const cloud = await startCloud(dir);
  t.after(() => cloud.close());
  return caller(cloud);
}

function caller({ httpPort }: Pick<TestCloud, "httpPort">, token = "none") {
  return async (method: "GET" | "POST", path: string, body?: object) => {
    const response = await fetch(`http://127.0.0.1:${httpPort}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        ...(body && { "content-type": "application/json" }),
      },
      ...(body && { body: JSON.stringify(body) }),
    });
    return {
      status: response.status,
      headers: response.headers,
      body: JSON.parse(await response.text()),
    };
  };
}

test("a cloud without an authority says so, and runs as before", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-api-authority-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const ask = await cloudIn(dir, t);
  const calls = [
    ["GET", "/.well-known/jwks.json"],
    ["GET", "/api/v1/claims"],
    ["GET", "/api/v1/enrolments"],
    ["GET", "/api/v1/identities"],
    ["GET", "/api/v1/denylist"],
    ["POST", "/api/v1/claims", { kind: "device", name: "a", site: "b" }],
    ["POST", "/api/v1/claims/a/revoke"],
    ["POST", "/api/v1/enrolments", { claim: "a", request: "b" }],
    ["POST", "/api/v1/enrolments/a/accept"],
    ["POST", "/api/v1/enrolments/a/reject"],
    ["POST", "/api/v1/renewals", { request: "b" }],
    ["POST", "/api/v1/denylist", { kind: "device", name: "a" }],
  ] as const;
  for (const [method, path, body] of calls) {
    const answer = await ask(method, path, body);
    assert.deepEqual([answer.status, answer.body.code], [404, "no-authority"], path);
  }
  assert.equal((await ask("GET", "/api/v1/health")).status, 200);
});

describe("a cloud with an authority", () => {
  let dir: string;
  let cloud: TestCloud;
  let ask: ReturnType<typeof caller>;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "tributary-api-authority-"));
    await keepAuthority(dir, await makeAuthorityKeys("press-works", Date.now(), random));
    cloud = await startCloud(dir);
    const keys = await readAuthorityKeys(authorityFile(dir));
    const lifeMs = 3_600_000;
    ask = caller(cloud, await ownerToken(keys, { nowMs: Date.now(), lifeMs, random }));
  });
  after(async () => {
    await cloud?.close();
    await rm(dir, { recursive: true, force: true });
  });

  const device = { kind: "device", name: "press-7", site: "north" } as const;
  const key = makeKey("EdDSA");
  const nonce = "0123456789abcdef";

  test("enrols, renews and revokes a device over REST", async () => {
    const made = await ask("POST", "/api/v1/claims", { ...device, approval: true });
    assert.equal(made.status, 201);
    const { claim, text } = made.body;
    assert.deepEqual(
      { ...claim, createdAtMs: 0, expiresAtMs: 0 },
      {
        ...device,
        id: readClaim(text)?.id,
        uses: 1,
        used: 0,
        approval: true,
        state: "open",
        createdAtMs: 0,
        expiresAtMs: 0,
      },
    );
    assert.equal(claim.expiresAtMs - claim.createdAtMs, 86_400_000);
    const asked = { ...device, nonce, iat: 1, claim: claim.id };
    const newcomer = { claim: text, request: await writeRequest(asked, key) };
    const pending = await ask("POST", "/api/v1/enrolments", newcomer);
    assert.deepEqual([pending.status, pending.body.code], [409, "claim-pending"]);
    const waiting = await ask("GET", "/api/v1/enrolments?state=pending");
    assert.equal(waiting.body.items.length, 1);
    const [{ id }] = waiting.body.items;
    const accepted = await ask("POST", `/api/v1/enrolments/${id}/accept`);
    assert.deepEqual([accepted.status, accepted.body.state], [200, "accepted"]);
    const rejected = await ask("POST", `/api/v1/enrolments/${id}/reject`);
    assert.deepEqual([rejected.status, rejected.body.code], [409, "wrong-state"]);
    const enrolled = await ask("POST", "/api/v1/enrolments", newcomer);
    assert.equal(enrolled.status, 201, JSON.stringify(enrolled.body));
    assert.equal(enrolled.headers.get("cache-control"), "no-store");
    assert.match(enrolled.body.certificate, /^-----BEGIN CERTIFICATE-----\n/);
    assert.equal(typeof enrolled.body.token, "string");
    const jwks = await ask("GET", "/.well-known/jwks.json");
    assert.deepEqual(jwks.body, enrolled.body.jwks);
    assert.doesNotMatch(JSON.stringify(jwks.body), /"d"/);

    const renew = { ...device, nonce, iat: 1, renew: enrolled.body.serial };
    const renewal = { request: await writeRequest(renew, key) };
    assert.equal((await ask("POST", "/api/v1/renewals", renewal)).status, 201);
    const identities = await ask("GET", "/api/v1/identities");
    assert.deepEqual(
      identities.body.items.map(({ name, state }: Record<string, unknown>) => [name, state]),
      [["press-7", "active"]],
    );

    const { kind, name } = device;
    const revoked = await ask("POST", "/api/v1/denylist", { kind, name });
    assert.equal(revoked.status, 200);
    assert.deepEqual((await ask("GET", "/api/v1/denylist")).body, revoked.body);
    const keyring = createKeyring(jwksSchema.parse(jwks.body));
    const list = await readDenylist(revoked.body.text, { fleet: "press-works", keyring });
    assert.ok(list.ok);
    assert.deepEqual(list.list.entries, revoked.body.entries);
    const again = await ask("POST", "/api/v1/renewals", renewal);
    assert.deepEqual([again.status, again.body.code], [403, "identity-revoked"]);
  });

  test("takes claims back, and lists them without secrets", async () => {
    const made = await ask("POST", "/api/v1/claims", { ...device, name: "press-*", uses: 5 });
    const { id, secret = "" } = readClaim(made.body.text) ?? {};
    const revoked = await ask("POST", `/api/v1/claims/${id}/revoke`);
    assert.equal(revoked.body.state, "revoked");
    const listed = await ask("GET", "/api/v1/claims?limit=1");
    assert.equal(listed.body.items.length, 1);
    const rest = await ask("GET", `/api/v1/claims?cursor=${listed.body.next}`);
    const all = [...listed.body.items, ...rest.body.items];
    assert.ok(all.some((claim: { id: string }) => claim.id === id));
    assert.ok(!JSON.stringify(all).includes(secret));
    assert.doesNotMatch(JSON.stringify(all), /secret/i);
    const refused = await ask("POST", "/api/v1/enrolments", {
      claim: made.body.text,
      request: await writeRequest({ ...device, nonce, iat: 1, claim: id ?? "" }, makeKey("EdDSA")),
    });
    assert.deepEqual([refused.status, refused.body.code], [403, "claim-revoked"]);
  });

  test("refuses what is out of bounds, or unknown", async () => {
    const bad = [
      ["/api/v1/claims", { ...device, name: "__proto__" }],
      ["/api/v1/claims", { ...device, name: "a*b*" }],
      ["/api/v1/claims", { ...device, kind: "cloud" }],
      ["/api/v1/claims", { ...device, uses: 0 }],
      ["/api/v1/claims", { ...device, lifeMs: 91 * 86_400_000 }],
      ["/api/v1/claims", { ...device, extra: 1 }],
      ["/api/v1/enrolments", { claim: "x".repeat(300), request: "a" }],
      ["/api/v1/enrolments", { claim: "a" }],
      ["/api/v1/denylist", { kind: "user", name: "a" }],
    ] as const;
    for (const [path, body] of bad) {
      const answer = await ask("POST", path, body);
      assert.deepEqual([answer.status, answer.body.code], [400, "invalid-request"], path);
    }
    const unknown = [
      ["/api/v1/claims/none/revoke", undefined, "unknown-claim"],
      ["/api/v1/enrolments/none/accept", undefined, "unknown-enrolment"],
      ["/api/v1/denylist", { kind: "gateway", name: "none" }, "identity-unknown"],
    ] as const;
    for (const [path, body, code] of unknown) {
      const answer = await ask("POST", path, body);
      assert.deepEqual([answer.status, answer.body.code], [404, code], path);
    }
  });
});
