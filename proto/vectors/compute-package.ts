import { createPrivateKey } from "node:crypto";
import { writeFileSync } from "node:fs";
import { sha256 } from "../host/digest.js";
import { signJws } from "../identity/jws.js";
import { publicJwk, thumbprint } from "../identity/keys.js";
import { signPackage } from "../identity/package.js";

/**
 * Writes proto/vectors/compute-package.json: `node proto/dist/vectors/compute-package.js`. The signer's
 * key is the one of RFC 8037, A.1: known to everybody, fit for vectors only. The same bytes each time.
 */
const key = createPrivateKey({
  key: {
    ...{ kty: "OKP", crv: "Ed25519" },
    d: "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
  },
  format: "jwk",
});
const jwk = publicJwk(key);

/** A gzipped tar file with `train.py`, which prints a word. */
const archive = Buffer.from(
  "H4sIAAAAAAAC/yspSszM0yuoZKAhMDAwMDMxUQDRBgYG6LSBgYGhuYIBAigYGBqYmRopMBgw0AGUFpckFjEYGFDBkyieGyKgoCgzr0RDKSM1JydfSZOLYRSMglEwCkbByAAARUZEQwAIAAA=",
  "base64",
);
const statement = {
  package: "hello.1",
  digest: sha256(archive),
  bytes: archive.length,
  files: 1,
  unpackedBytes: 15,
  entryPoints: { train: ["python3", "train.py"], predict: ["./train.py"] },
  environment: { MODE: "fast" },
  memoryBytes: 268_435_456,
  timeMs: 60_000,
};
const text = await signPackage(statement, key);
const [head = "", body = "", signature = ""] = text.split(".");
const encoded = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
const typ = "tributary-package+jwt";
const signed = (payload: object, header: object = { typ, jwk }) =>
  signJws(payload, header as { typ: string }, { key, algorithm: "EdDSA" });
const { d: _, ...secret } = key.export({ format: "jwk" });

const vectors = {
  signer: { jwk, thumbprint: await thumbprint(jwk) },
  archive: archive.toString("hex"),
  files: { "train.py": 'print("hello")\n' },
  valid: [{ statement: text, payload: statement }],
  invalid: [
    {
      name: "another bound under the same signature",
      code: "package-signature",
      statement: `${head}.${encoded({ ...statement, timeMs: 60_001 })}.${signature}`,
    },
    {
      name: "alg none",
      code: "package-signature",
      statement: `${encoded({ alg: "none", typ, jwk: secret })}.${body}.`,
    },
    {
      name: "no key in the header",
      code: "package-signature",
      statement: await signed(statement, { typ }),
    },
    {
      name: "a token's kind",
      code: "package-malformed",
      statement: await signed(statement, { typ: "at+jwt", jwk }),
    },
    {
      name: "a program outside the package",
      code: "package-malformed",
      statement: await signed({ ...statement, entryPoints: { train: ["/bin/sh"] } }),
    },
    {
      name: "a path that leads up",
      code: "package-malformed",
      statement: await signed({ ...statement, entryPoints: { train: ["./../train"] } }),
    },
    {
      name: "an unknown field",
      code: "package-malformed",
      statement: await signed({ ...statement, sudo: true }),
    },
    {
      name: "a variable that is the device's to set",
      code: "package-malformed",
      statement: await signed({ ...statement, environment: { TRIBUTARY_DATA: "/" } }),
    },
  ],
};

writeFileSync(
  new URL("../../vectors/compute-package.json", import.meta.url),
  `${JSON.stringify(vectors, null, 2)}\n`,
);
