import assert from "node:assert/strict";
import { test } from "node:test";
import { paramsOf } from "./testing/cloud.js";
import { memoryStore } from "./testing/memory-store.js";
import { gatewayWith, sharedCloud } from "./testing/shared-cloud.js";

const gate = () => {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
};
/** The end of a round comes to the one, and waits for the other. */
const [atEnd, goOn] = [gate(), gate()];
const memory = memoryStore();
const cloud = await sharedCloud({
  store: {
    ...memory,
    async endRound(end) {
      atEnd.open();
      await goOn.opened;
      return memory.endRound(end);
    },
  },
});

test("devices that come while a round's end is being written are there for the next one", async () => {
  const one = await gatewayWith(cloud, "f1", "f1-a", "f1-b");
  const two = await gatewayWith(cloud, "f2", "f2-a", "f2-b");
  const few = { sitesQuorum: 1, absentGraceMs: 1, devicesMin: 4 };
  const started = await cloud.sessions.start(paramsOf({ name: "f", ...few }));
  assert.ok(started.ok);
  const first = await one.round();
  two.close();
  await cloud.event((e) => e.name === "gateway-detached" && e.gateway === "f2");
  await one.contribute(first, 1);
  await atEnd.opened;
  const back = await gatewayWith(cloud, "f2", "f2-c", "f2-d");
  goOn.open();
  await cloud.event((e) => e.name === "round-opened" && e.round === "f.2");
  one.close();
  back.close();
});
