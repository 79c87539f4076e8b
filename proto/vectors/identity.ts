import { createPrivateKey } from "node:crypto";
import { writeFileSync } from "node:fs";
import { claimText, secretDigest } from "../identity/claim.js";
import { signDenylist } from "../identity/denylist.js";
import { signJws } from "../identity/jws.js";
import { publicJwk, thumbprint } from "../identity/keys.js";
import { subjectUri } from "../identity/names.js";
import { writeRequest } from "../identity/request.js";
import { signUpdate } from "../identity/statement.js";
import { signDeviceToken, signUserToken } from "../identity/tokens.js";

/**
 * Writes proto/vectors/identity.json: `node proto/dist/vectors/identity.js`. The issuer's key is the
 * one of RFC 8037, A.1, the device's the first of RFC 8032, 7.1, test 2: known to everybody, fit for
 * vectors only. Ed25519 signs the same text with the same bytes each time, so the file does not change.
 */

const ed25519 = (d: string, x: string) =>
  createPrivateKey({ key: { kty: "OKP", crv: "Ed25519", d, x }, format: "jwk" });
const issuerKey = ed25519(
  "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
  "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
);
const base64url = (hex: string) => Buffer.from(hex, "hex").toString("base64url");
const deviceKey = ed25519(
  base64url("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"),
  base64url("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"),
);

const fleet = "press-works";
const at = 1_900_000_000;
const issuer = { kid: "k1", key: issuerKey };
const jwk = publicJwk(deviceKey);
const device = { kind: "device", name: "press-7", site: "north" } as const;
const token = { sub: "press-7", site: "north", iat: at, exp: at + 86_400, jti: "t1" };
const cnf = { jwk: jwk as Extract<typeof jwk, { kty: "OKP" }> };
const deviceToken = await signDeviceToken(fleet, { ...token, cnf }, issuer);
const [head = "", body = "", signature = ""] = deviceToken.split(".");
const readable = { iss: `tributary:${fleet}`, aud: "mqtt", nbf: at, ...token, cnf };
const typ = "tributary-device+jwt";
const signed = (payload: object, header: { typ: string; kid?: string } = { typ, kid: "k1" }) =>
  signJws(payload, header, { key: issuerKey, algorithm: "EdDSA" });
const encoded = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");

const claim = {
  id: "kq2m5xw7aapn",
  secret: base64url("11".repeat(32)),
  anchor: base64url("22".repeat(32)),
};
const request = { ...device, nonce: "AAECAwQFBgcICQoL", iat: at };
const statement = { round: "press-line.4", device: "press-7", digest: "ab".repeat(32) };

const vectors = {
  fleet,
  /** When the tokens are judged, in seconds since 1970; by the device `press-7` at `north`. */
  now: at + 60,
  jwks: { keys: [{ ...publicJwk(issuerKey), kid: "k1", alg: "EdDSA", use: "sig" }] },
  thumbprints: [
    { jwk: publicJwk(issuerKey), thumbprint: await thumbprint(publicJwk(issuerKey)) },
    { jwk, thumbprint: await thumbprint(jwk) },
  ],
  names: {
    valid: [
      { fleet, ...device },
      { fleet, kind: "gateway", name: "g1", site: "north" } as const,
      { fleet, kind: "cloud", name: "main" } as const,
    ].map((subject) => ({ subject, uri: subjectUri(subject) })),
    invalid: [
      "tributary:press-works/device/north",
      "tributary:press-works/device/north/press-7/x",
      "tributary:press-works/device/north/__proto__",
      "tributary:press-works/user/north/press-7",
      "tributary:press-works/cloud/north/main",
      "tributary:press-works/device/../press-7",
      "tributary:press-works/device/north/press-7 ",
      "Tributary:press-works/device/north/press-7",
      "tributary://press-works/device/north/press-7",
      "tributary:press-works/device//press-7",
    ],
  },
  claims: [{ text: claimText(claim), ...claim, secretDigest: secretDigest(claim.secret) }],
  requests: [
    {
      text: await writeRequest({ ...request, claim: claim.id }, deviceKey),
      thumbprint: await thumbprint(jwk),
      payload: { ...request, claim: claim.id },
    },
  ],
  deviceTokens: {
    valid: [{ text: deviceToken, payload: readable }],
    invalid: [
      { name: "no token", code: "token-malformed", text: "a.b" },
      {
        name: "a name that is none",
        code: "token-malformed",
        text: await signed({ ...readable, sub: "__proto__" }),
      },
      {
        name: "no key of the device",
        code: "token-malformed",
        text: await signed({ ...readable, cnf: {} }),
      },
      {
        name: "a person's token",
        code: "token-kind",
        text: await signUserToken(
          fleet,
          { sub: "ada", name: "Ada", roles: [], iat: at, exp: at + 600, jti: "t2" },
          issuer,
        ),
      },
      {
        name: "unsigned",
        code: "token-signature",
        text: `${encoded({ alg: "none", typ, kid: "k1" })}.${body}.`,
      },
      {
        name: "another payload under the same signature",
        code: "token-signature",
        text: `${head}.${encoded({ ...readable, sub: "press-8" })}.${signature}`,
      },
      {
        name: "a key that nobody published",
        code: "token-signature",
        text: await signed(readable, { typ, kid: "k2" }),
      },
      {
        name: "another fleet's",
        code: "token-issuer",
        text: await signed({ ...readable, iss: "tributary:others" }),
      },
      {
        name: "for another part",
        code: "token-audience",
        text: await signed({ ...readable, aud: "api" }),
      },
      {
        name: "begins later",
        code: "token-not-yet-valid",
        text: await signed({ ...readable, nbf: at + 121 }),
      },
      { name: "ended", code: "token-expired", text: await signed({ ...readable, exp: at }) },
      {
        name: "another device's",
        code: "token-subject",
        text: await signed({ ...readable, sub: "press-8" }),
      },
      {
        name: "another site's",
        code: "token-subject",
        text: await signed({ ...readable, site: "south" }),
      },
    ],
  },
  denylists: [
    {
      text: await signDenylist(
        {
          fleet,
          sequence: 7,
          issuedAt: at,
          entries: [{ kind: "device", name: "press-9", before: at }],
        },
        issuer,
      ),
      sequence: 7,
      void: [{ kind: "device", name: "press-9", issuedAt: at - 1 }],
      good: [
        { kind: "device", name: "press-9", issuedAt: at },
        { kind: "gateway", name: "press-9", issuedAt: 0 },
        { kind: "device", name: "constructor", issuedAt: 0 },
      ],
    },
  ],
  statements: [
    {
      ...statement,
      jwk,
      signature: Buffer.from(signUpdate(statement, deviceKey)).toString("base64url"),
    },
  ],
};

writeFileSync(
  new URL("../../vectors/identity.json", import.meta.url),
  `${JSON.stringify(vectors, null, 2)}\n`,
);
