import assert from "node:assert/strict";
import { test } from "node:test";
import { type FloorCloud, openFloor } from "../floor/floor.js";
import { until } from "../floor/until.js";

type CloudRow = { readonly name: string; readonly fields: Readonly<Record<string, unknown>> };

/** How often the cloud has a gateway's own note that it has started. */
async function startsOf({ httpPort }: FloorCloud, gateway: string): Promise<number> {
  let starts = 0;
  for (let after = 0; ; ) {
    const url = `http://127.0.0.1:${httpPort}/api/v1/events?limit=100&after=${after}`;
    const page = (await (await fetch(url)).json()) as { items: CloudRow[]; after: number };
    if (page.items.length === 0) return starts;
    for (const { name, fields } of page.items) {
      if (name === "gateway-started" && fields.gateway === gateway) starts++;
    }
    after = page.after;
  }
}

const above = { downstream: { listen: { port: 0 } } };

test("what a gateway three tiers below notes is in the cloud once, under its own name", async () => {
  const floor = await openFloor();
  try {
    const cloud = await floor.cloud();
    const top = await floor.wire(cloud.grpcPort);
    const region = await floor.gateway("region", { upstreamPort: top.port, settings: above });
    const middle = await floor.wire(region.downstreamPort ?? 0);
    const hub = await floor.gateway("hub", { upstreamPort: middle.port, settings: above });
    await floor.gateway("leaf", { upstreamPort: hub.downstreamPort ?? 0 });
    await until("the cloud has what all three noted", async () => {
      for (const name of ["region", "hub", "leaf"]) {
        if ((await startsOf(cloud, name)) === 0) return false;
      }
      return true;
    });

    // Taken by the region while it is cut off, and receipted: the leaf lets it go, and is gone.
    top.cut();
    await region.event("uplink-lost");
    const late = await floor.gateway("late", { upstreamPort: region.downstreamPort ?? 0 });
    await until("the region has it", () => {
      const logs = late.status().waiting.classes.find(({ name }) => name === "logs");
      return late.count("uplink-attached") > 0 && logs?.bytes === 0;
    });
    await late.close();
    await region.close();
    top.restore();
    const again = await floor.gateway("region", { upstreamPort: top.port, settings: above });
    middle.target = again.downstreamPort ?? 0;
    await until("the cloud has it all the same", async () => (await startsOf(cloud, "late")) > 0);
    for (const name of ["leaf", "hub", "late"]) assert.equal(await startsOf(cloud, name), 1, name);
  } finally {
    await floor.close();
  }
});
