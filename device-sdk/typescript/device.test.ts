import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { makeKey, publicJwk, publicKey } from "@tributary/proto/identity/keys.js";
import { verifyUpdate } from "@tributary/proto/identity/statement.js";
import { updatePreimage } from "@tributary/proto/wire/update.js";
import { createDevice, type Device, type DeviceOptions } from "./device.js";
import type { ReportedEvent } from "./events.js";
import { openTestGateway, type TestGateway } from "./testing/gateway.js";
import { sampleModel, samplePlan, sha256 } from "./testing/sample.js";
import { until } from "./testing/wait.js";
import type { Trainer, TrainResult } from "./trainer.js";

const site = "north";
const device = "press-7";
const base = sampleModel("s.0");
/** 4 MB of values, so that an update has many chunks and a model many more. */
const large = sampleModel("s.0", 500_000, 0.5, 64 * 1024);

/** Moves every weight by 0.25. */
const trainer: Trainer = {
  async train({ tensors }) {
    const weights = new Map<string, Float32Array>();
    for (const [name, { values }] of tensors)
      weights.set(
        name,
        values.map((value) => value + 0.25),
      );
    return { weights, samples: 12, metrics: { loss: 0.5 } };
  },
  async evaluate() {
    return { samples: 4, metrics: { loss: 0.25, accuracy: 1 } };
  },
  predict: ({ tensors }, input) => [tensors.get("b")?.values[0], input],
};

type Opened = { readonly gateway: TestGateway; readonly events: ReportedEvent[] };

/** A gateway and what a test opens beside it; all is closed at the end, in reverse. */
async function withGateway(
  run: (
    opened: Opened & { open(options?: Partial<DeviceOptions>): Promise<Device> },
  ) => Promise<void>,
): Promise<void> {
  const gateway = await openTestGateway(site);
  const events: ReportedEvent[] = [];
  const opened: Device[] = [];
  try {
    await run({
      gateway,
      events,
      async open(options = {}) {
        const made = await createDevice({
          device,
          site,
          gateway: gateway.url,
          trainer,
          onEvent: (event) => events.push(event),
          ...options,
          parts: { systemAttributes: async () => ({ arch: "test" }), ...options.parts },
        });
        opened.push(made);
        await made.start();
        return made;
      },
    });
  } finally {
    for (const made of opened.reverse()) await made.close();
    await gateway.close();
  }
}

const count = (gateway: TestGateway, kind: string): number =>
  gateway.received.filter((message) => message.kind === kind).length;
const saw = (events: readonly ReportedEvent[], name: string): boolean =>
  events.some((event) => event.name === name);

test("a device says hello, fetches, trains, sends and gets its receipt", () =>
  withGateway(async ({ gateway, events, open }) => {
    gateway.serve(base);
    gateway.offer(samplePlan("s.1", base));
    const opened = await open({ attributes: { line: "a" } });
    await until("the receipt came", () => saw(events, "receipt"));
    const hello = gateway.received.find((message) => message.kind === "hello");
    assert.ok(hello?.kind === "hello");
    assert.deepEqual(hello.header.attributes, { arch: "test", line: "a" });
    const bytes = gateway.receipted.get("s.1 press-7");
    assert.ok(bytes);
    const values = new Float32Array(bytes.slice().buffer);
    assert.deepEqual([...values], new Array(base.values.length).fill(0.25));
    assert.equal(opened.model()?.id, "s.0");
  }));

test("a device with a key signs each update that it begins, with the key that it has by then", () =>
  withGateway(async ({ gateway, events, open }) => {
    gateway.serve(base);
    const keys = [makeKey("EdDSA"), makeKey("EdDSA")];
    let key = keys[0];
    let begins = 0;
    // The first begin is lost with its connection, and the key renewed before the next.
    gateway.intercept(({ kind }) => {
      if (kind !== "begin" || ++begins !== 1) return false;
      key = keys[1];
      gateway.cut();
      return true;
    });
    gateway.offer(samplePlan("s.1", base));
    await open({ key: () => key });
    await until("the receipt came", () => saw(events, "receipt"));
    const sent = gateway.received.flatMap((message) =>
      message.kind === "begin" ? [message.header] : [],
    );
    assert.equal(sent.length, 2);
    for (const [i, { round, digest, signature }] of sent.entries()) {
      assert.ok(signature);
      const own = publicKey(publicJwk(keys[i] ?? makeKey("EdDSA")));
      assert.ok(verifyUpdate({ round, device, digest }, signature, own));
    }
  }));

