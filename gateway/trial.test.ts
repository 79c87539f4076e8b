import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { systemClock } from "@tributary/proto/host/clock.js";
import type { GatewayEvent } from "./events.js";
import type { Gateway } from "./gateway.js";
import { checkHealth, type HealthFault } from "./health.js";
import { sampleSigner, writeSampleBundle } from "./testing/bundle.js";
import { createStage } from "./testing/stage.js";
import { until } from "./testing/wait.js";
import { beginTrial, trialLimits } from "./trial.js";
import { installBundle } from "./update.js";
import { openSlots } from "./update-slots.js";

const stage = createStage();
const dirs: string[] = [];
afterEach(async () => {
  await stage.close();
  for (const dir of dirs.splice(0)) await rm(dir, { recursive: true, force: true });
});

/** A home in which 1.1.0 is on trial after 1.0.0. */
async function onTrial() {
  const dir = await mkdtemp(join(tmpdir(), "tributary-trial-"));
  dirs.push(dir);
  const home = join(dir, "home");
  await mkdir(home);
  const signer = sampleSigner();
  const slots = openSlots(home);
  for (const version of ["1.0.0", "1.1.0"]) {
    const file = await writeSampleBundle(join(dir, `${version}.tar.gz`), version, signer);
    const options = { slots, trust: signer.trust, gateway: undefined, arch: "x64" as const };
    assert.ok((await installBundle(file, options)).ok);
  }
  const events: GatewayEvent[] = [];
  /** A clock whose timers are due at once, and which moves by what they wait. */
  let nowMs = 0;
  const clock = {
    ...systemClock(),
    monotonicMs: () => nowMs,
    setTimer(ms: number, run: () => void) {
      nowMs += ms;
      const handle = setImmediate(run);
      return { cancel: () => clearImmediate(handle) };
    },
  };
  let kept = 0;
  const watched = {
    ...slots,
    keep() {
      kept++;
      return slots.keep();
    },
  };
  const begin = (health: () => Promise<readonly HealthFault[]>) =>
    beginTrial({
      slots: watched,
      health,
      softwareVersion: "1.1.0",
      clock,
      events: (e) => events.push(e),
    });
  const names = () => events.map(({ name }) => name);
  return { home, slots, begin, names, now: () => nowMs, kept: () => kept };
}

const fault: HealthFault = { part: "uplink", message: "the uplink was not tried yet" };

describe("software on trial", () => {
  it("is kept once all is well", async () => {
    const { slots, begin, names } = await onTrial();
    let asked = 0;
    await begin(async () => (++asked < 3 ? [fault] : []));
    await until("it is kept", () => names().includes("update-kept"));
    assert.equal(await slots.trial(), undefined);
    assert.deepEqual(names(), ["update-on-trial", "update-kept"]);
    assert.equal((await slots.current())?.installed.version, "1.1.0");
    assert.equal(asked, 3);
  });

  it("ends the process when something is not well in time, and stays on trial for the launcher", async () => {
    const { slots, begin, names, now } = await onTrial();
    const { failed } = await begin(async () => [fault]);
    await assert.rejects(failed, { code: "update-unhealthy" });
    assert.ok(now() >= trialLimits.provingMs);
    assert.deepEqual(names(), ["update-on-trial", "update-unhealthy"]);
    assert.deepEqual(await slots.trial(), { starts: 0, previous: "a" });
  });

  it("decides nothing once the gateway closes", async () => {
    const { slots, begin, names, kept } = await onTrial();
    let answer: (faults: readonly HealthFault[]) => void = () => {};
    const trial = await begin(() => new Promise((resolve) => (answer = resolve)));
    trial.close();
    answer([]);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(names(), ["update-on-trial"]);
    assert.equal(kept(), 0);
    assert.notEqual(await slots.trial(), undefined);
  });

  it("that was given up is told of at the next start, once", async () => {
    const { slots, begin, names } = await onTrial();
    await slots.goBack();
    await begin(async () => []);
    await begin(async () => []);
    assert.deepEqual(names(), ["update-went-back"]);
    assert.equal((await slots.current())?.installed.version, "1.0.0");
  });
});

/** Waits until a gateway is well. */
async function well(gateway: Pick<Gateway, "health">): Promise<void> {
  let faults = await gateway.health();
  for (let asked = 1; faults.length > 0 && asked < 2_000; asked++) faults = await gateway.health();
  assert.deepEqual(faults, []);
}

describe("a gateway's health", () => {
  it("is good once the uplink was tried: attached, or offline", async () => {
    const reducer = await stage.reducer();
    const attached = await stage.gateway(await stage.dataDir(), reducer.address);
    await well(attached);
    await reducer.close();
    const offline = await stage.gateway(await stage.dataDir(), reducer.address);
    await well(offline);
    assert.equal(offline.status().devices, 0); // no device came of asking
  });

  it("names what is not well", async () => {
    const silent = createServer(() => {});
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
    const address = silent.address();
    assert.ok(typeof address === "object" && address !== null);
    silent.close();
    const faults = await checkHealth({
      broker: { host: "127.0.0.1", port: address.port },
      writeStore: async () => {
        throw new Error("no space left");
      },
      uplinkTried: () => false,
    });
    assert.deepEqual(
      faults.map(({ part }) => part),
      ["broker", "store", "uplink"],
    );
    assert.match(faults[1]?.message ?? "", /no space left/);
  });
});
