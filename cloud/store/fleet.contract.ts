import assert from "node:assert/strict";
import { test } from "node:test";
import { deviceRow, gatewayRow } from "../testing/store-rows.js";
import { storeLimits } from "./limits.js";
import type { Store } from "./store.js";

/** What every store must do for the fleet, what it noted of itself, and events. */
export function fleetContract(store: () => Store): void {
  test("a gateway's notes are taken once each, by incarnation and class", async () => {
    const batch = { gateway: "t1", incarnation: "i1", class: "metrics", atMs: 5 } as const;
    const sample = (sequence: number) => ({ sequence, atMs: 100 + sequence, fields: { n: 1 } });
    await store().takeTelemetry({ ...batch, last: 2, entries: [sample(1), sample(2)] });
    await store().takeTelemetry({ ...batch, last: 2, entries: [sample(1), sample(2)] });
    await store().takeTelemetry({ ...batch, last: 4, entries: [sample(2), sample(3)] });
    await store().takeTelemetry({ ...batch, last: 4, entries: [sample(4)] });
    const next = { ...batch, incarnation: "i2", atMs: 6 };
    await store().takeTelemetry({ ...next, last: 1, entries: [sample(1)] });
    const times = async (after?: number, limit = 9) => {
      const { items, next } = await store().listSamples("t1", { after, limit });
      return { atMs: items.map(({ atMs }) => atMs), next };
    };
    assert.deepEqual((await times()).atMs, [101, 103, 102, 101]);
    const first = await times(undefined, 1);
    assert.deepEqual((await times(first.next)).atMs, [103, 102, 101]);
    assert.deepEqual((await store().listSamples("t2", { limit: 9 })).items, []);
    const event = { sequence: 1, atMs: 7, level: "warn", name: "x", fields: { gateway: "t1" } };
    const logs = { ...batch, class: "logs", last: 1, entries: [event] } as const;
    await store().takeTelemetry(logs as Parameters<Store["takeTelemetry"]>[0]);
    await store().takeTelemetry(logs as Parameters<Store["takeTelemetry"]>[0]);
    const events = (await store().listEvents({ limit: 9 })).items;
    assert.deepEqual(
      events.filter(({ name }) => name === "x").map(({ atMs, fields }) => [atMs, fields]),
      [[7, { gateway: "t1" }]],
    );
  });

  test("the fleet is replaced row by row, keeps when it was first seen, and detaches", async () => {
    await store().saveGateways([gatewayRow("g1"), { ...gatewayRow("g2"), attached: false }]);
    const later = { ...gatewayRow("g1"), firstSeenMs: 50, lastSeenMs: 60, incarnation: "i2" };
    await store().saveGateways([gatewayRow("g1"), later]);
    const [g1, g2] = (await store().listGateways({ limit: 9 })).items;
    assert.deepEqual(g1, { ...later, firstSeenMs: 1 });
    assert.equal(g2?.attached, false);
    await store().saveDevices([
      deviceRow("d1", "g1"),
      deviceRow("d2", "g2"),
      deviceRow("d3", "g2"),
    ]);
    assert.deepEqual((await store().listDevices({}, { limit: 9 })).items[0], deviceRow("d1", "g1"));
    assert.equal((await store().listDevices({ gateway: "g2" }, { limit: 9 })).items.length, 2);
    const slice = await store().listDevices({ site: "site-g2" }, { limit: 1 });
    assert.deepEqual([slice.items[0]?.id, slice.next], ["d2", "d2"]);
    await store().detachAll();
    assert.ok((await store().listGateways({ limit: 9 })).items.every(({ attached }) => !attached));
    assert.ok(
      (await store().listDevices({}, { limit: 9 })).items.every(({ connected }) => !connected),
    );
  });

  test("a device that is connected was seen when its gateway was", async () => {
    await store().saveGateways([{ ...gatewayRow("seen"), lastSeenMs: 900 }]);
    const here = { ...deviceRow("seen-a", "below"), via: "seen" };
    await store().saveDevices([here, { ...here, id: "seen-b", connected: false }]);
    const { items } = await store().listDevices({ gateway: "below" }, { limit: 9 });
    assert.deepEqual(
      items.map(({ lastSeenMs }) => lastSeenMs),
      [900, 2],
    );
  });

  test("text that SQL cannot hold is stored all the same", async () => {
    const attributes = JSON.parse('{"a\\u0000":"x\\u0000y","half\\ud800":"\\udfff","__proto__":1}');
    await store().saveDevices([{ ...deviceRow("odd", "g1"), sdk: "\0'; --", attributes }]);
    const [odd] = (await store().listDevices({}, { after: "od", limit: 1 })).items;
    assert.equal(odd?.sdk, "\ufffd'; --");
    assert.equal(odd?.attributes["a\ufffd"], "x\ufffdy");
    assert.equal(odd?.attributes["half\ufffd"], "\ufffd");
  });

  test("events keep their order, can be followed, and the oldest make room", async () => {
    const event = (at: number) =>
      ({ atMs: at, level: "info", name: "round-opened", fields: { round: "r.1", at } }) as const;
    await store().appendEvents([event(1), event(2), event(3)]);
    const newest = await store().listEvents({ limit: 2 });
    assert.deepEqual(
      newest.items.map(({ atMs }) => atMs),
      [2, 3],
    );
    const last = newest.items[1]?.sequence as number;
    await store().appendEvents([event(4)]);
    const { items } = await store().listEvents({ after: last, limit: 9 });
    assert.deepEqual(items, [{ ...event(4), sequence: last + 1 }]);
    for (let batch = 0; batch < 3; batch++)
      await store().appendEvents(
        Array.from({ length: storeLimits.eventsKept / 2 }, (_, i) => event(i)),
      );
    let count = 0;
    let after: number | undefined = 0;
    while (after !== undefined) {
      const slice = await store().listEvents({ after, limit: storeLimits.sliceItems });
      count += slice.items.length;
      after = slice.next;
    }
    assert.equal(count, storeLimits.eventsKept);
  });

  test("a slice is bounded whatever is asked for", async () => {
    const slice = await store().listEvents({ after: 0, limit: 1e9 });
    assert.equal(slice.items.length, storeLimits.sliceItems);
    assert.equal((await store().listEvents({ after: 0, limit: -5 })).items.length, 1);
  });
}