test("an evaluation sends metrics and no bytes, and its model is not the last good one", () =>
  withGateway(async ({ gateway, events, open }) => {
    gateway.serve(base);
    gateway.offer(samplePlan("s.1", base, { task: "evaluate" }));
    const opened = await open();
    await until("the receipt came", () => saw(events, "receipt"));
    const begin = gateway.received.find((message) => message.kind === "begin");
    assert.ok(begin?.kind === "begin");
    assert.equal(begin.header.bytes, 0);
    assert.deepEqual(begin.header.metrics, { loss: 2 ** 18, accuracy: 2 ** 20 });
    assert.equal(count(gateway, "chunk"), 0);
    assert.equal(opened.model(), undefined);
  }));

test("an upload cut in the middle goes on where the gateway has it", () =>
  withGateway(async ({ gateway, events, open }) => {
    gateway.serve(large);
    let chunks = 0;
    gateway.intercept(({ kind }) => {
      if (kind !== "chunk" || ++chunks !== 4) return false;
      gateway.cut();
      return true;
    });
    gateway.offer(samplePlan("s.1", large));
    await open();
    await until("the receipt came", () => saw(events, "receipt"));
    const offsets = gateway.received.flatMap((message) =>
      message.kind === "chunk" ? [message.header.offset] : [],
    );
    const repeated = offsets.length - new Set(offsets).size;
    assert.ok(repeated >= 1 && repeated <= 8, `${repeated} chunks were sent twice`);
    assert.ok(saw(events, "link-down"));
    assert.equal(gateway.receipted.get("s.1 press-7")?.length, 4 * large.values.length);
  }));

test("a download cut in the middle goes on with the chunks it has", () =>
  withGateway(async ({ gateway, events, open }) => {
    gateway.serve(large);
    let fetches = 0;
    gateway.intercept(({ kind }) => {
      if (kind !== "fetch" || ++fetches !== 20) return false;
      gateway.cut();
      return true;
    });
    gateway.offer(samplePlan("s.1", large));
    await open();
    await until("the receipt came", () => saw(events, "receipt"));
    const offsets = gateway.received.flatMap((message) =>
      message.kind === "fetch" ? [message.header.offset] : [],
    );
    const repeated = offsets.length - new Set(offsets).size;
    assert.ok(repeated >= 1 && repeated <= 5, `${repeated} chunks were asked for twice`);
  }));

test("a device that stopped with a full slot sends it when it starts again, without training", () =>
  withGateway(async ({ gateway, events, open }) => {
    const disk = memoryDisk();
    let trainings = 0;
    const counting: Trainer = {
      ...trainer,
      train(...args) {
        trainings++;
        return trainer.train(...args);
      },
    };
    gateway.serve(base);
    gateway.intercept(({ kind }) => kind === "begin");
    gateway.offer(samplePlan("s.1", base));
    const first = await open({ trainer: counting, parts: { disk } });
    await until("the update was begun", () => saw(events, "begun"));
    await first.close();
    disk.crash();
    assert.equal(await disk.exists("slot"), true);
    gateway.intercept(undefined);
    const second = await open({ trainer: counting, parts: { disk } });
    await until("the receipt came", () => saw(events, "receipt"));
    assert.equal(trainings, 1);
    assert.ok(gateway.receipted.has("s.1 press-7"));
    await second.close();
    assert.equal(await disk.exists("slot"), false);
  }));

