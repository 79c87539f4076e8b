import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Bundle, readBundle } from "@tributary/proto/identity/bundle.js";
import { createKeyring } from "@tributary/proto/identity/keyring.js";
import { type SecuredApi, securedApi } from "../testing/secured-api.js";

const bundle: Bundle = {
  fleet: "press-works",
  version: "1.2.0",
  minimumVersion: "1.0.0",
  arch: "arm64",
  node: "22.11.0",
  for: null,
  files: [{ path: "release/package.json", mode: 0o644, bytes: 2, sha256: "ab".repeat(32) }],
};

describe("software bundles over REST", () => {
  let secured: SecuredApi;
  let operator: string;
  before(async () => {
    secured = await securedApi();
    operator = await secured.token([{ project: "*", role: "operator" }]);
  });
  after(() => secured?.close());

  test("an operator has a manifest signed by the key that every machine is given to trust", async () => {
    const signed = await secured.ask("POST", "/bundles/signatures", operator, bundle);
    assert.equal(signed.status, 201);
    const trust = (await secured.ask("GET", "/trust", operator)).body;
    assert.equal(trust.fleet, "press-works");
    assert.match(trust.anchors[0], /^-----BEGIN CERTIFICATE-----/);
    const keyring = createKeyring(trust.jwks);
    const read = await readBundle(signed.body.manifest, { fleet: trust.fleet, keyring });
    assert.ok(read.ok);
    assert.deepEqual(read.bundle, bundle);
    // The same manifest, the same bytes.
    const again = await secured.ask("POST", "/bundles/signatures", operator, bundle);
    assert.equal(again.body.manifest, signed.body.manifest);
  });

  test("nobody else has one signed, and none of another fleet or that no machine would read", async () => {
    const path = "/bundles/signatures";
    for (const role of ["trainer", "viewer", "auditor", "steward"] as const) {
      const token = await secured.token([{ project: "*", role }]);
      assert.equal((await secured.ask("POST", path, token, bundle)).code, "forbidden", role);
    }
    const local = await secured.token([{ project: "default", role: "operator" }]);
    assert.equal((await secured.ask("POST", path, local, bundle)).code, "forbidden");
    const [file] = bundle.files;
    for (const wrong of [
      { ...bundle, fleet: "others" },
      { ...bundle, minimumVersion: "1.3.0" },
      { ...bundle, arch: "riscv" },
      { ...bundle, files: [{ ...file, path: "../etc/passwd" }] },
      { ...bundle, files: [file, file] },
    ])
      assert.equal((await secured.ask("POST", path, operator, wrong)).code, "invalid-request");
  });
});
