import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { createDevice, type Device } from "./device.js";
import type { ReportedEvent } from "./events.js";
import { packagesOnly } from "./package-trainer.js";
import { type PackageRules, packageRulesSchema } from "./packages.js";
import { openTestGateway, type TestGateway } from "./testing/gateway.js";
import { runModule, type SamplePackage, samplePackage } from "./testing/package.js";
import { sampleModel, samplePlan } from "./testing/sample.js";
import { until } from "./testing/wait.js";

const base = sampleModel("s.0");
const waitMs = 60_000;

describe("a round with a compute package", () => {
  let sample: SamplePackage;
  let dataDir: string;
  let gateway: TestGateway;
  let events: ReportedEvent[];
  let device: Device | undefined;

  before(async () => {
    // Bytes that do not shrink, so that it takes several chunks.
    const data = randomBytes(6_000).toString("base64");
    sample = await samplePackage({ "run.mjs": runModule, data }, { environment: { STEP: "0.5" } });
  });
  beforeEach(async () => {
    dataDir = await mkdtemp(join(tmpdir(), "tributary-package-round-"));
    gateway = await openTestGateway("north");
    gateway.serve(base);
    gateway.serve({ ...base, file: sample.archive, manifest: sample.offered.manifest });
    events = [];
    device = undefined;
  });
  after(async () => {
    await rm(dataDir, { recursive: true, force: true });
  });

  const planOf = (round: string, changes: Partial<Plan> = {}) =>
    samplePlan(round, base, { package: sample.offered, ...changes });
  const open = async (rules: Partial<PackageRules> = { signers: [sample.signer] }) => {
    device = await createDevice({
      device: "press-7",
      site: "north",
      gateway: gateway.url,
      trainer: packagesOnly,
      packages: packageRulesSchema.parse(rules),
      dataDir,
      onEvent: (event) => events.push(event),
      parts: { systemAttributes: async () => ({}) },
    });
    await device.start();
    return device;
  };
  const close = async () => {
    await device?.close();
    await gateway.close();
    await rm(dataDir, { recursive: true, force: true });
  };
  const fetches = () =>
    gateway.received.filter(
      ({ kind, header }) => kind === "fetch" && "model" in header && header.model === "steps.1",
    ).length;
  const receipts = () => events.filter(({ name }) => name === "receipt").length;
  const declines = () =>
    gateway.received.flatMap((message) =>
      message.kind === "decline" ? [message.header.code as string] : [],
    );

  test("is fetched, verified and run in a child process; what it made is the update", async () => {
    try {
      gateway.offer(planOf("s.1"));
      const opened = await open();
      await until("the receipt came", () => receipts() === 1, waitMs);
      const bytes = gateway.receipted.get("s.1 press-7");
      assert.ok(bytes);
      assert.deepEqual(
        [...new Float32Array(bytes.slice().buffer)],
        new Array(base.values.length).fill(0.5),
      );
      const asked = fetches();
      assert.equal(asked, Math.ceil(sample.archive.length / 1024));
      gateway.offer(planOf("s.2", { task: "evaluate" }));
      await until("it evaluated", () => receipts() === 2, waitMs);
      assert.equal(fetches(), asked, "it is kept, and fetched once");
      const answer = await opened.predict([1]);
      assert.deepEqual(answer, { ok: true, output: { task: "predict", input: [1] } });
    } finally {
      await close();
    }
  });

  test("goes on where it was after the link broke, and after the device was started again", async () => {
    try {
      let parts = 0;
      gateway.intercept(({ kind, header }) => {
        if (kind !== "fetch" || !("model" in header) || header.model !== "steps.1") return false;
        parts++;
        if (parts === 3) gateway.cut();
        // What is asked for last stays unanswered, until the device is started again.
        return parts === 3 || parts > 6;
      });
      gateway.offer(planOf("s.1"));
      await open();
      await until("some of it came", () => parts > 6, waitMs);
      await device?.close();
      gateway.intercept(undefined);
      await open();
      await until("the receipt came", () => receipts() === 1, waitMs);
      const fetched = events.find((event) => event.name === "fetched" && event.model === "steps.1");
      assert.ok(fetched?.name === "fetched" && fetched.transferredBytes < fetched.bytes);
    } finally {
      await close();
    }
  });

  test("whose signer is not pinned is declined, and not a byte of it fetched", async () => {
    try {
      gateway.offer(planOf("s.1"));
      await open({});
      await until("it declined", () => declines().length > 0, waitMs);
      assert.deepEqual(declines(), ["package-refused"]);
      assert.equal(gateway.received.filter(({ kind }) => kind === "fetch").length, 0);
    } finally {
      await close();
    }
  });

  test("a tampered package: bytes that are not the signed ones never run", async () => {
    try {
      const changed = sample.archive.map((byte, at) => (at === 2_000 ? byte ^ 1 : byte));
      gateway.serve({ ...base, file: changed, manifest: sample.offered.manifest });
      gateway.offer(planOf("s.1"));
      await open();
      await until("it declined", () => declines().length > 0, waitMs);
      assert.deepEqual(declines(), ["digest-mismatch"]);
      assert.equal(receipts(), 0);
    } finally {
      await close();
    }
  });

  test("that fails declines its round and takes part in the next", async () => {
    try {
      const { package: _, ...plain } = planOf("s.1");
      gateway.offer(plain);
      await open();
      await until("it declined", () => declines().length > 0, waitMs);
      assert.deepEqual(declines(), ["train-failed"]);
      gateway.offer(planOf("s.2"));
      await until("the receipt came", () => receipts() === 1, waitMs);
    } finally {
      await close();
    }
  });
});
