import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { sha256 } from "../host/digest.js";
import { limits } from "../wire/limits.js";
import { makeManifest } from "../wire/manifest.js";
import {
  decodePackageFile,
  encodePackageFile,
  isPackagePath,
  type PackageStatement,
  packageStatementSchema,
} from "../wire/package.js";
import { signJws } from "./jws.js";
import { makeKey, publicJwk, thumbprint } from "./keys.js";
import { openPackage, openPlanPackage, signPackage } from "./package.js";

const archive = Uint8Array.from({ length: 5_000 }, (_, i) => i);
const statement: PackageStatement = {
  package: "steps.3",
  digest: sha256(archive),
  bytes: archive.length,
  files: 1,
  unpackedBytes: 10,
  entryPoints: { train: ["node", "train.mjs"], validate: ["./bin/check", "--fast"] },
  environment: { OMP_NUM_THREADS: "2" },
  memoryBytes: 256 * 1024 * 1024,
  timeMs: 60_000,
};
const key = makeKey("EdDSA");
const typ = "tributary-package+jwt";

async function refusal(text: string): Promise<string> {
  const opened = await openPackage(text);
  return opened.ok ? "opened" : opened.code;
}

describe("a compute package's statement", () => {
  test("says what was signed, and who signed it", async () => {
    const text = await signPackage(statement, key);
    const opened = await openPackage(text);
    assert.deepEqual(opened, { ok: true, statement, signer: await thumbprint(publicJwk(key)) });
    const file = { statement: text, manifest: makeManifest("steps.3", archive, sha256) };
    assert.ok((await openPlanPackage(file)).ok);
  });

  test("a tampered package: changed at any place, it does not open", async () => {
    const text = await signPackage(statement, key);
    const [header = "", , signature = ""] = text.split(".");
    const other = Buffer.from(JSON.stringify({ ...statement, timeMs: 1 })).toString("base64url");
    assert.equal(await refusal(`${header}.${other}.${signature}`), "package-signature");
    await fc.assert(
      fc.asyncProperty(
        fc.nat(text.length - 1),
        fc.constantFrom("A", "b", "7", "."),
        async (at, c) => {
          const changed = text.slice(0, at) + c + text.slice(at + 1);
          const opened = await openPackage(changed);
          // Spare bits of a text's last character may differ and mean the same.
          assert.ok(!opened.ok || JSON.stringify(opened.statement) === JSON.stringify(statement));
          if (opened.ok) assert.equal(opened.signer, await thumbprint(publicJwk(key)));
        },
      ),
      { numRuns: 50 },
    );
  });

  test("another key's name over a signature, another kind, alg none and a gateway's key are refused", async () => {
    const [, payload = "", signature = ""] = (await signPackage(statement, key)).split(".");
    const own = publicJwk(key);
    const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const under = (header: object) => refusal(`${encode(header)}.${payload}.${signature}`);
    const stranger = publicJwk(makeKey("EdDSA"));
    assert.equal(await under({ alg: "EdDSA", typ, jwk: stranger }), "package-signature");
    assert.equal(await under({ alg: "none", typ, jwk: own }), "package-signature");
    assert.equal(await under({ alg: "HS256", typ, jwk: own }), "package-signature");
    assert.equal(await under({ alg: "EdDSA", typ }), "package-signature");
    assert.equal(await under({ alg: "EdDSA", typ: "at+jwt", jwk: own }), "package-malformed");
    const p256 = makeKey("ES256");
    const signed = await signJws(
      statement,
      { typ, jwk: publicJwk(p256) },
      { key: p256, algorithm: "ES256" },
    );
    assert.equal(await refusal(signed), "package-signature");
    await assert.rejects(signPackage(statement, p256), RangeError);
  });

  test("of another file than the plan's, it is refused", async () => {
    const text = await signPackage(statement, key);
    const code = async (id: string, bytes: Uint8Array) => {
      const opened = await openPlanPackage({
        statement: text,
        manifest: makeManifest(id, bytes, sha256),
      });
      return opened.ok ? "opened" : opened.code;
    };
    assert.equal(await code("steps.3", archive), "opened");
    assert.equal(await code("steps.4", archive), "package-malformed");
    assert.equal(
      await code(
        "steps.3",
        archive.map((byte) => byte ^ 1),
      ),
      "package-malformed",
    );
  });

  test("no command names a program outside the package and the PATH, and no name is a trap", () => {
    const takes = (change: object) =>
      packageStatementSchema.safeParse({ ...statement, ...change }).success;
    const runs = (...train: string[]) => takes({ entryPoints: { train } });
    for (const program of ["node", "python3", "./train", "./bin/a-b_c.d"]) assert.ok(runs(program));
    for (const program of ["/bin/sh", "../x", "./../x", "a/b", "./a/../b", "", ".", "./", "a\0b"])
      assert.ok(!runs(program), program);
    assert.ok(!runs("node", "a\0b"));
    assert.ok(!runs());
    assert.ok(!runs(...Array.from({ length: limits.packageWords + 1 }, () => "x")));
    assert.ok(!takes({ entryPoints: {} }));
    assert.ok(!takes({ entryPoints: { train: ["node"], other: ["node"] } }));
    for (const name of ["TRIBUTARY_MODEL", "A=B", "1A", "a-b", "constructor"])
      assert.ok(!takes({ environment: { [name]: "x" } }), name);
    assert.ok(!takes({ bytes: limits.packageBytes + 1 }));
    assert.ok(!takes({ unpackedBytes: limits.packageUnpackedBytes + 1 }));
    assert.ok(!takes({ files: limits.packageFiles + 1 }));
  });

  test("a path stays inside", () => {
    for (const path of ["a", "a/b.c", ".a", "..a/b", "a/..b", "a@b/c+d"])
      assert.ok(isPackagePath(path), path);
    for (const path of [
      "",
      "/a",
      "a/",
      "a//b",
      "..",
      "../a",
      "a/..",
      "a/../b",
      "./a",
      "a\\b",
      "a b",
    ])
      assert.ok(!isPackagePath(path), path);
    assert.ok(!isPackagePath("a".repeat(limits.packagePathChars + 1)));
  });
});

describe("a compute package's file", () => {
  test("holds a draft or a signed statement, and the archive to the byte", async () => {
    const signed = { statement: await signPackage(statement, key) };
    for (const head of [{ draft: statement }, signed]) {
      const read = decodePackageFile(encodePackageFile(head, archive));
      assert.ok(read.ok);
      assert.deepEqual(read.head, head);
      assert.deepEqual(new Uint8Array(read.archive), archive);
    }
  });

  test("is refused when it is something else", () => {
    const code = (bytes: Uint8Array) => {
      const read = decodePackageFile(bytes);
      return read.ok ? "read" : read.code;
    };
    assert.equal(code(new Uint8Array(0)), "package-malformed");
    assert.equal(code(archive), "package-malformed");
    const file = encodePackageFile({ draft: statement }, archive);
    assert.equal(code(file.subarray(0, 40)), "package-malformed");
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        assert.equal(code(bytes), "package-malformed");
      }),
    );
  });
});
