import assert from "node:assert/strict";
import { connect } from "node:net";
import { after, before, describe, test } from "node:test";
import { makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import { signDeviceToken } from "@tributary/proto/identity/tokens.js";
import Fastify from "fastify";
import { base64url, SignJWT, UnsecuredJWT } from "jose";
import { jwksOf, tokenKey } from "../authority/keys.js";
import { nowMs, type SecuredApi, securedApi } from "../testing/secured-api.js";
import { guardRoutes } from "./guard.js";
import type { ApiPorts } from "./ports.js";

const iat = nowMs / 1000;
const owner = [{ project: "*", role: "owner" as const }];

/** Routes that need no token, each for a reason of its own. */
const open = [
  // What watches the process has no token; who asks is told the version, and nothing of the fleet.
  "GET /api/v1/health",
  "HEAD /api/v1/health",
  // The form of the API is no secret.
  "GET /api/v1/openapi.json",
  "HEAD /api/v1/openapi.json",
  // Public keys are public.
  "GET /.well-known/jwks.json",
  "HEAD /.well-known/jwks.json",
  // A claim, or a signature of the key before, is what counts there.
  "POST /api/v1/enrolments",
  "POST /api/v1/renewals",
  // Certificates and public keys: a machine knows the right ones by a claim, or by those it has.
  "GET /api/v1/trust",
  "HEAD /api/v1/trust",
];

describe("the guard before every route", () => {
  let secured: SecuredApi;
  before(async () => {
    secured = await securedApi();
  });
  after(() => secured?.close());

  const routes = () => {
    assert.ok(secured.api.guarded.length > 50);
    return secured.api.guarded;
  };
  const knock = (method: string, url: string, token?: string) =>
    secured.api.inject({
      method: method as "GET",
      url: url.replace(/:\w+/g, "x.1"),
      headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    });

  test("no REST route answers without credentials, but those that are open on purpose", async () => {
    const answering: string[] = [];
    for (const { method, url } of routes()) {
      const answer = await knock(method, url);
      if (answer.statusCode !== 401) answering.push(`${method} ${url}`);
      else if (method !== "HEAD") {
        assert.equal(answer.json().code, "unauthenticated", url);
        assert.equal(answer.headers["www-authenticate"], "Bearer");
      }
    }
    assert.deepEqual(
      answering.filter((route) => !open.includes(route)),
      [],
    );
    for (const { method, url, permission } of routes())
      assert.equal(permission === "public", answering.includes(`${method} ${url}`), url);
  });

  test("a token without roles opens nothing but what anybody may do for himself", async () => {
    const token = await secured.token([]);
    for (const { method, url, permission } of routes()) {
      if (permission === "public" || permission === "anybody") continue;
      const answer = await knock(method, url, token);
      assert.equal(answer.statusCode, 403, `${method} ${url}`);
    }
    const anybody = routes().filter(({ permission }) => permission === "anybody");
    assert.deepEqual([...new Set(anybody.map(({ url }) => url))].sort(), [
      "/api/v1/invitations/accept",
      "/api/v1/projects",
      "/api/v1/projects/:id/members/remove",
      "/api/v1/tokens",
      "/api/v1/tokens/:id/revoke",
      "/api/v1/whoami",
    ]);
  });

  test("a route that names no permission stops the start", async () => {
    const api = Fastify();
    guardRoutes(api as never, { access: {} } as ApiPorts);
    assert.throws(
      () => api.get("/forgotten", async () => "open"),
      /GET \/forgotten names no permission/,
    );
    await api.close();
  });

  test("an upload of somebody who may not is refused before its body comes", async () => {
    const address = await secured.api.listen({ host: "127.0.0.1", port: 0 });
    const viewer = await secured.token([{ project: "default", role: "viewer" }]);
    for (const [shown, status] of [
      ["", 401],
      [`authorization: Bearer ${viewer}\r\n`, 403],
    ] as const) {
      const socket = connect(Number(new URL(address).port), "127.0.0.1");
      const head = `POST /api/v1/models?name=m HTTP/1.1\r\nhost: 127.0.0.1\r\n${shown}`;
      const body = "content-type: application/octet-stream\r\ncontent-length: 400000000\r\n\r\n";
      socket.write(`${head}${body}`);
      let answer = "";
      // Nothing of the body is sent, and the connection ends all the same.
      for await (const part of socket.setEncoding("utf8")) answer += part;
      assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `));
      assert.match(answer, /connection: close/i);
    }
  });

  const refused = async (token: string, code: string) => {
    const answer = await secured.ask("GET", "/whoami", token);
    assert.deepEqual([answer.status, answer.code], [401, code]);
  };

  test("a good token is taken, an expired and a not-yet-valid one are not", async () => {
    const good = await secured.ask(
      "GET",
      "/whoami",
      await secured.token(owner, { sub: "ada", name: "Ada" }),
    );
    assert.deepEqual(good.body, { subject: "user:ada", name: "Ada", roles: owner });
    await refused(await secured.token(owner, { iat: iat - 7_200, exp: iat - 61 }), "token-expired");
    await refused(
      await secured.token(owner, { iat: iat + 61, exp: iat + 3_600 }),
      "token-not-yet-valid",
    );
    // Clocks may differ by a minute.
    const late = await secured.token(owner, { iat: iat - 7_200, exp: iat - 59 });
    assert.equal((await secured.ask("GET", "/whoami", late)).status, 200);
  });

  test("a token of a wrong audience, a wrong issuer, or a device's is refused", async () => {
    const { kid, key } = tokenKey(secured.keys);
    const sign = (over: object, typ = "at+jwt") =>
      new SignJWT({ name: "x", roles: owner, jti: "j1", nbf: iat, ...over })
        .setProtectedHeader({ alg: "EdDSA", typ, kid })
        .setIssuedAt(iat)
        .setSubject("x")
        .setExpirationTime(iat + 600)
        .sign(key);
    const right = { iss: "tributary:press-works", aud: "api" };
    assert.equal((await secured.ask("GET", "/whoami", await sign(right))).status, 200);
    await refused(await sign({ ...right, aud: "mqtt" }), "token-audience");
    await refused(await sign({ ...right, iss: "tributary:other-works" }), "token-issuer");
    await refused(await sign(right, "JWT"), "token-kind");
    const jwk = publicJwk(makeKey("EdDSA"));
    assert.ok(jwk.kty === "OKP");
    const held = { sub: "press-7", site: "north", jti: "j2", cnf: { jwk } };
    const device = await signDeviceToken(
      "press-works",
      { ...held, iat, exp: iat + 600 },
      { kid, key },
    );
    await refused(device, "token-kind");
  });

  test("a token with alg none, or key-confused, or of another key is refused", async () => {
    const payload = { name: "x", roles: owner, jti: "j3", nbf: iat, sub: "x" };
    const right = { ...payload, iss: "tributary:press-works", aud: "api", iat, exp: iat + 600 };
    const none = new UnsecuredJWT(right).encode();
    const typed = none.replace(
      /^[^.]+/,
      base64url.encode(JSON.stringify({ alg: "none", typ: "at+jwt" })),
    );
    await refused(none, "token-malformed");
    const found = await secured.ask("GET", "/whoami", typed);
    assert.equal(found.status, 401);
    const { kid } = tokenKey(secured.keys);
    const [published] = jwksOf(secured.keys, nowMs).keys;
    assert.ok(published);
    // The public key, taken for a shared secret.
    const confused = await new SignJWT(right)
      .setProtectedHeader({ alg: "HS256", typ: "at+jwt", kid })
      .sign(new TextEncoder().encode(published.x));
    await refused(confused, "token-signature");
    const foreign = await new SignJWT(right)
      .setProtectedHeader({ alg: "EdDSA", typ: "at+jwt", kid })
      .sign(makeKey("EdDSA"));
    await refused(foreign, "token-signature");
    await refused(`${foreign}x`, "token-signature");
    await refused("x".repeat(9_000), "token-malformed");
  });
});
