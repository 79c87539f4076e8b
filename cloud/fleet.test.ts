import assert from "node:assert/strict";
import { test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { createDevices } from "./devices.js";
import { createGateways } from "./gateways.js";

const device = (id: string, attributes: object = {}) => ({
  device: id,
  sdk: "sdk/1",
  attributes: Buffer.from(encodeCbor(attributes)),
  site: "",
  gateway: "",
});
const report = (all: boolean, joined: string[], left: string[] = []) => ({
  all,
  joined: joined.map((id) => device(id)),
  left,
});

test("a device belongs to the gateway that reported it last; an old one's word no longer counts", () => {
  const devices = createDevices(createManualClock(), []);
  devices.change("g1", "one", report(true, ["a", "b"]));
  devices.change("g2", "two", report(false, ["b", "c"]));
  assert.deepEqual(devices.connectedAt("g1"), ["a"]);
  assert.deepEqual(devices.connectedAt("g2"), ["b", "c"]);
  devices.change("g1", "one", report(false, [], ["b"]));
  assert.deepEqual(devices.connectedAt("g2"), ["b", "c"]);
  assert.equal(devices.rows().find(({ id }) => id === "b")?.site, "two");
});

test("a full list replaces what the gateway said before; changes add to it", () => {
  const devices = createDevices(createManualClock(), []);
  devices.change("g1", "one", report(true, ["a", "b"]));
  devices.change("g1", "one", report(true, ["b", "c"]));
  assert.deepEqual(devices.connectedAt("g1"), ["b", "c"]);
  assert.equal(devices.rows().find(({ id }) => id === "a")?.connected, false);
  devices.change("g1", "one", report(false, ["d"], ["b"]));
  assert.deepEqual(devices.connectedAt("g1"), ["c", "d"]);
  assert.deepEqual([...devices.sitesAt("g1")], [["one", 2]]);
});

test("attributes are kept as announced, and only what changed is taken for the store", () => {
  const clock = createManualClock(500);
  const devices = createDevices(clock, []);
  const joined = [device("a", { line: 3, model: "x" })];
  devices.change("g1", "one", { all: false, joined, left: [] });
  const [row] = devices.takeChanged();
  assert.deepEqual(row, {
    id: "a",
    site: "one",
    gateway: "g1",
    sdk: "sdk/1",
    attributes: { line: 3, model: "x" },
    via: "g1",
    connected: true,
    firstSeenMs: 500,
    lastSeenMs: 500,
  });
  assert.deepEqual(devices.takeChanged(), []);
});

test("a report with one bad device changes nothing", () => {
  const devices = createDevices(createManualClock(), []);
  const joined = [device("a"), device("not an id")];
  const refused = devices.change("g1", "one", { all: true, joined, left: [] });
  assert.equal(refused.ok ? "ok" : refused.code, "malformed");
  assert.deepEqual(devices.rows(), []);
});

test("gateways and devices of an earlier run start away, and keep when they were first seen", () => {
  const clock = createManualClock(1);
  const hello = { gateway: "g1", site: "one", incarnation: "i", softwareVersion: "1" };
  const earlier = createGateways(clock, []);
  earlier.attach(hello);
  const devices = createDevices(clock, []);
  devices.change("g1", "one", report(true, ["a"]));
  clock.advance(9);
  const later = createGateways(clock, earlier.rows());
  assert.equal(later.attached("g1"), false);
  assert.equal(later.siteOf("g1"), "one", "an open round still knows its sites");
  later.attach({ ...hello, incarnation: "j" });
  const [row] = later.takeChanged();
  assert.deepEqual([row?.firstSeenMs, row?.lastSeenMs, row?.incarnation], [1, 10, "j"]);
  const known = createDevices(clock, devices.rows());
  assert.deepEqual(known.connectedAt("g1"), []);
  assert.equal(known.rows()[0]?.connected, false);
});

test("a heartbeat's figures are shown, past 2^53 as the largest whole number, known codes only", () => {
  const gateways = createGateways(createManualClock(), []);
  gateways.attach({ gateway: "g1", site: "one", incarnation: "i", softwareVersion: "1" });
  gateways.heartbeat("g1", {
    sequence: 1n,
    connectedDevices: 3,
    outboxPartials: 2,
    outboxBytes: 2n ** 60n,
    oldestAgeMs: 5n,
    freeDiskBytes: 6n,
    refusals: { busy: 7n, invented: 8n },
    duplicatesDropped: 9n,
    budgetBytes: 0n,
    classes: [],
    roundTripMs: 0,
    clockOffsetMs: 0n,
  });
  const [row] = gateways.rows();
  assert.equal(row?.outboxBytes, Number.MAX_SAFE_INTEGER);
  assert.deepEqual(row?.refusals, { busy: 7 });
  assert.equal(row?.duplicatesDropped, 9);
});
