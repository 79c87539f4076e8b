import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { PartialState } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import type { GatewayEvent } from "./events.js";
import { createRate } from "./rate.js";
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

type Settings = { bytesPerSecond?: number; long?: boolean; damaged?: boolean };

function bench(answers: (PartialState | Error)[], settings: Settings = {}) {
  const entries = [record(1), record(2)];
  const calls: string[] = [];
  const sent: number[] = [];
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
    async sendPartial(id, offset, chunks) {
      calls.push(`send ${id.sequence} from ${offset}`);
      for await (const chunk of chunks) sent.push(chunk.length);
      return next();
    },
  };
  const shipping = createShipping({
    gateway: "gw-1",
    incarnation: "inc",
    rate: createRate(settings.bytesPerSecond, clock),
    outbox: {
      next: async () => entries[0],
      async *read(_, offset) {
        if (offset < 100) yield new Uint8Array(100 - offset);
        if (settings.long) for (let n = 0; n < 10; n++) yield new Uint8Array(5_000);
      },
      async check(entry) {
        calls.push(`check ${entry.sequence}`);
        if (!settings.damaged) return true;
        entries.splice(entries.indexOf(entry), 1);
        return false;
      },
      async remove(entry) {
        entries.splice(entries.indexOf(entry), 1);
      },
      async expire(entry) {
        entries.splice(entries.indexOf(entry), 1);
      },
    },
    upstream,
    attached: () => link.attached,
    events: (event) => events.push(event),
    clock,
    random: seededRandom(1),
    backoff: { baseMs: 10, capMs: 100 },
  });
  return { entries, calls, sent, events, clock, link, shipping };
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

  it("says how much of what it sends is upstream already", async () => {
    const { entries, events, clock, shipping } = bench([
      held(40),
      new Error("cut"),
      held(40),
      receipt(record(1)),
      receipt(record(2)),
    ]);
    assert.equal(shipping.sentBytes, 0);
    shipping.kick();
    await until("it is delayed", () => delayed(events).length === 1);
    // What was on its way may be lost.
    assert.equal(shipping.sentBytes, 40);
    clock.advance(100);
    await until("both are gone", () => entries.length === 0);
    await shipping.close();
    assert.equal(shipping.sentBytes, 0);
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

  it("sends no faster than its rate, in pieces of a second", async () => {
    const answers = [held(0), receipt(record(1)), receipt(record(2))];
    const { entries, sent, clock, shipping } = bench(answers, {
      bytesPerSecond: 2_000,
      long: true,
    });
    shipping.kick();
    const total = 100 + 10 * 5_000;
    let passedMs = 0;
    while (entries.length > 0) {
      // Whatever waits for time has said so: only then does time pass.
      await until("it waits or ends", () => clock.nextTimerMs() !== undefined || !entries.length);
      const nextMs = clock.nextTimerMs() ?? 0;
      clock.advance(nextMs);
      passedMs += nextMs;
      const bytes = sent.reduce((sum, piece) => sum + piece, 0);
      assert.ok(bytes <= 2_000 + (passedMs / 1_000) * 2_000, `${bytes} after ${passedMs} ms`);
    }
    assert.equal(
      sent.reduce((sum, piece) => sum + piece, 0),
      total,
    );
    assert.ok(sent.every((piece) => piece <= 2_000));
    assert.ok(passedMs < 1_100 * (total / 2_000), `${passedMs} ms`);
  });

  it("stops in the middle of a Partial when the link is given up, and goes on where it stopped", async () => {
    const { entries, calls, sent, events, clock, link, shipping } = bench(
      [held(0), held(60), receipt(record(1)), receipt(record(2))],
      { bytesPerSecond: 1_024, long: true },
    );
    shipping.kick();
    await until("it waits", () => clock.nextTimerMs() !== undefined);
    link.attached = false;
    clock.advance(1_000);
    await until("it is delayed", () => delayed(events).length === 1);
    assert.ok(sent.length < 3);
    clock.advance(100);
    link.attached = true;
    shipping.kick();
    while (entries.length > 0) {
      await until("it waits or ends", () => clock.nextTimerMs() !== undefined || !entries.length);
      clock.advance(clock.nextTimerMs() ?? 0);
    }
    assert.deepEqual(calls, ["open 1", "send 1 from 0", "open 1", "send 1 from 60", "open 2"]);
  });

  it("looks at the bytes of what fails again and again, and goes on without what is damaged", async () => {
    const broken = Array.from({ length: 4 }, () => new Error("other bytes"));
    const { entries, calls, clock, shipping } = bench([...broken, receipt(record(2))], {
      damaged: true,
    });
    shipping.kick();
    while (entries.length > 0) {
      await until("it waits or ends", () => clock.nextTimerMs() !== undefined || !entries.length);
      clock.advance(clock.nextTimerMs() ?? 0);
    }
    assert.deepEqual(calls, ["open 1", "open 1", "open 1", "open 1", "check 1", "open 2"]);
  });

  it("does nothing without a link", async () => {
    const { calls, link, shipping } = bench([]);
    link.attached = false;
    shipping.kick();
    await shipping.close();
    assert.deepEqual(calls, []);
  });
});
