import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const scratch = mkdtempSync(join(tmpdir(), "tributary-launch-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const launch = fileURLToPath(new URL("../../flash/files/launch", import.meta.url));

/** A home with two slots, each with a program in the place of Node that says what it was asked, and ends. */
function homeWith(name: string, running: "a" | "b", ends: { a: number; b: number }) {
  const home = join(scratch, name);
  for (const slot of ["a", "b"] as const) {
    const node = join(home, "slots", slot, "runtime/bin/node");
    mkdirSync(join(node, ".."), { recursive: true });
    writeFileSync(node, `#!/bin/sh\necho "${slot} $TRIBUTARY_HOME $*"\nexit ${ends[slot]}\n`);
    chmodSync(node, 0o755);
  }
  symlinkSync(`slots/${running}`, join(home, "current"));
  const start = () => {
    const env = { ...process.env, TRIBUTARY_HOME: home, TRIBUTARY_CONFIG: "/etc/x.yaml" };
    const { status, stdout, stderr } = spawnSync("sh", [launch], { env, encoding: "utf8" });
    return { status, stdout, stderr, slot: stdout.slice(0, 1) };
  };
  const trial = join(home, "trial");
  const begin = (text: string) => writeFileSync(trial, text);
  const current = () => readlinkSync(join(home, "current"));
  return { home, start, begin, current, trial };
}

test("the slot that `current` leads to is run, with the config", () => {
  const { home, start } = homeWith("plain", "a", { a: 3, b: 0 });
  const { status, stdout } = start();
  assert.equal(status, 3);
  const args = "current/app/bin/tributary.mjs gateway start --config /etc/x.yaml";
  assert.equal(stdout, `a ${home} ${args}\n`);
});

test("after three failed starts the slot before runs again, and stays", () => {
  const { home, start, begin, current, trial } = homeWith("broken", "b", { a: 0, b: 1 });
  begin("0 a\n");
  for (const starts of [1, 2, 3]) {
    assert.equal(start().slot, "b");
    assert.equal(readFileSync(trial, "utf8"), `${starts} a\n`);
  }
  const back = start();
  assert.equal(back.slot, "a");
  assert.match(back.stderr, /slot b did not come up in 3 starts; going back to slot a/);
  assert.equal(current(), "slots/a");
  assert.ok(!existsSync(trial));
  assert.ok(existsSync(join(home, "went-back")));
  assert.equal(start().slot, "a");
});

test("a slot whose program cannot be run at all goes back too", () => {
  const { home, start, begin, current } = homeWith("other-machine", "b", { a: 0, b: 0 });
  writeFileSync(join(home, "slots/b/runtime/bin/node"), "\x7fELF for some other machine");
  begin("0 a\n");
  for (let starts = 0; starts < 3; starts++) assert.notEqual(start().status, 0);
  assert.equal(start().slot, "a");
  assert.equal(current(), "slots/a");
});

test("a trial whose switch never happened, or that is half written, is no trial", () => {
  const unswitched = homeWith("unswitched", "a", { a: 0, b: 0 });
  unswitched.begin("0 a\n");
  for (const text of ["", "0", "0 ", "0 ../../etc\n", "x a\n", "12 a\n"]) {
    const { start, begin, current, trial } = homeWith(
      `half-${text.length}-${Math.abs(text.charCodeAt(0))}`,
      "b",
      { a: 0, b: 0 },
    );
    begin(text);
    assert.equal(start().slot, "b", JSON.stringify(text));
    assert.ok(!existsSync(trial));
    assert.equal(current(), "slots/b");
  }
  for (let starts = 0; starts < 5; starts++) assert.equal(unswitched.start().slot, "a");
  assert.ok(!existsSync(unswitched.trial));
});
