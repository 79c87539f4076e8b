import assert from "node:assert/strict";
import { access, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Cloud, createCloud } from "@tributary/cloud/cloud.js";
import { configSchema as cloudConfig } from "@tributary/cloud/config.js";
import type { CloudEvent } from "@tributary/cloud/events.js";
import { enrolDevice } from "@tributary/device-sdk/enrol.js";
import type { DeviceEvent, ReportedEvent } from "@tributary/device-sdk/events.js";
import { runDevice } from "@tributary/device-sdk/main.js";
import { configSchema as gatewayConfig } from "@tributary/gateway/config.js";
import type { GatewayEvent } from "@tributary/gateway/events.js";
import { createGateway, type Gateway } from "@tributary/gateway/gateway.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { type Api, createApi } from "tributary/cli/api.js";
import { credentialsFor } from "tributary/cli/credentials.js";
import { runHere } from "tributary/cli/testing/command.js";
import { ownerOf, urlOf } from "tributary/cli/testing/owner.js";
import { createEventLog, type EventLog } from "../floor/event-log.js";
import { assembled, finished, gatewaySettings, importModel, mergedBy } from "../floor/floor.js";
import { initialValues, layout, sessionParams } from "../floor/sample.js";
import { openWire, type Wire } from "../floor/wire.js";

const site = "plant";
const closers: (() => Promise<unknown>)[] = [];
let dir: string;
let cloud: Cloud & EventLog<CloudEvent>;
let wire: Wire;
let gateway: Gateway & EventLog<GatewayEvent>;
let env: Record<string, string>;
let url: string;
let api: Api;

const trainer = `
export function createTrainer({ step }) {
  return {
    async train(model) {
      const weights = new Map();
      for (const [name, { values }] of model.tensors) weights.set(name, values.map((v) => v + step));
      return { weights, samples: 3, metrics: { loss: 1 } };
    },
    async evaluate() {
      return { samples: 3, metrics: { loss: 1, accuracy: 0.9 } };
    },
  };
}
`;

async function claimFor(kind: "gateway" | "device", name: string, ...more: string[]) {
  const scope = ["--kind", kind, "--name", name, "--site", site, ...more];
  const made = await runHere(["claim", "create", ...scope, "--url", url], { env });
  assert.equal(made.code, 0, made.stderr);
  return made.stdout.trim();
}

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "tributary-enrolled-"));
  closers.push(() => rm(dir, { recursive: true, force: true }));
  const dataDir = join(dir, "cloud");
  const made = await runHere(["cloud", "init", "--data", dataDir, "--fleet", "press-works"]);
  assert.equal(made.code, 0, made.stderr);
  const cloudLog = createEventLog<CloudEvent>("cloud");
  const config = cloudConfig.parse({ dataDir, grpc: { port: 0 }, http: { port: 0 } });
  const started = await createCloud({ config, softwareVersion: "test", events: cloudLog.add });
  cloud = { ...started, ...cloudLog };
  closers.push(() => cloud.close());
  env = ownerOf(dataDir);
  url = await urlOf(cloud.httpPort);
  api = createApi({ url, credentials: () => credentialsFor(env, url) });
  wire = await openWire(cloud.grpcPort);
  closers.push(() => wire.close());

  const authority = `https://127.0.0.1:${cloud.httpPort}`;
  const settings = gatewaySettings(dir, "gw-1", site, wire.port, { authority });
  const identity = join(settings.dataDir, "identity");
  await mkdir(identity, { recursive: true, mode: 0o700 });
  await writeFile(join(identity, "claim"), await claimFor("gateway", "gw-1"), { mode: 0o600 });
  const log = createEventLog<GatewayEvent>("gw-1");
  const running = await createGateway({
    config: gatewayConfig.parse(settings),
    softwareVersion: "test",
    events: log.add,
  });
  gateway = { ...running, ...log };
  closers.push(() => gateway.close());
  await gateway.event("uplink-attached");
  await writeFile(join(dir, "trainer.mjs"), trainer);
});
after(async () => {
  for (const close of closers.reverse()) await close();
});

/** Devices of one process, by a config file, with a claim beside it where there is one. */
async function run(name: string, devices: readonly string[], claim: string | undefined) {
  const folder = join(dir, name);
  const claimFile = join(folder, "claim");
  await mkdir(folder, { recursive: true });
  if (claim !== undefined) await writeFile(claimFile, claim, { mode: 0o600 });
  const file = join(folder, "device.json");
  const config = {
    ...{ site, gateway: `mqtts://127.0.0.1:${gateway.mqttPort}`, dataDir: "data" },
    ...{ claimFile: "claim", log: "json", devices: devices.map((device) => ({ device })) },
    trainer: { module: "../trainer.mjs", options: { step: 0.25 } },
  };
  await writeFile(file, JSON.stringify(config));
  const log = createEventLog<ReportedEvent>(name);
  const running = await runDevice({
    file,
    env: {},
    write: (line) => log.add(JSON.parse(line)),
  });
  closers.push(() => running.close());
  return { ...running, ...log, claimFile };
}

const isThere = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

test("devices enrol through their gateway, forget the claim, and train a round; nobody else gets in by it", async () => {
  const claim = await claimFor("device", "press-*", "--uses", "2");
  const presses = await run("presses", ["press-1", "press-2"], claim);
  for (const device of ["press-1", "press-2"]) {
    await presses.event("enrolled", { device });
    await presses.event("link-up", { device });
  }
  while (await isThere(presses.claimFile)) await new Promise(setImmediate);

  await assembled(api, { "gw-1": 2 });
  await importModel(api, "start", layout, initialValues);
  await api.startSession({ ...sessionParams, name: "enrolled", rounds: 2 });
  await finished(api, "enrolled");
  assert.deepEqual(await mergedBy(api, "enrolled"), [
    [1, ["press-1", "press-2"]],
    [2, ["press-1", "press-2"]],
  ]);

  // A replayed claim: with another key it is refused for good.
  const replay = await run("replay", ["press-3"], claim);
  await assert.rejects(replay.failed ?? Promise.resolve(), { code: "claim-used" });
  await replay.event("enrolment-failed", { code: "claim-used" });
  assert.ok(await isThere(replay.claimFile));
  const outside = await run("outside", ["lathe-1"], await claimFor("device", "press-*"));
  await assert.rejects(outside.failed ?? Promise.resolve(), { code: "claim-scope" });

  // What is enrolled starts again without a claim; what is not says what it needs.
  await presses.close();
  const again = await run("presses", ["press-1", "press-2"], undefined);
  await again.event("link-up", { device: "press-2" });
  assert.equal(again.count("enrolled"), 0);
  await again.close();
  await assert.rejects(run("nobody", ["press-9"], undefined), { code: "config-identity" });
});

test("behind an uplink that is away a device waits to be enrolled, and is once it is back", async () => {
  wire.cut();
  await gateway.event("uplink-lost");
  const log = createEventLog<DeviceEvent>("mill-1");
  const aborting = new AbortController();
  closers.push(async () => aborting.abort());
  const waiting = enrolDevice({
    ...{
      dir: join(dir, "mill-1"),
      device: "mill-1",
      site,
      claim: await claimFor("device", "mill-1"),
    },
    ...{ gateway: `mqtts://127.0.0.1:${gateway.mqttPort}`, signal: aborting.signal },
    ...{ clock: systemClock(), random: systemRandom(), report: log.add },
  });
  waiting.catch(() => {});
  await log.event("enrolment-waits", { code: "uplink-away" });
  wire.restore();
  const identity = await waiting;
  assert.equal(identity.fleet, "press-works");
});
