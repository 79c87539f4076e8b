import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { z } from "zod";
import { sha256 } from "../host/digest.js";
import { publicJwkSchema, thumbprint } from "../identity/keys.js";
import { openPackage } from "../identity/package.js";

const vectorsSchema = z.object({
  signer: z.object({ jwk: publicJwkSchema, thumbprint: z.string() }),
  archive: z.string(),
  valid: z.array(
    z.object({ statement: z.string(), payload: z.looseObject({ digest: z.string() }) }),
  ),
  invalid: z.array(z.object({ name: z.string(), code: z.string(), statement: z.string() })),
});
const { signer, archive, valid, invalid } = vectorsSchema.parse(
  JSON.parse(readFileSync(new URL("../../vectors/compute-package.json", import.meta.url), "utf8")),
);

test("valid statements of packages open, as their signer's", async () => {
  assert.equal(await thumbprint(signer.jwk), signer.thumbprint);
  for (const { statement, payload } of valid) {
    const opened = await openPackage(statement);
    assert.deepEqual(opened, { ok: true, statement: payload, signer: signer.thumbprint });
    assert.equal(payload.digest, sha256(Buffer.from(archive, "hex")));
  }
});

test("invalid statements of packages are refused with their code", async () => {
  assert.ok(invalid.length > 5);
  for (const { name, code, statement } of invalid) {
    const opened = await openPackage(statement);
    assert.equal(opened.ok ? "opened" : opened.code, code, name);
  }
});
