import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { differences } from "./generated.js";
import { lockFileProblems, strayNames } from "./tidiness.js";

test("only the house's names, dot files, lock files and licences stand at the top level", () => {
  const allowed = ["proto", "README.md", ".ci", ".nvmrc", "LICENSE", "package-lock.json"];
  assert.deepEqual(strayNames([...allowed, "docs", "biome.json", "report.json"]), [
    "docs",
    "biome.json",
    "report.json",
  ]);
});

test("a lock file that names a host, lacks a digest or is empty is refused", () => {
  const lock = (packages: object): string => JSON.stringify({ packages });
  const good = { "node_modules/a": { integrity: "sha512-x" } };
  const workspace = { "node_modules/b": { resolved: "b", link: true } };
  assert.deepEqual(lockFileProblems(lock({ "": {}, ...good, ...workspace })), []);
  assert.deepEqual(lockFileProblems(lock({ "": {} })), ["it locks no package"]);
  assert.deepEqual(
    lockFileProblems(
      lock({
        ...good,
        "node_modules/c": { integrity: "sha512-x", resolved: "https://registry.example/c.tgz" },
        "node_modules/d": {},
      }),
    ),
    [
      "node_modules/c names a host: https://registry.example/c.tgz",
      "node_modules/d has no integrity digest",
    ],
  );
});

test("generated code that is missing, out of date or left over is named", () => {
  const scratch = mkdtempSync(join(tmpdir(), "tributary-differences-"));
  const plant = (folder: string, files: Readonly<Record<string, string>>): string => {
    const path = join(scratch, folder);
    mkdirSync(path);
    for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text);
    return path;
  };
  try {
    const expected = plant("expected", { a: "1", b: "2", c: "3" });
    assert.deepEqual(differences(expected, expected), []);
    assert.deepEqual(differences(plant("actual", { a: "1", b: "x", d: "4" }), expected), [
      "out of date: proto/gen/b",
      "missing: proto/gen/c",
      "left over: proto/gen/d",
    ]);
    assert.deepEqual(differences(expected, plant("empty", {})), ["nothing was generated"]);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});
