import assert from "node:assert/strict";
import { test } from "node:test";
import { createManualClock, systemClock } from "@tributary/proto/host/clock.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { downTopic } from "@tributary/proto/wire/topics.js";
import { limits } from "./limits.js";
import { type DeviceLink, type LinkOptions, type Message, openMqttLink } from "./link.js";
import { openTestGateway, type TestGateway } from "./testing/gateway.js";
import { until } from "./testing/wait.js";

const site = "north";
const device = "press-7";

type Seen = {
  readonly ups: string[];
  readonly downs: string[];
  readonly messages: Message[];
  readonly unreadable: string[];
};

async function withLink(
  run: (gateway: TestGateway, link: DeviceLink, seen: Seen) => Promise<void>,
  changes: Partial<LinkOptions> = {},
  prepare: (gateway: TestGateway) => void = () => {},
): Promise<void> {
  const gateway = await openTestGateway(site);
  prepare(gateway);
  const seen: Seen = { ups: [], downs: [], messages: [], unreadable: [] };
  const link = openMqttLink({
    url: gateway.url,
    site,
    device,
    clock: systemClock(),
    random: seededRandom(1),
    hello: () => ({ sdk: "test", attributes: {} }),
    onUp: (welcome) => seen.ups.push(welcome.gateway),
    onDown: (reason) => seen.downs.push(reason),
    onMessage: (message) => seen.messages.push(message),
    onUnreadable: (_, code) => seen.unreadable.push(code),
    ...changes,
  });
  try {
    await run(gateway, link, seen);
  } finally {
    await link.close();
    await gateway.close();
  }
}

const round = "s.1";
const decline = { round, code: "not-eligible", message: "" } as const;

test("nothing is sent, or queued, while there is no connection", () =>
  withLink(async (gateway, link, seen) => {
    await assert.rejects(link.publish("decline", decline), /not connected/);
    await until("the link is up", () => seen.ups.length === 1);
    await link.publish("decline", decline);
    gateway.cut();
    await until("the link is down", () => seen.downs.length === 1);
    await assert.rejects(link.publish("decline", decline), /not connected/);
    await until("the link is up again", () => seen.ups.length === 2);
    const declines = gateway.received.filter(({ kind }) => kind === "decline");
    assert.equal(declines.length, 1);
  }));

test("a publish under way when the connection breaks is rejected", () =>
  withLink(async (gateway, link, seen) => {
    await until("the link is up", () => seen.ups.length === 1);
    const chunk = new Uint8Array(wire.chunkBytes);
    const under = [0, 1, 2, 3].map((n) => link.publish("chunk", { round, offset: n }, chunk));
    gateway.cut();
    const results = await Promise.allSettled(under);
    assert.ok(results.some(({ status }) => status === "rejected"));
  }));

test("more than the bound unacknowledged is refused at once", () =>
  withLink(async (_, link, seen) => {
    await until("the link is up", () => seen.ups.length === 1);
    const all = Array.from({ length: limits.unacknowledged + 1 }, () =>
      link.publish("decline", decline),
    );
    await assert.rejects(all.at(-1) as Promise<void>, /unacknowledged/);
    await Promise.all(all.slice(0, -1));
    await link.publish("decline", decline);
  }));

test("what is no message of the protocol is reported by its code and does no harm", () =>
  withLink(async (gateway, _, seen) => {
    await until("the link is up", () => seen.ups.length === 1);
    const good = encodeEnvelope({ round });
    const alien = good.slice();
    alien[0] = 9;
    const to = (kind: "closed" | "receipt") => downTopic(site, device, kind);
    gateway.raw(to("closed"), alien);
    gateway.raw(to("closed"), good.subarray(0, 4));
    gateway.raw(to("receipt"), good);
    gateway.raw(`tributary/v1/${site}/down/${device}/nonsense`, good);
    gateway.raw(to("closed"), encodeEnvelope({ round }, new Uint8Array(wire.chunkBytes + 1)));
    gateway.raw(to("closed"), good);
    await until("the good one came", () => seen.messages.length === 1);
    assert.deepEqual(seen.unreadable, [
      "protocol-version",
      "malformed",
      "malformed",
      "unknown-kind",
      "too-large",
    ]);
    assert.equal(seen.downs.length, 0);
  }));

test("a gateway that never says welcome is left, and tried again; closing then leaves no socket", async () => {
  const startMs = performance.now();
  const clock = createManualClock();
  let hellos = 0;
  await withLink(
    async (_, __, seen) => {
      await until("hello came", () => hellos === 1);
      clock.advance(limits.connectMs);
      assert.deepEqual(seen.downs, ["no welcome in time"]);
      clock.advance(limits.backoffCapMs);
      await until("hello came again", () => hellos === 2);
      clock.advance(limits.connectMs);
      assert.equal(seen.downs.length, 2);
    },
    { clock },
    (gateway) =>
      gateway.intercept(({ kind }) => {
        if (kind === "hello") hellos++;
        return kind === "hello";
      }),
  );
  // The test's server closes when its last socket has; mqtt.js would hold one for its connect timeout.
  assert.ok(performance.now() - startMs < limits.connectMs - 1000);
});
