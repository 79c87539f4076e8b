import assert from "node:assert/strict";
import { test } from "node:test";
import { firstOf } from "tributary/cli/api.js";
import { judge } from "../crash/account.js";
import { assembled, finished, importModel, mergedBy, openFloor } from "../floor/floor.js";
import { initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";
import { until } from "../floor/until.js";

test("a device that moves to another site drops what it held for the first, and joins the rounds there", async () => {
  const floor = await openFloor();
  try {
    const cloud = await floor.cloud();
    const { api } = cloud;
    await importModel(api, "start", layout, initialValues);
    const upstreamPort = cloud.grpcPort;
    const a = await floor.gateway("gw-a", { site: "a", upstreamPort });
    const b = await floor.gateway("gw-b", { site: "b", upstreamPort });
    const wire = await floor.wire(a.mqttPort);
    const stayer = createStepTrainer({ device: "press-1", samples: 5 });
    const roamer = createStepTrainer({ device: "cart-1", samples: 8 });
    const place = { site: "a", mqttPort: wire.port, trainer: roamer };
    const atHome = await floor.device("cart-1", place);
    const press = await floor.device("press-1", {
      site: "a",
      mqttPort: a.mqttPort,
      trainer: stayer,
    });
    await assembled(api, { "gw-a": 2, "gw-b": 0 });
    roamer.hold();
    // Long enough for what the test does before the cart leaves; then the round waits for nothing.
    const deadlines = { deadlineMs: 30_000, uploadWindowMs: 5_000, absentGraceMs: 30_000 };
    await api.startSession({
      ...{ ...sessionParams, ...deadlines },
      ...{ name: "s", rounds: 3, devicesMin: 2 },
    });
    await until("the cart trains", () => roamer.asked.length === 1);
    await press.event("receipt", { round: "s.1" });

    // It leaves the site's network while it trains, and is switched off with the update in its slot.
    wire.cut();
    await atHome.event("link-down");
    roamer.release();
    await atHome.event("trained", { round: "s.1" });
    await atHome.close();

    // Its config names the other site now; its folder is the same.
    const away = await floor.device("cart-1", { site: "b", mqttPort: b.mqttPort, trainer: roamer });
    await away.event("started", { held: "s.1" });
    await away.event("refused", { round: "s.1", code: "wrong-gateway", retryable: false });
    await assembled(api, { "gw-a": 1, "gw-b": 1 });
    await finished(api, "s");

    const seen = await firstOf(api.devices({}));
    assert.deepEqual(
      seen.map(({ id, site, gateway }) => [id, site, gateway]),
      [
        ["cart-1", "b", "gw-b"],
        ["press-1", "a", "gw-a"],
      ],
    );
    const [first, ...later] = await mergedBy(api, "s");
    assert.deepEqual(first, [1, ["press-1"]]);
    assert.ok(later.length > 0);
    for (const [round, devices] of later)
      assert.deepEqual(devices, ["cart-1", "press-1"], `round ${round}`);
    const books = await firstOf(api.contributions("s"), Number.POSITIVE_INFINITY);
    const receipts = [atHome, away, press].flatMap(({ name, events }) =>
      events.flatMap((event) =>
        event.name === "receipt" ? [{ round: event.round, device: name }] : [],
      ),
    );
    const { lost, doubled } = judge("s", receipts, books);
    assert.deepEqual({ lost, doubled }, { lost: [], doubled: [] });
    assert.ok(!books.some(({ round, device }) => round === 1 && device === "cart-1"));
  } finally {
    await floor.close();
  }
});
