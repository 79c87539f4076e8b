import assert from "node:assert/strict";
import { it } from "node:test";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { DeviceChange } from "./devices.js";
import { createRoll } from "./roll.js";

const described = (device: string, at = { site: "", gateway: "" }) => ({
  device,
  sdk: "test",
  attributes: Buffer.alloc(0),
  ...at,
});

function setup() {
  const changes: DeviceChange[] = [];
  const roll = createRoll((change) => changes.push(change));
  const report = (gateway: string, joined: string[], left: string[] = [], all = false) => {
    const message = { all, joined: joined.map((device) => described(device)), left };
    assert.ok(roll.devices.change(gateway, `site-${gateway}`, message).ok);
  };
  const attach = (gateway: string, below: string[] = []) =>
    roll.gateways.attach({
      protocolVersion: 1,
      gateway,
      site: `site-${gateway}`,
      incarnation: "one",
      softwareVersion: "test",
      rounds: [],
      below,
      nowMs: 0n,
    });
  return { roll, changes, report, attach };
}

it("binds a device to the gateway that reported it last, whatever the one before says later", () => {
  const { roll, changes, report } = setup();
  report("g1", ["a", "b"], [], true);
  report("g2", ["a"], [], true);
  report("g1", [], ["a"]);
  assert.equal(roll.placeOf("a"), "g2");
  report("g1", ["b"], [], true);
  assert.equal(roll.placeOf("a"), "g2");
  assert.ok(changes.every(({ type }) => type === "joined"));
  roll.gateways.detach("g1");
  assert.equal(roll.placeOf("b"), undefined);
  assert.deepEqual(changes.at(-1), { type: "left", device: "b" });
  assert.equal(roll.deviceCount, 1);
});

it("knows where a device really is, also when others are in between", () => {
  const { roll } = setup();
  const joined = [described("a"), described("b", { site: "far", gateway: "leaf" })];
  roll.devices.change("g1", "east", { all: true, joined, left: [] });
  const at = new Map([...roll.list()].map(([device, record]) => [device, record.at]));
  assert.deepEqual(at.get("a"), { site: "east", gateway: "g1" });
  assert.deepEqual(at.get("b"), { site: "far", gateway: "leaf" });
  assert.equal(roll.placeOf("b"), "g1");
});

it("names all that is below, up to the bound of a message", () => {
  const { roll, attach } = setup();
  assert.equal(attach("g1", ["leaf"]), true);
  assert.equal(attach("g2"), true);
  assert.deepEqual(roll.names(), ["g1", "leaf", "g2"]);
  const many = Array.from({ length: wire.gatewaysBelow - 3 }, (_, i) => `below-${i}`);
  assert.equal(attach("g3", many), false);
  assert.equal(attach("g3", many.slice(1)), true);
  assert.equal(attach("g3", many.slice(1)), true, "the same again takes the place of itself");
  assert.equal(roll.names().length, wire.gatewaysBelow);
});