test("a lost receipt is asked for again after the link was cut; nothing is trained or kept twice", () =>
  withGateway(async ({ gateway, events, open }) => {
    gateway.serve(large);
    let cut = false;
    const lose = (): boolean => {
      if (cut || gateway.receipted.size === 0) return false;
      cut = true;
      gateway.cut();
      return false;
    };
    gateway.intercept(({ kind }) => {
      // The last chunk: the gateway has the update, and the receipt dies with the connection.
      if (kind === "chunk") queueMicrotask(lose);
      return false;
    });
    gateway.offer(samplePlan("s.1", large));
    await open();
    await until("the receipt came", () => saw(events, "receipt"));
    assert.equal(gateway.receipted.size, 1);
    assert.equal(count(gateway, "begin"), 2);
    assert.equal(events.filter(({ name }) => name === "trained").length, 1);
  }));

test("a trainer that throws, or returns NaN or nonsense, is declined, and the next round runs", () =>
  withGateway(async ({ gateway, open }) => {
    const bad: (() => unknown)[] = [
      () => {
        throw new Error("the sensor is gone");
      },
      () => ({
        weights: new Map([
          ["w", new Float32Array(6).fill(Number.NaN)],
          ["b", new Float32Array(2)],
        ]),
        samples: 1,
        metrics: {},
      }),
      () => ({ weights: new Map([["w", new Float32Array(6)]]), samples: 1, metrics: {} }),
      () => ({
        weights: new Map([
          ["w", new Float32Array(5)],
          ["b", new Float32Array(2)],
        ]),
        samples: 1,
        metrics: {},
      }),
      () => ({
        weights: new Map([
          ["w", new Float32Array(6)],
          ["b", new Float32Array(2)],
        ]),
        samples: 0,
        metrics: {},
      }),
      () => ({
        weights: new Map([
          ["w", new Float32Array(6)],
          ["b", new Float32Array(2)],
        ]),
        samples: 1,
        metrics: { loss: Number.NaN },
      }),
      () => undefined,
    ];
    let next = 0;
    const failing: Trainer = {
      ...trainer,
      async train(...args) {
        const result = bad[next++];
        return result === undefined ? trainer.train(...args) : (result() as TrainResult);
      },
    };
    gateway.serve(base);
    await open({ trainer: failing });
    await until("the device is there", () => count(gateway, "hello") > 0);
    for (let round = 1; round <= bad.length; round++) {
      gateway.offer(samplePlan(`s.${round}`, base));
      await until(`round ${round} is declined`, () => count(gateway, "decline") === round);
    }
    for (const message of gateway.received)
      if (message.kind === "decline") assert.equal(message.header.code, "train-failed");
    gateway.offer(samplePlan("s.99", base));
    await until("the next round has its receipt", () => gateway.receipted.has("s.99 press-7"));
  }));

test("a delta past the range is declined unless the plan lets it saturate", () =>
  withGateway(async ({ gateway, open }) => {
    const grid = { fractionBits: [16, 16], range: 0.125 };
    const encoding = "i16" as const;
    gateway.serve(base);
    gateway.offer(samplePlan("s.1", base, { grid, encoding, saturate: false }));
    await open();
    await until("the round is declined", () => count(gateway, "decline") === 1);
    gateway.offer(samplePlan("s.2", base, { grid, encoding, saturate: true }));
    await until("the receipt is there", () => gateway.receipted.has("s.2 press-7"));
    const begin = gateway.received.find((message) => message.kind === "begin");
    assert.ok(begin?.kind === "begin" && begin.header.saturated === base.values.length);
  }));

test("closed aborts a training; the next offer starts when the trainer is back", () =>
  withGateway(async ({ gateway, events, open }) => {
    let aborts = 0;
    const slow: Trainer = {
      ...trainer,
      train: (model, plan, signal) =>
        plan.round === "s.2"
          ? trainer.train(model, plan, signal)
          : new Promise((_, reject) => {
              signal.addEventListener("abort", () => {
                aborts++;
                reject(new Error("stopped"));
              });
            }),
    };
    gateway.serve(base);
    gateway.offer(samplePlan("s.1", base));
    await open({ trainer: slow });
    await until("the model is there", () => saw(events, "fetched"));
    gateway.send(device, "closed", { round: "s.1" });
    gateway.offer(samplePlan("s.2", base));
    await until("the next round has its receipt", () => gateway.receipted.has("s.2 press-7"));
    assert.equal(aborts, 1);
    assert.ok(saw(events, "train-aborted"));
    assert.equal(saw(events, "train-failed"), false);
    assert.equal(count(gateway, "decline"), 0);
  }));

