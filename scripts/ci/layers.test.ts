import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { repositoryRoot, workspaceFolders } from "./house.js";
import { checkLayers } from "./layers.js";

const folders = ["proto", "gateway", "cloud", "device-sdk/typescript", "scripts", "test"];
const names = {
  proto: "@tributary/proto",
  gateway: "@tributary/gateway",
  cloud: "@tributary/cloud",
  "device-sdk/typescript": "@tributary/device-sdk",
  scripts: "tributary",
  test: "@tributary/test",
};

/** Builds a house of the given sources in a temporary directory and judges it. */
function judge(sources: Readonly<Record<string, string>>): readonly string[] {
  const root = mkdtempSync(join(tmpdir(), "tributary-layers-"));
  const plant = (path: string, text: string): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  try {
    plant("package.json", JSON.stringify({ workspaces: folders }));
    for (const [folder, name] of Object.entries(names)) {
      plant(`${folder}/package.json`, JSON.stringify({ name, type: "module" }));
      plant(
        `${folder}/tsconfig.json`,
        JSON.stringify({
          compilerOptions: { module: "nodenext", types: [] },
          include: ["**/*.ts"],
          exclude: ["excluded"],
        }),
      );
    }
    for (const [path, text] of Object.entries(sources)) plant(path, text);
    return checkLayers(root, folders).violations.map(
      ({ file, line, message }) => `${file}:${line} ${message}`,
    );
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

test("allowed imports pass", () => {
  assert.deepEqual(
    judge({
      "proto/wire/a.ts": `import { z } from "zod"; import "./b.js";`,
      "proto/wire/b.ts": "export {};",
      "proto/wire/b.test.ts": `import "node:test"; import "./b.js";`,
      "proto/host/disk.ts": `import "node:fs"; import "../wire/a.js";`,
      "proto/tier/grpc.ts": `import "node:http2"; import "../wire/a.js";`,
      "proto/identity/keys.ts": `import "node:crypto"; import "../wire/a.js";`,
      "gateway/main.ts": `import "node:fs"; import "@tributary/proto/wire/a.js";`,
      "device-sdk/typescript/main.ts": `import "@tributary/proto/wire/a.js";`,
      "scripts/cli/main.ts": `await import("@tributary/cloud/main.js");`,
      "test/e2e.ts": `import "tributary/cli/main.js"; import "@tributary/gateway/main.js";`,
    }),
    [],
  );
});

test("a tier that imports another tier is named, in every form of import", () => {
  assert.deepEqual(
    judge({
      "gateway/a.ts": `\nimport "@tributary/cloud/main.js";`,
      "cloud/a.ts": `import type { A } from "@tributary/gateway/a.js"; export type B = A;`,
      "cloud/b.ts": `export * from "@tributary/device-sdk/a.js";`,
      "device-sdk/typescript/a.ts": `export const a = () => import("@tributary/gateway/a.js");`,
      "device-sdk/typescript/b.ts": `export type A = import("tributary/cli/main.js").A;`,
      "gateway/b.ts": `const text = 'import "@tributary/cloud/x.js"'; // import "@tributary/cloud"\nexport { text };`,
    }),
    [
      "gateway/a.ts:2 gateway may not import @tributary/cloud",
      "cloud/a.ts:1 cloud may not import @tributary/gateway",
      "cloud/b.ts:1 cloud may not import @tributary/device-sdk",
      "device-sdk/typescript/a.ts:1 device-sdk/typescript may not import @tributary/gateway",
      "device-sdk/typescript/b.ts:1 device-sdk/typescript may not import tributary",
    ],
  );
});

test("proto imports nothing of ours, and touches Node only in host, tier and identity", () => {
  assert.deepEqual(
    judge({
      "proto/a.ts": `import "@tributary/gateway/a.js";`,
      "proto/algebra/b.ts": `import "node:fs";`,
      "proto/wire/c.ts": `import "crypto";`,
    }),
    [
      "proto/a.ts:1 proto may not import @tributary/gateway",
      'proto/algebra/b.ts:1 only proto/host, proto/tier and proto/identity touch Node; "node:fs" does not belong here',
      'proto/wire/c.ts:1 write "node:crypto"',
    ],
  );
});

test("nothing that a device imports reaches proto/tier", () => {
  assert.deepEqual(
    judge({
      "proto/wire/a.ts": `import "../tier/b.js";`,
      "proto/tier/b.ts": "export {};",
      "gateway/a.ts": `import "@tributary/proto/tier/b.js";`,
      "device-sdk/typescript/a.ts": `import "@tributary/proto/tier/b.js";`,
    }),
    [
      'proto/wire/a.ts:1 "../tier/b.js" leads into proto/tier, which only those who serve gateways import',
      'device-sdk/typescript/a.ts:1 "@tributary/proto/tier/b.js" serves gateways: a device installs without gRPC',
    ],
  );
});

test("a relative or absolute path does not leave the package", () => {
  assert.deepEqual(
    judge({
      "gateway/deep/a.ts": `import "../../proto/wire/a.js"; import "../a.js";`,
      "gateway/a.ts": `import "/etc/a.js";`,
      "device-sdk/typescript/a.ts": `import "../python/a.js";`,
    }),
    [
      'gateway/a.ts:1 "/etc/a.js" is an absolute path',
      'gateway/deep/a.ts:1 "../../proto/wire/a.js" leaves gateway/; import another package by its name',
      'device-sdk/typescript/a.ts:1 "../python/a.js" leaves device-sdk/typescript/; import another package by its name',
    ],
  );
});

test("a check that reads nothing, or skips a source, fails", () => {
  assert.throws(() => judge({}), /no TypeScript source was read/);
  assert.throws(
    () => judge({ "gateway/a.ts": "export {};", "gateway/excluded/b.ts": "export {};" }),
    /not read by the compiler: gateway\/excluded\/b\.ts/,
  );
});

test("every workspace of this repository has its layer rule", () => {
  assert.deepEqual(workspaceFolders(repositoryRoot), folders);
});
