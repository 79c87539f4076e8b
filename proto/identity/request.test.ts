import assert from "node:assert/strict";
import { test } from "node:test";
import { signJws } from "./jws.js";
import { makeKey, publicJwk, thumbprint } from "./keys.js";
import { identityLimits } from "./limits.js";
import { type RequestPayload, readRequest, writeRequest } from "./request.js";

const first: RequestPayload = {
  kind: "gateway",
  name: "g1",
  site: "north",
  claim: "kq2m5xw7aapn",
  nonce: "0123456789abcdef",
  iat: 1_900_000_000,
};
const next: RequestPayload = {
  kind: "device",
  name: "press-7",
  site: "north",
  renew: "0a1b",
  nonce: "0123456789abcdef",
  iat: 1_900_000_000,
};
const typ = "tributary-request+jwt";

async function codeOf(text: string): Promise<string> {
  const read = await readRequest(text);
  return read.ok ? "taken" : read.code;
}

for (const algorithm of ["EdDSA", "ES256"] as const)
  test(`a request signed with ${algorithm} says who asks, and with which key`, async () => {
    const key = makeKey(algorithm);
    for (const payload of [first, next]) {
      const read = await readRequest(await writeRequest(payload, key));
      assert.ok(read.ok);
      assert.deepEqual(read.request, {
        payload,
        jwk: publicJwk(key),
        thumbprint: await thumbprint(publicJwk(key)),
        endorsedBy: undefined,
      });
    }
  });

test("a renewal with a new key carries the former key's word for it", async () => {
  const [former, fresh] = [makeKey("ES256"), makeKey("ES256")];
  const read = await readRequest(await writeRequest(next, fresh, former));
  assert.ok(read.ok);
  assert.equal(read.request.endorsedBy, await thumbprint(publicJwk(former)));
  assert.equal(read.request.thumbprint, await thumbprint(publicJwk(fresh)));
});

test("a former key's word for one key, or certificate, does not serve another", async () => {
  const [former, fresh, thief] = [makeKey("EdDSA"), makeKey("EdDSA"), makeKey("EdDSA")];
  const read = await readRequest(await writeRequest(next, fresh, former));
  assert.ok(read.ok);
  const { payload } = read.request;
  assert.ok("renew" in payload);
  const stolen = { key: thief, algorithm: "EdDSA" } as const;
  const jwk = publicJwk(thief);
  assert.equal(await codeOf(await signJws(payload, { typ, jwk }, stolen)), "request-signature");
  const other = { ...payload, renew: "0a1c" };
  const signing = { key: fresh, algorithm: "EdDSA" } as const;
  assert.equal(
    await codeOf(await signJws(other, { typ, jwk: publicJwk(fresh) }, signing)),
    "request-signature",
  );
});

test("a request under another key than the one that it shows is refused", async () => {
  const [own, other] = [makeKey("EdDSA"), makeKey("EdDSA")];
  const signing = { key: other, algorithm: "EdDSA" } as const;
  assert.equal(
    await codeOf(await signJws(first, { typ, jwk: publicJwk(own) }, signing)),
    "request-signature",
  );
});

test("what is no request of ours is refused", async () => {
  const key = makeKey("EdDSA");
  const signing = { key, algorithm: "EdDSA" } as const;
  const jwk = publicJwk(key);
  const text = await writeRequest(first, key);
  const [, body = "", signature = ""] = text.split(".");
  const head = (header: object) => Buffer.from(JSON.stringify(header)).toString("base64url");
  const secret = { kty: "oct", k: Buffer.alloc(32).toString("base64url") };
  const cases = [
    ["", "request-malformed"],
    ["a.b.c", "request-malformed"],
    [`${text}.x`, "request-malformed"],
    [
      `${head({ alg: "EdDSA", typ, jwk, crit: ["exp"] })}.${body}.${signature}`,
      "request-malformed",
    ],
    [`${head({ alg: "HS256", typ, jwk: secret })}.${body}.${signature}`, "request-malformed"],
    [`${head({ alg: "none", typ, jwk })}.${body}.`, "request-signature"],
    [`${head({ alg: "HS256", typ, jwk })}.${body}.${signature}`, "request-signature"],
    [await signJws(first, { typ: "JWT", jwk }, signing), "request-malformed"],
    [await signJws(first, { typ }, signing), "request-signature"],
    [await signJws({ ...first, name: "__proto__" }, { typ, jwk }, signing), "request-malformed"],
    [await signJws({ ...first, kind: "cloud" }, { typ, jwk }, signing), "request-malformed"],
    [await signJws({ ...first, extra: 1 }, { typ, jwk }, signing), "request-malformed"],
    [await signJws({ ...first, renew: "0a" }, { typ, jwk }, signing), "request-malformed"],
    [text + "A".repeat(identityLimits.requestChars), "request-malformed"],
  ] as const;
  for (const [bad, code] of cases) assert.equal(await codeOf(bad), code, bad.slice(0, 80));
});
