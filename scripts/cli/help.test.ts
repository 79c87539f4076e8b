import assert from "node:assert/strict";
import { test } from "node:test";
import type { Command } from "commander";
import { createProgram } from "./program.js";
import type { Output } from "./world.js";

function program(): { readonly root: Command; printed(): string } {
  let text = "";
  const output: Output = {
    write: (part) => {
      text += part;
    },
    isTerminal: false,
    width: 80,
  };
  const world = { env: {}, stdout: output, stderr: output, nowMs: () => 0 };
  return { root: createProgram(world, "1.2.3"), printed: () => text };
}

function pathsOf(command: Command, path: readonly string[] = []): readonly (readonly string[])[] {
  return [path, ...command.commands.flatMap((child) => pathsOf(child, [...path, child.name()]))];
}

async function helpOf(path: readonly string[]): Promise<string> {
  const { root, printed } = program();
  await assert.rejects(root.parseAsync([...path, "--help"], { from: "user" }));
  return printed();
}

test("the command tree is the one that is promised", () => {
  assert.deepEqual(
    pathsOf(program().root).map((path) => path.join(" ")),
    [
      "",
      "cloud",
      "cloud start",
      "cloud init",
      "gateway",
      "gateway start",
      "gateway enrol",
      "gateway status",
      "gateway size",
      "gateway repair",
      "gateway import",
      "gateway install",
      "gateway update",
      "gateway list",
      "device",
      "device start",
      "device predict",
      "device list",
      "session",
      "session start",
      "session list",
      "session show",
      "session stop",
      "session resume",
      "model",
      "model list",
      "model show",
      "model trail",
      "model download",
      "model import",
      "model activate",
      "package",
      "package key",
      "package build",
      "package sign",
      "package show",
      "package upload",
      "package list",
      "package remove",
      "keys",
      "keys list",
      "keys rotate",
      "keys backup",
      "keys restore",
      "claim",
      "claim create",
      "claim list",
      "claim accept",
      "claim reject",
      "claim revoke",
      "revoke",
      "login",
      "logout",
      "token",
      "token create",
      "token list",
      "token revoke",
      "project",
      "project create",
      "project list",
      "project sites",
      "project members",
      "project invite",
      "project invitations",
      "project join",
      "audit",
      "audit list",
      "audit export",
      "audit verify",
      "denylist",
      "challenge",
      "challenge run",
      "challenge list",
      "challenge show",
      "flash",
      "alarms",
      "check",
      "support-bundle",
      "completion",
    ],
  );
});

test("every help fits 80 columns and describes every option and argument", async () => {
  for (const path of pathsOf(program().root)) {
    const help = await helpOf(path);
    assert.match(help, new RegExp(`^Usage: tributary ?${path.join(" ")}`));
    for (const line of help.split("\n")) {
      assert.ok(line.length <= 80, `${path.join(" ")}: ${line}`);
      assert.doesNotMatch(line, /^ {2}-\S+( <\S+>)?$/, `no description: ${line}`);
    }
  }
});

test("the main help documents the exit codes", async () => {
  const help = await helpOf([]);
  for (const code of [0, 1, 2, 64, 69, 70, 73, 78]) {
    assert.match(help, new RegExp(`^ {2}${code} +\\w`, "m"));
  }
});

test("the help of session start reads so", async () => {
  const lines = (await helpOf(["session", "start"])).split("\n");
  assert.deepEqual(lines.slice(0, 9), [
    "Usage: tributary session start [options]",
    "",
    "start a session, from a file, from options, or both",
    "",
    "Options:",
    "  --file <file>             YAML or JSON file with the parameters; options lie",
    "                            over it",
    "  --name <id>               the session's id",
    "  --initial-model <id>      model of the first round",
  ]);
});
