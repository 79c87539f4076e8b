import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { z } from "zod";
import { loadConfig, redact } from "./config.js";

const schema = z
  .strictObject({
    site: z.string(),
    listen: z
      .strictObject({ host: z.string().default("127.0.0.1"), port: z.number().int().default(1883) })
      .prefault({}),
    deadlineMs: z.number().default(10),
    uploadWindowMs: z.number().default(1),
    token: z.string().optional(),
  })
  .refine((c) => c.deadlineMs > c.uploadWindowMs, {
    path: ["deadlineMs"],
    message: "must be longer than uploadWindowMs",
  });
let dir = "";
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "tributary-config-"));
});
after(() => rm(dir, { recursive: true }));

async function load(text: string, env: Record<string, string> = {}) {
  const file = join(dir, "config.yaml");
  await writeFile(file, text);
  return loadConfig({ file, env, envPrefix: "TRIBUTARY_", schema });
}

test("a file, defaults and the environment make one config", async () => {
  const config = await load("site: hall-a\nlisten:\n  port: 1\n", {
    TRIBUTARY_LISTEN__PORT: "1884",
    TRIBUTARY_DEADLINE_MS: "99",
    OTHER: "x",
  });
  assert.deepEqual(config.listen, { host: "127.0.0.1", port: 1884 });
  assert.equal(config.deadlineMs, 99);
});

test("JSON is read too", async () => {
  assert.equal((await load('{"site": "hall-a"}')).site, "hall-a");
});

test("a typo names its line and the setting that was meant", async () => {
  await assert.rejects(load("site: hall-a\nlisten:\n  prot: 1\n"), {
    code: "config-invalid",
    message: /listen\.prot \(line 3\): unknown setting; did you mean "port"\?/,
  });
});

test("every problem is listed", async () => {
  await assert.rejects(
    load("listen: {port: x}\ndeadlineMs: 1\nuploadWindowMs: 5\n"),
    (error: Error) => {
      assert.match(error.message, /site: /);
      assert.match(error.message, /listen\.port \(line 1\)/);
      return true;
    },
  );
});

test("a rule across fields is checked", async () => {
  await assert.rejects(load("site: a\ndeadlineMs: 1\nuploadWindowMs: 5\n"), {
    message: /deadlineMs \(line 2\): must be longer than uploadWindowMs/,
  });
});

test("what is no config is refused in words", async () => {
  await assert.rejects(load("a: [1"), { code: "config-invalid", message: /is not YAML/ });
  await assert.rejects(load("- a\n"), { message: /must hold a map/ });
  await assert.rejects(load(`site: ${"x".repeat(2 ** 20)}`), { message: /longer than/ });
  const file = join(dir, "absent.yaml");
  await assert.rejects(loadConfig({ file, env: {}, envPrefix: "T_", schema }), {
    code: "config-unreadable",
    message: /absent\.yaml/,
  });
});

test("a YAML error shows no line of the file, which may hold a secret", async () => {
  await assert.rejects(load("token: hush\nsite: [a, token: hush: x\n"), (error: Error) => {
    assert.match(error.message, /line \d/);
    assert.ok(!error.message.includes("hush"));
    return true;
  });
});

test("a value from the environment keeps its zeros, and its variable is named", async () => {
  assert.equal((await load("deadlineMs: 10", { TRIBUTARY_SITE: "007" })).site, "007");
  await assert.rejects(load("site: a", { TRIBUTARY_LISTEN__PORT: "high" }), {
    message: /listen\.port \(from TRIBUTARY_LISTEN__PORT\)/,
  });
});

test("a bomb of aliases is refused", async () => {
  const levels = Array.from(
    { length: 12 },
    (_, i) => `a${i + 1}: &a${i + 1} [${Array(9).fill(`*a${i}`).join(",")}]`,
  );
  await assert.rejects(load(`a0: &a0 x\n${levels.join("\n")}\n`), { code: "config-invalid" });
});

test("an environment variable cannot reach a prototype", async () => {
  await load("site: a", { TRIBUTARY___proto____x: "1", TRIBUTARY_constructor__x: "1" }).catch(
    () => {},
  );
  assert.equal(({} as { x?: number }).x, undefined);
});

test("secrets are not shown, however deep", () => {
  assert.deepEqual(
    redact({ store: { url: "postgres://u:p@h" }, list: [{ url: 1 }], site: "a" }, ["url"]),
    {
      store: { url: "(hidden)" },
      list: [{ url: "(hidden)" }],
      site: "a",
    },
  );
});

test("a setting that is missing, or of a wrong type, is named in plain words", async () => {
  const schema = z.object({ site: z.string(), port: z.number(), list: z.array(z.string()) });
  const env = { T_PORT: "many", T_LIST: "7" };
  await assert.rejects(loadConfig({ env, envPrefix: "T_", schema }), (error: Error) => {
    assert.match(error.message, /site: is missing; it must be text/);
    assert.match(error.message, /port \(from T_PORT\): must be a number, not text/);
    assert.match(error.message, /list \(from T_LIST\): must be a list, not a number/);
    return true;
  });
});
