import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { commandFile, runHere } from "./testing/command.js";

const scratch = mkdtempSync(join(tmpdir(), "tributary-tiers-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

writeFileSync(
  join(scratch, "trainer.mjs"),
  `export const createTrainer = () => ({
    train: async () => { throw new Error("it never trains"); },
    evaluate: async () => ({ samples: 1, metrics: {} }),
    predict: (_model, input) => input,
  });`,
);
const config = join(scratch, "device.json");
writeFileSync(
  config,
  JSON.stringify({
    site: "north",
    device: "press-7",
    // Port 9 is where nothing listens; a device that is offline is a normal device.
    gateway: "mqtt://127.0.0.1:9",
    dataDir: "device",
    trainer: { module: "./trainer.mjs" },
  }),
);

test("a tier logs JSON lines with --json, and ends with 0 on SIGTERM", async () => {
  const command = [commandFile, "device", "start", "--config", config, "--json"];
  const child = spawn(process.execPath, command, { stdio: ["ignore", "pipe", "inherit"] });
  const closed = once(child, "close");
  const events: unknown[] = [];
  for await (const line of createInterface(child.stdout)) {
    events.push(JSON.parse(line));
    if (events.length === 1) child.kill("SIGTERM");
  }
  const [code] = await closed;
  assert.equal(code, 0);
  assert.ok(events.length > 1, "what it does at its end is logged too");
});

test("predict without a model is refused with 1, and without its input ends with 78", async () => {
  const input = join(scratch, "input.json");
  writeFileSync(input, "[1]");
  const refused = await runHere(["device", "predict", "--config", config, "--input", input]);
  assert.equal(refused.code, 1);
  assert.equal(refused.stdout, "");
  assert.match(refused.stderr, /\S/);
  const absent = join(scratch, "absent.json");
  const wrong = await runHere(["device", "predict", "--config", config, "--input", absent]);
  assert.equal(wrong.code, 78);
});
