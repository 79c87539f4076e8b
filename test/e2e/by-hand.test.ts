import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { type Ended, tributary } from "tributary/cli/testing/command.js";
import { valuesIn } from "../floor/expected.js";
import { startTier, type TierProcess } from "../floor/tier-process.js";

/** What the README tells a reader to write; only the ports are laid over it here. */
const files = fileURLToPath(new URL("../../e2e/by-hand", import.meta.url));
const root = fileURLToPath(new URL("../../..", import.meta.url));

test("what the README shows of these files is what this test runs", async () => {
  const readme = await readFile(join(root, "README.md"), "utf8");
  const shown: string[] = [];
  for (const [, name = "", text] of readme.matchAll(
    /```\w+\n(?:#|\/\/) ([\w-]+\.\w+)\n(.*?)```/gs,
  )) {
    assert.equal(text, await readFile(join(files, name), "utf8"), `${name} in README.md`);
    shown.push(name);
  }
  assert.deepEqual(shown.sort(), (await readdir(files)).sort());
});

test("three processes by hand: start, import, train, look, download, stop, predict offline", async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-by-hand-"));
  const tiers: TierProcess[] = [];
  const env: Record<string, string> = {
    TRIBUTARY_CLOUD_GRPC__PORT: "0",
    TRIBUTARY_CLOUD_HTTP__PORT: "0",
    TRIBUTARY_GATEWAY_LISTEN__PORT: "0",
  };
  const start = (tier: string): TierProcess => {
    const started = startTier([tier, "start", "--config", `${tier}.yaml`], { cwd: dir, env });
    tiers.push(started);
    return started;
  };
  const run = async (...args: readonly string[]): Promise<Ended> => {
    const ended = await tributary(args, { cwd: dir, env });
    assert.equal(ended.code, 0, `${args.join(" ")}: ${ended.stderr}`);
    return ended;
  };
  try {
    await cp(files, dir, { recursive: true });
    await symlink(join(root, "node_modules"), join(dir, "node_modules"), "dir");
    await writeFile(join(dir, "package.json"), JSON.stringify({ type: "module" }));

    const cloud = start("cloud");
    const { grpcPort, httpPort } = await cloud.event("cloud-started");
    env.TRIBUTARY_URL = `http://127.0.0.1:${httpPort}`;
    env.TRIBUTARY_GATEWAY_UPSTREAM = `127.0.0.1:${grpcPort}`;
    const gateway = start("gateway");
    env.TRIBUTARY_DEVICE_GATEWAY = `mqtt://127.0.0.1:${(await gateway.event("gateway-started")).port}`;
    const device = start("device");

    const [wrote] = await once(
      spawn(process.execPath, ["first-model.js"], { cwd: dir, stdio: "inherit" }),
      "close",
    );
    assert.equal(wrote, 0);
    await run("model", "import", "line.safetensors", "--name", "line");
    const followed = await run(
      ...["session", "start", "--name", "fit", "--initial-model", "line.0", "--rounds", "20"],
      ...["--set", "gate.metric=loss", "--set", "gate.direction=lower", "--follow"],
    );
    assert.match(followed.stdout, /finished/);
    const shown = (await run("session", "show", "fit")).stdout;
    assert.match(shown, /state\s+finished/);
    assert.match(shown, /newest model\s+fit\.\d+/);
    const head = /newest model\s+(fit\.\d+)/.exec(shown)?.[1] ?? "";
    assert.match((await run("model", "list")).stdout, new RegExp(`${head}\\s+published`));
    const trail = (await run("model", "trail", head)).stdout;
    assert.equal(trail.trim().split("\n").length, 22, "a header, 20 models and the first one");
    assert.match((await run("gateway", "list")).stdout, /gw-1\s+north/);
    assert.match((await run("device", "list")).stdout, /press-7\s+north/);
    await run("model", "download", head, "--out", "fit.safetensors");
    const [w = 0, b = 0] = valuesIn(await readFile(join(dir, "fit.safetensors")));
    await device.event("model", { model: head, good: true });

    for (const tier of tiers.toReversed()) assert.equal(await tier.end("SIGINT"), 0);
    await writeFile(join(dir, "input.json"), "10");
    const answer = await run(
      "device",
      "predict",
      "--config",
      "device.yaml",
      "--input",
      "input.json",
    );
    assert.equal(Number(answer.stdout), w * 10 + b);
    assert.ok(Math.abs(Number(answer.stdout) - 21) < 0.5, `y = 2 x + 1 at 10: ${answer.stdout}`);
  } finally {
    for (const tier of tiers.toReversed()) await tier.end("SIGKILL");
    await rm(dir, { recursive: true, force: true });
  }
});
