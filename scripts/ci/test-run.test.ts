import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const runner = fileURLToPath(new URL("./run-tests.js", import.meta.url));

let root = "";

before(() => {
  root = mkdtempSync(join(tmpdir(), "tributary-test-run-"));
  plant("package.json", JSON.stringify({ workspaces: ["a", "b"] }));
});
after(() => rmSync(root, { recursive: true, force: true }));

function plant(path: string, text: string): void {
  const file = join(root, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
}

/** Plants a test's source beside its compiled file. */
function plantTest(workspace: string, name: string, body: string): void {
  plant(`${workspace}/${name}.test.ts`, "");
  plant(
    `${workspace}/dist/${name}.test.js`,
    `const { test, describe } = require("node:test");${body}`,
  );
}

async function runPlanted(...args: string[]): Promise<{ code: unknown; lines: string[] }> {
  // With NODE_TEST_CONTEXT, run() takes itself for a nested run and does nothing.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const child = spawn(process.execPath, [runner, "--root", root, ...args], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const closed = once(child, "close");
  let text = "";
  for await (const chunk of child.stdout.setEncoding("utf8")) text += chunk;
  const [code] = await closed;
  return { code, lines: text.trimEnd().split("\n") };
}

test("no test at all fails", async () => {
  const { code, lines } = await runPlanted("nothing-has-this-name");
  assert.equal(code, 1);
  assert.equal(lines.at(-1), "0 passed, 0 failed");
});

test("passing tests pass, and suites and parents are not counted twice", async () => {
  plantTest("a", "good", `describe("s", () => { test("x", () => {}); test("y", () => {}); });`);
  const { code, lines } = await runPlanted("a/good");
  assert.equal(code, 0);
  assert.equal(lines.at(-1), "2 passed, 0 failed");
});

test("a failing subtest is one failure, named with its parents", async () => {
  plantTest(
    "a",
    "bad",
    `test("fine", () => {});
     test("outer", (t) => t.test("inner", () => { console.log("a trace"); throw new Error("boom"); }));`,
  );
  const { code, lines } = await runPlanted("a/bad");
  const text = lines.join("\n");
  assert.equal(code, 1);
  assert.equal(lines.at(-1), "1 passed, 1 failed");
  assert.match(text, /not ok: outer > inner/);
  assert.match(text, /boom/);
  assert.match(text, /a trace/);
});

test("a file that crashes, and one that holds no test, fail", async () => {
  plantTest("b", "crash", "process.exit(3);");
  plantTest("b", "empty", "");
  const { code, lines } = await runPlanted("b/crash", "b/empty");
  assert.equal(code, 1);
  assert.equal(lines.at(-1), "0 passed, 2 failed");
  assert.match(lines.join("\n"), /it defines no test/);
});

test("a skipped test does not count as passed", async () => {
  plantTest("b", "skipped", `test.skip("later", () => {});`);
  const { code, lines } = await runPlanted("b/skipped");
  assert.equal(code, 1);
  assert.equal(lines.at(-1), "0 passed, 0 failed");
  assert.match(lines.join("\n"), /skipped:\n {2}b\/skipped.test.ts: later/);
});

test("a compiled test without source is named and not run; a source without build fails", async () => {
  plant("a/dist/gone.test.js", "process.exit(3);");
  plantTest("a", "kept-gone", `const t = test("x", () => {});`);
  const stale = await runPlanted("gone");
  assert.equal(stale.code, 0);
  assert.match(stale.lines.join("\n"), /stale, not run .*a\/dist\/gone\.test\.js/);
  plant("a/unbuilt.test.ts", "");
  const unbuilt = await runPlanted("gone", "unbuilt");
  assert.equal(unbuilt.code, 1);
  assert.equal(unbuilt.lines.at(-1), "1 passed, 1 failed");
});

test("a file that hangs is stopped and fails", async () => {
  plantTest("b", "hang", `test("forever", () => new Promise(() => setInterval(() => {}, 1000)));`);
  const { code, lines } = await runPlanted("b/hang", "--file-timeout-ms", "500");
  assert.equal(code, 1);
  assert.equal(lines.at(-1), "0 passed, 1 failed");
  assert.match(lines.join("\n"), /it was stopped after 0\.5 s/);
});
