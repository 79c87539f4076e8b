import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";

/** A process that runs a tier as a command does, with a timer that keeps it alive for ever. */
async function running(start: string) {
  const module = new URL("./process.js", import.meta.url).href;
  const script = `
    const { runUntilSignal } = await import(${JSON.stringify(module)});
    const { TributaryError } = await import(${JSON.stringify(new URL("../wire/errors.js", import.meta.url).href)});
    setInterval(() => {}, 1_000);
    process.exitCode = await runUntilSignal(${start}, (line) => console.log(line));`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  const [line] = await once(child.stdout, "data");
  return { child, line: String(line), exited };
}

const failing = `async () => { throw new TributaryError("journal-corrupt", "it is damaged"); }`;
const hanging = `() => { console.log("starts"); return new Promise(() => {}); }`;

test("a start that failed ends with its code at one signal, whatever still runs", async () => {
  const { child, line, exited } = await running(failing);
  assert.match(line, /it is damaged \[journal-corrupt\]/);
  child.kill("SIGINT");
  assert.deepEqual(await exited, [73, null]);
});

test("a start that failed ends with its code by itself, whatever still runs", async () => {
  const { exited } = await running(failing);
  assert.deepEqual(await exited, [73, null]);
});

test("a signal ends a start that hangs", async () => {
  const { child, exited } = await running(hanging);
  child.kill("SIGTERM");
  assert.deepEqual(await exited, [130, null]);
});

test("a signal during a start that comes to its end closes what was started", async () => {
  const { child, exited } = await running(`async () => {
    const signalled = new Promise((resolve) => process.once("SIGTERM", resolve));
    console.log("starts");
    await signalled;
    return { close: async () => process.exit(5) };
  }`);
  child.kill("SIGTERM");
  assert.deepEqual(await exited, [5, null]);
});
