import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device, DevicesChanged } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { openEnrolledPlaces, placedDevices } from "./device-places.js";
import type { CloudEvent } from "./events.js";
import type { IdentityRow } from "./store/identity-rows.js";

const enrolled = [
  ["gateway", "gw-n", "north"],
  ["gateway", "gw-s", "south"],
  ["device", "press-1", "north"],
  ["device", "press-2", "south"],
] as const;

async function setup({ known = true } = {}) {
  const rows = enrolled.map(([kind, name, site]) => ({ kind, name, site }) as IdentityRow);
  const places = await openEnrolledPlaces({
    // One a page: the rest must be asked for.
    listIdentities: async ({ after }) => {
      const at = after === undefined ? 0 : rows.findIndex(({ name }) => name === after[1]) + 1;
      const item = rows[at];
      return item === undefined
        ? { items: [], next: undefined }
        : { items: [item], next: [item.kind, item.name] };
    },
  });
  const reports: DevicesChanged[] = [];
  const events: CloudEvent[] = [];
  const change = (_gateway: string, _site: string, report: DevicesChanged) => {
    reports.push(report);
    return { ok: true, dropped: 0 } as const;
  };
  const roll = placedDevices(
    { change },
    () => (known ? places : undefined),
    (event) => events.push(event),
  );
  const report = (...devices: Partial<Device>[]) => {
    const joined = devices.map((one) => ({
      ...{ device: "", sdk: "", attributes: Buffer.alloc(0), site: "", gateway: "" },
      ...one,
    }));
    roll.change("gw-n", "north", { all: true, joined, left: ["gone"] });
    return reports.at(-1)?.joined.map(({ device }) => device);
  };
  return { places, report, reports, events };
}

test("a gateway reports devices of its own site alone, and none that nobody enrolled", async () => {
  const { report, reports, events, places } = await setup();
  const names = ["press-1", "press-2", "press-3"].map((device) => ({ device }));
  assert.deepEqual(report(...names), ["press-1"]);
  assert.deepEqual(reports.at(-1)?.left, ["gone"], "the rest of the report counts");
  assert.deepEqual(events, [
    {
      level: "warn",
      name: "devices-misplaced",
      gateway: "gw-n",
      misplaced: 2,
      device: "press-2",
    },
  ]);
  const who = { kind: "device", who: "press-3", site: "north", serial: "aa" };
  places.note({ level: "info", name: "enrolled", ...who });
  assert.deepEqual(report(...names), ["press-1", "press-3"]);
});

test("a gateway above others reports theirs, each where it is enrolled", async () => {
  const { report } = await setup();
  const at = (device: string, site: string, gateway: string) => ({ device, site, gateway });
  assert.deepEqual(report(at("press-2", "south", "gw-s")), ["press-2"]);
  assert.deepEqual(report(at("press-2", "north", "gw-n")), []);
  assert.deepEqual(report(at("press-2", "south", "gw-n")), [], "no gateway is at two sites");
  assert.deepEqual(report(at("press-1", "north", "gw-x")), [], "nobody enrolled that gateway");
});

test("in the clear every report counts as it comes", async () => {
  const { report, events } = await setup({ known: false });
  assert.deepEqual(report({ device: "press-2" }, { device: "press-3" }), ["press-2", "press-3"]);
  assert.deepEqual(events, []);
});
