import assert from "node:assert/strict";
import { test } from "node:test";
import type { AttachResponse } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import type { Denial, IsVoid } from "@tributary/proto/identity/denylist.js";
import { createDenylistSpread } from "./denylist.js";
import type { CloudEvent } from "./events.js";
import { createGateways } from "./gateways.js";
import { limits } from "./limits.js";

const hello = { site: "plant", incarnation: "one", softwareVersion: "1" };

async function setup() {
  const clock = createManualClock();
  const gateways = createGateways(clock, []);
  for (const gateway of ["g1", "g2", "region"]) gateways.attach({ gateway, ...hello });
  const sent: [string, AttachResponse][] = [];
  const events: CloudEvent[] = [];
  const shut: IsVoid[] = [];
  const list = { sequence: 0, issuedAtMs: 0, entries: [] as Denial[], text: "list 0" };
  const spread = await createDenylistSpread({
    authority: { denylist: async () => ({ ...list }) },
    attachments: {
      links: {
        send: (gateway, message) => sent.push([gateway, message]),
        broadcast: (message) => sent.push(["all", message]),
      },
      shut: (isVoid) => shut.push(isVoid),
    },
    gateways,
    clock,
    events: (event) => events.push(event),
  });
  const revoke = async (name: string) => {
    const issuedAtMs = clock.nowMs();
    const sequence = list.sequence + 1;
    const entries = [...list.entries, { kind: "gateway" as const, name, before: 100 }];
    Object.assign(list, { sequence, issuedAtMs, entries, text: `list ${sequence}` });
    await spread.changed();
  };
  const says = (by: string, ...held: [string, number, ageMs?: number][]) =>
    spread.keeper.held(by, {
      denylists: held.map(([gateway, sequence, ageMs = 0]) => ({
        gateway,
        sequence: BigInt(sequence),
        ageMs: BigInt(ageMs),
        cut: 1,
      })),
    });
  const named = (name: CloudEvent["name"]) => events.filter((event) => event.name === name);
  return { clock, gateways, sent, events, shut, spread, revoke, says, named };
}

const listOf = (sequence: number): AttachResponse => ({
  message: {
    $case: "trust",
    value: { denylistSequence: BigInt(sequence), denylist: `list ${sequence}` },
  },
});

test("a new list goes to all at once, and who is on it is cut off", async () => {
  const { sent, shut, revoke } = await setup();
  await revoke("g2");
  assert.deepEqual(sent, [["all", listOf(1)]]);
  assert.equal(shut.length, 1);
  assert.ok(shut[0]?.("gateway", "g2", 99));
  assert.ok(!shut[0]?.("gateway", "g2", 100));
});

test("time from revoke to effect is told of each gateway, by its own account of how long it holds", async () => {
  const { clock, gateways, revoke, says, spread, named } = await setup();
  const of = async (gateway: string) =>
    (await spread.view()).gateways.find((one) => one.gateway === gateway);
  await revoke("g2");
  gateways.detach("g2");
  clock.advance(250);
  says("g1", ["g1", 1]);
  // It was cut off, and had the list by another way; it says so an hour later.
  clock.advance(3_600_000);
  says("region", ["region", 1, 3_600_000 - 750], ["leaf", 0]);
  assert.deepEqual(await of("g1"), {
    ...{ gateway: "g1", attached: true, shutOut: false, sequence: 1 },
    ...{ inEffect: true, afterMs: 250, cut: 1 },
  });
  assert.equal((await of("region"))?.afterMs, 1_000);
  assert.deepEqual(await of("leaf"), {
    ...{ gateway: "leaf", attached: true, shutOut: false, sequence: 0 },
    ...{ inEffect: false, afterMs: null, cut: null },
  });
  assert.deepEqual([(await of("g2"))?.sequence, (await of("g2"))?.shutOut], [null, true]);
  assert.deepEqual(
    named("denylist-in-effect").map((event) => "afterMs" in event && event.afterMs),
    [250, 1_000],
  );
  clock.advance(1_000);
  says("g1", ["g1", 1, 5_000]); // its clock's rate differs: the first word counts
  assert.equal((await of("g1"))?.afterMs, 250);
});

test("one that holds an older list gets the newest; one that is attached says nothing of others", async () => {
  const { sent, revoke, says, spread, named } = await setup();
  await revoke("x");
  await revoke("y");
  sent.length = 0;
  says("g1", ["g1", 1], ["g2", 2]);
  const view = await spread.view();
  assert.deepEqual(sent, [["g1", listOf(2)]]);
  assert.equal(view.gateways.find(({ gateway }) => gateway === "g2")?.sequence, null);
  says("g2", ["g2", 3]);
  assert.equal(named("denylist-ahead").length, 1);
});

test("before anybody was revoked there is nothing that could take effect", async () => {
  const { says, spread, events } = await setup();
  says("g1", ["g1", 0]);
  const [first] = (await spread.view()).gateways;
  assert.deepEqual([first?.inEffect, first?.afterMs], [true, null]);
  assert.deepEqual(events, []);
});

test("one that is attached and does not take the list is reported", async () => {
  const { clock, gateways, revoke, says, named } = await setup();
  await revoke("x");
  says("g1", ["g1", 1]);
  gateways.detach("region");
  clock.advance(limits.denylistLateMs);
  assert.deepEqual(
    named("denylist-late").map((event) => "gateway" in event && event.gateway),
    ["g2"],
  );
});
