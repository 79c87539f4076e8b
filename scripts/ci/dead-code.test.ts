import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { checkDeadCode } from "./dead-code.js";
import { repositoryRoot } from "./house.js";

test("a planted file, export and dependency that nothing uses are named", async () => {
  const root = mkdtempSync(join(tmpdir(), "tributary-dead-code-test-"));
  const plant = (path: string, content: string | object): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    const text = typeof content === "string" ? content : JSON.stringify(content);
    writeFileSync(join(root, path), text);
  };
  const exports = { "./*.js": "./dist/*.js" };
  try {
    symlinkSync(join(repositoryRoot, "node_modules"), join(root, "node_modules"));
    plant("package.json", { name: "house", workspaces: ["a", "b"] });
    plant("a/package.json", {
      name: "@house/a",
      version: "0.1.0",
      exports,
      dependencies: { zod: "4.0.0" },
    });
    plant("b/package.json", {
      name: "@house/b",
      version: "0.1.0",
      exports,
      dependencies: { "@house/a": "0.1.0" },
    });
    plant("a/used.ts", "export const used = 1; export const forgotten = 2;");
    plant("a/dead.ts", "export const dead = 1;");
    plant("b/main.ts", 'import { used } from "@house/a/used.js"; process.exitCode = used;');
    plant(".knip.json", {
      workspaces: {
        a: { entry: [], project: ["*.ts"] },
        b: { entry: ["main.ts"], project: ["*.ts"] },
      },
    });
    const { ok, output } = await checkDeadCode(root);
    assert.equal(ok, false);
    assert.match(output, /Unused files \(1\)\s+a\/dead\.ts/);
    assert.match(output, /Unused dependencies \(\d\)\s+zod +a\/package\.json/);
    assert.match(output, /Unused exports \(1\)\s+forgotten/);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});
