import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, test } from "node:test";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import Provider from "oidc-provider";
import { type SecuredApi, securedApi } from "../testing/secured-api.js";
import { createProvider, type ProviderConfig } from "./oidc.js";

const AUDIENCE = "urn:tributary:press-works";

/** A real provider on loopback, with one client that gets tokens for itself. */
async function startProvider() {
  const { privateKey } = await generateKeyPair("ES256", { extractable: true });
  const jwk = { ...(await exportJWK(privateKey)), kid: "p1", alg: "ES256", use: "sig" };
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "trainer-app",
        client_secret: "a-secret-of-the-test",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: "ES256",
      },
    ],
    jwks: { keys: [jwk] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          scope: "api",
          audience: resource,
          accessTokenTTL: 600,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
  });
  const answer = provider.callback();
  server.on("request", (request, response) => void answer(request, response));
  return {
    issuer,
    privateKey,
    async token(resource: string): Promise<string> {
      const answer = await fetch(`${issuer}/token`, {
        method: "POST",
        headers: {
          authorization: `Basic ${Buffer.from("trainer-app:a-secret-of-the-test").toString("base64")}`,
          "content-type": "application/x-www-form-urlencoded",
        },
        body: new URLSearchParams({ grant_type: "client_credentials", resource, scope: "api" }),
      });
      const body = (await answer.json()) as { access_token?: string };
      assert.ok(body.access_token, JSON.stringify(body));
      return body.access_token;
    },
    async close() {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}

describe("tokens of an OpenID Connect provider", () => {
  let outside: Awaited<ReturnType<typeof startProvider>>;
  let secured: SecuredApi;
  let config: ProviderConfig;
  before(async () => {
    outside = await startProvider();
    const { issuer } = outside;
    config = { issuer, jwksUrl: `${issuer}/jwks`, audience: AUDIENCE, tokenTypes: ["at+jwt"] };
    // The provider's clock is the machine's.
    secured = await securedApi({ provider: createProvider(config), atMs: Date.now() });
  });
  after(async () => {
    await secured?.close();
    await outside?.close();
  });

  const refused = async (token: string, code: string) => {
    const answer = await secured.ask("GET", "/whoami", token);
    assert.deepEqual([answer.status, answer.code], [401, code]);
  };

  test("a token that the provider issued for this API says who asks; a role comes by invitation", async () => {
    const token = await outside.token(AUDIENCE);
    const who = await secured.ask("GET", "/whoami", token);
    assert.equal(who.status, 200, JSON.stringify(who.body));
    assert.deepEqual(who.body, { subject: "oidc:trainer-app", name: "trainer-app", roles: [] });
    assert.equal((await secured.ask("GET", "/sessions", token)).status, 403);
    const owner = await secured.token([{ project: "*", role: "owner" }]);
    const invited = await secured.ask("POST", "/projects/default/invitations", owner, {
      role: "trainer",
    });
    const invitation = invited.body.text;
    const joined = await secured.ask("POST", "/invitations/accept", token, { invitation });
    assert.equal(joined.body.subject, "oidc:trainer-app");
    assert.equal((await secured.ask("GET", "/sessions", token)).status, 200);
    assert.equal((await secured.ask("GET", "/audit", token)).status, 403);
  });

  test("a token of the provider for somebody else is refused", async () => {
    await refused(await outside.token("urn:somebody-else"), "token-audience");
  });

  const now = () => Math.floor(Date.now() / 1000);
  const sign = (
    over: object,
    header: object = {},
    key: Parameters<SignJWT["sign"]>[0] = outside.privateKey,
  ) =>
    new SignJWT({ iss: outside.issuer, aud: AUDIENCE, sub: "ada", exp: now() + 600, ...over })
      .setProtectedHeader({ alg: "ES256", typ: "at+jwt", kid: "p1", ...header })
      .sign(key);

  test("what the provider did not sign, or not for now, is refused", async () => {
    assert.equal((await secured.ask("GET", "/whoami", await sign({}))).status, 200);
    const qualified = await sign({}, { typ: "application/at+jwt" });
    assert.equal((await secured.ask("GET", "/whoami", qualified)).status, 200);
    await refused(await sign({ exp: now() - 600 }), "token-expired");
    await refused(await sign({ nbf: now() + 600 }), "token-not-yet-valid");
    await refused(await sign({ aud: "api" }), "token-audience");
    await refused(await sign({ exp: undefined }), "token-malformed");
    await refused(await sign({ sub: "x".repeat(300) }), "token-malformed");
    // An id token is for the client that it was given to.
    await refused(await sign({}, { typ: "JWT" }), "token-kind");
    const other = await generateKeyPair("ES256");
    await refused(await sign({}, {}, other.privateKey), "token-signature");
    await refused(await sign({}, { kid: "p2" }), "token-signature");
    const secret = new TextEncoder().encode("a secret that a client shares with it");
    await refused(await sign({}, { alg: "HS256" }, secret), "token-signature");
    // Of another issuer: ours is asked, which knows no such key.
    await refused(await sign({ iss: "https://elsewhere.example" }), "token-signature");
  });

  test("a subject of the provider is not the fleet's of the same name", async () => {
    const owner = await secured.token([{ project: "*", role: "owner" }], { sub: "grace" });
    await secured.ask("GET", "/whoami", owner);
    const who = await secured.ask("GET", "/whoami", await sign({ sub: "grace" }));
    assert.deepEqual([who.body.subject, who.body.roles], ["oidc:grace", []]);
  });

  test("while the provider's keys cannot be had, nobody of it is let in, and may try again", async () => {
    const gone = createProvider({ ...config, jwksUrl: "http://127.0.0.1:9/jwks" });
    const cut = await securedApi({ provider: gone });
    try {
      const answer = await cut.ask("GET", "/whoami", await sign({}));
      assert.deepEqual([answer.status, answer.code], [503, "unavailable"]);
    } finally {
      await cut.close();
    }
  });
});