test("a plan that would break exactness, or whose model is not the manifest's, is declined", () =>
  withGateway(async ({ gateway, open }) => {
    const other = sampleModel("s.0", 4);
    gateway.serve(base);
    gateway.offer(samplePlan("s.1", base, { nMax: 2 ** 40 }));
    await open();
    const code = (round: string): string | undefined => {
      const message = gateway.received.find(
        (found) => found.kind === "decline" && found.header.round === round,
      );
      return message?.kind === "decline" ? message.header.code : undefined;
    };
    await until("the first is declined", () => code("s.1") !== undefined);
    assert.equal(code("s.1"), "plan-headroom");
    gateway.offer(samplePlan("s.2", base, { encoding: "i16" }));
    await until("the second is declined", () => code("s.2") !== undefined);
    assert.equal(code("s.2"), "plan-invalid");
    gateway.offer({ ...samplePlan("s.3", base), layout: other.layout });
    await until("the third is declined", () => code("s.3") !== undefined);
    assert.equal(code("s.3"), "wrong-shape");
  }));

test("a published model is kept, answers offline, and after a restart", () =>
  withGateway(async ({ gateway, open }) => {
    const disk = memoryDisk();
    const published = sampleModel("s.1", 3, 0.75);
    gateway.serve(published);
    const first = await open({ parts: { disk } });
    await until("the device is there", () => count(gateway, "hello") > 0);
    assert.equal((await first.predict(1)).ok, false);
    gateway.publish(published, "s");
    await until("the model is kept", () => first.model()?.id === "s.1");
    await first.close();
    const options = { device, site, gateway: "mqtt://127.0.0.1:1", trainer, parts: { disk } };
    const offline = await createDevice(options);
    assert.deepEqual(await offline.predict(7), { ok: true, output: [0.75, 7] });
    await offline.close();
  }));

test("the audit has each sent update once, across a restart, and its receipt", () =>
  withGateway(async ({ gateway, events, open }) => {
    const disk = memoryDisk();
    const auditDisk = memoryDisk();
    gateway.serve(base);
    gateway.intercept(({ kind }) => kind === "begin");
    gateway.offer(samplePlan("s.1", base));
    const first = await open({ parts: { disk, auditDisk } });
    await until("the update was begun", () => saw(events, "begun"));
    await first.close();
    gateway.intercept(undefined);
    const second = await open({ parts: { disk, auditDisk } });
    await until("the receipt came", () => saw(events, "receipt"));
    await second.close();
    const text = new TextDecoder().decode(await auditDisk.readFile("press-7.jsonl"));
    const lines = text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    assert.deepEqual(
      lines.map((line) => line.type),
      ["sent", "receipt"],
    );
    const [sent, receipt] = lines;
    const values = Buffer.from(sent.values, "base64");
    assert.deepEqual(new Uint8Array(values), gateway.receipted.get("s.1 press-7"));
    assert.equal(receipt.digest, sent.digest);
    assert.deepEqual(sent.lengths, [6, 2]);
    assert.deepEqual(sent.fractionBits, [16, 16]);
    const begin = gateway.received.find((message) => message.kind === "begin");
    assert.ok(begin?.kind === "begin");
    const { digest, ...head } = begin.header;
    const whole = Buffer.concat([Buffer.from(updatePreimage(device, head)), values]);
    assert.equal(sha256(whole), digest);
  }));

test("a device whose gateway comes up later connects by itself", async () => {
  const probe = await openTestGateway(site);
  await probe.close();
  const events: ReportedEvent[] = [];
  const made = await createDevice({
    device,
    site,
    gateway: probe.url,
    trainer,
    onEvent: (event) => events.push(event),
    parts: { systemAttributes: async () => ({}) },
  });
  try {
    await made.start();
    await until("an attempt failed", () => saw(events, "link-down"));
    const gateway = await openTestGateway(site, probe.port);
    try {
      await until("the link is up", () => saw(events, "link-up"));
    } finally {
      await made.close();
      await gateway.close();
    }
  } finally {
    await made.close();
  }
});
