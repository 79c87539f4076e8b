import assert from "node:assert/strict";
import { test } from "node:test";
import { configSchema, devicesOf } from "./config.js";

const good = {
  site: "north",
  gateway: "mqtt://127.0.0.1:1883",
  device: "press-7",
  trainer: { module: "./trainer.js" },
};

function problem(config: object): string {
  const read = configSchema.safeParse(config);
  return read.success ? "none" : read.error.issues.map(({ message }) => message).join("; ");
}

test("a small config is enough", () => {
  assert.equal(problem(good), "none");
});

test("what cannot work is refused", () => {
  const { device: _, ...nameless } = good;
  assert.match(problem({ ...good, gatway: "x" }), /gatway/);
  assert.match(problem({ ...good, gateway: "http://x:1" }), /mqtt:/);
  assert.match(problem({ ...good, gateway: "mqtt://x" }), /host:port/);
  assert.match(problem({ ...good, site: "a/b" }), /letters/);
  assert.match(problem(nameless), /either one device or a list/);
  assert.match(problem({ ...good, devices: [{ device: "a" }] }), /either one device or a list/);
  const twice = { ...nameless, devices: [{ device: "a" }, { device: "a" }] };
  assert.match(problem(twice), /a stands twice/);
});

test("mqtt stays on this machine unless somebody says so, and mqtts needs a place for the identity", () => {
  for (const gateway of ["mqtt://127.0.0.1:1", "mqtt://[::1]:1", "mqtt://localhost:1"])
    assert.equal(problem({ ...good, gateway }), "none", gateway);
  for (const gateway of [
    "mqtt://10.0.0.2:1",
    "mqtt://localhost.evil.example:1",
    "mqtt://[::2]:1",
  ]) {
    assert.match(problem({ ...good, gateway }), /must be mqtts/, gateway);
    assert.equal(problem({ ...good, gateway, insecure: true }), "none");
  }
  const secure = { ...good, gateway: "mqtts://10.0.0.2:8883" };
  assert.match(problem(secure), /keeps its identity/);
  assert.equal(problem({ ...secure, dataDir: "d", claimFile: "claim" }), "none");
  assert.match(problem({ ...good, claimFile: "claim" }), /serves to enrol/);
});

test("devices of a list have the shared options and attributes under their own", () => {
  const { device: _, ...shared } = good;
  const config = configSchema.parse({
    ...shared,
    attributes: { line: "a", shift: 1 },
    trainer: { module: "./t.js", options: { rate: 1, data: "x" } },
    devices: [
      { device: "one", options: { data: "y" }, attributes: { shift: 2 } },
      { device: "two" },
    ],
  });
  assert.deepEqual(devicesOf(config), [
    { device: "one", options: { rate: 1, data: "y" }, attributes: { line: "a", shift: 2 } },
    { device: "two", options: { rate: 1, data: "x" }, attributes: { line: "a", shift: 1 } },
  ]);
});
