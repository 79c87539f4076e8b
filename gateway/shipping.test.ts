import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { PartialState } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import type { GatewayEvent } from "./events.js";
import { createShipping } from "./shipping.js";
import type { OutboxRecord } from "./store.js";
import { until } from "./testing/wait.js";
import type { Upstream } from "./upstream.js";

const record = (sequence: number): OutboxRecord => ({
  sequence,
  rounds: [`s.${sequence}`],
  base: "s.0",
  shape: "e".repeat(64),
  site: null,
  perSite: false,
  weight: 10,
  contributors: 1,
  totalMax: 100,
  opened: true,
  digest: String(sequence).repeat(64).slice(0, 64),
  bytes: 100,
  sealedAtMs: 0,
});
const held = (bytes: number): PartialState => ({
  receivedBytes: BigInt(bytes),
  receipt: undefined,
  refusal: undefined,
});
const receipt = ({ digest }: OutboxRecord): PartialState => ({
  ...held(100),
  receipt: { digest, outcome: "merged", rule: "" },
});

function bench(answers: (PartialState | Error)[]) {
  const entries = [record(1), record(2)];
  const calls: string[] = [];
  const events: GatewayEvent[] = [];
  const clock = createManualClock();
  const link = { attached: true };
  const next = async (): Promise<PartialState> => {
    const answer = answers.shift() ?? new Error("nothing more was expected");
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const upstream: Pick<Upstream, "openPartial" | "sendPartial"> = {
    openPartial(request) {
      calls.push(`open ${request.id?.sequence}`);
      return next();
    },
    sendPartial(id, offset) {
      calls.push(`send ${id.sequence} from ${offset}`);
      return next();
    },
  };
  const shipping = createShipping({
    gateway: "gw-1",
    incarnation: "inc",
    outbox: {
      next: async () => entries[0],
      async *read() {},
      async remove(entry) {
        entries.splice(entries.indexOf(entry), 1);
      },
      async expire(entry) {
        entries.splice(entries.indexOf(entry), 1);
      },
    },
    upstream: upstream as Upstream,
    attached: () => link.attached,
    events: (event) => events.push(event),
    clock,
    random: seededRandom(1),
    backoff: { baseMs: 10, capMs: 100 },
  });
  return { entries, calls, events, clock, link, shipping };
}

const delayed = (events: GatewayEvent[]) => events.filter((e) => e.name === "partial-delayed");

describe("shipping", () => {
  it("goes in order, from where the upstream stands, and deletes on receipt only", async () => {
    const { entries, calls, shipping } = bench([
      held(40),
      receipt(record(1)),
      receipt(record(2)), // was durable upstream already: nothing is sent
    ]);
    shipping.kick();
    await until("both are gone", () => entries.length === 0);
    assert.deepEqual(calls, ["open 1", "send 1 from 40", "open 2"]);
  });

  it("keeps the entry through a failure and goes on after a wait", async () => {
    const { entries, calls, events, clock, shipping } = bench([
      held(0),
      new Error("cut"),
      held(60),
      receipt(record(1)),
      receipt(record(2)),
    ]);
    shipping.kick();
    await until("it is delayed", () => delayed(events).length === 1);
    assert.equal(entries.length, 2);
    clock.advance(1_000);
    await until("both are gone", () => entries.length === 0);
    assert.deepEqual(calls, ["open 1", "send 1 from 0", "open 1", "send 1 from 60", "open 2"]);
  });

  it("does not take a receipt for other bytes", async () => {
    const { entries, events, shipping } = bench([receipt(record(2))]);
    shipping.kick();
    await until("it is delayed", () => delayed(events).length === 1);
    assert.equal(entries.length, 2);
  });

  it("records a refusal for good and goes on with the next", async () => {
    const refusal = { code: "overlap", message: "dev-a" };
    const { entries, events, shipping } = bench([{ ...held(0), refusal }, receipt(record(2))]);
    shipping.kick();
    await until("both are gone", () => entries.length === 0);
    assert.ok(events.some((e) => e.name === "partial-refused" && e.code === "overlap"));
  });

  it("does nothing without a link", async () => {
    const { calls, link, shipping } = bench([]);
    link.attached = false;
    shipping.kick();
    await shipping.close();
    assert.deepEqual(calls, []);
  });
});
