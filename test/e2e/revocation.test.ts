import assert from "node:assert/strict";
import type { KeyObject } from "node:crypto";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Cloud, createCloud } from "@tributary/cloud/cloud.js";
import { configSchema as cloudConfig } from "@tributary/cloud/config.js";
import type { SpreadView } from "@tributary/cloud/denylist.js";
import type { CloudEvent } from "@tributary/cloud/events.js";
import { type CarriedList, openCarriedList } from "@tributary/device-sdk/denylist.js";
import { configSchema as gatewayConfig } from "@tributary/gateway/config.js";
import type { GatewayEvent } from "@tributary/gateway/events.js";
import { createGateway, type Gateway } from "@tributary/gateway/gateway.js";
import { connectDevice, type TestDevice } from "@tributary/gateway/testing/device.js";
import { readClaim } from "@tributary/proto/identity/claim.js";
import type { Grant } from "@tributary/proto/identity/grant.js";
import { keyToPem, makeKey } from "@tributary/proto/identity/keys.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { credentialsFor } from "tributary/cli/credentials.js";
import { createHttp } from "tributary/cli/http.js";
import { runHere } from "tributary/cli/testing/command.js";
import { ownerOf, urlOf } from "tributary/cli/testing/owner.js";
import { createEventLog, type EventLog } from "../floor/event-log.js";
import { gatewaySettings } from "../floor/floor.js";
import { until } from "../floor/until.js";
import { openWire, type Wire } from "../floor/wire.js";

const site = "plant";
const closers: (() => Promise<unknown>)[] = [];
let dir: string;
let cloud: Cloud & EventLog<CloudEvent>;
let url: string;
let env: Record<string, string>;
let fleet: string;

type Started = Gateway & EventLog<GatewayEvent> & { readonly config: string };

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "tributary-revocation-"));
  closers.push(() => rm(dir, { recursive: true, force: true }));
  const dataDir = join(dir, "cloud");
  fleet = "press-works";
  const made = await runHere(["cloud", "init", "--data", dataDir, "--fleet", fleet]);
  assert.equal(made.code, 0, made.stderr);
  const log = createEventLog<CloudEvent>("cloud");
  const config = cloudConfig.parse({ dataDir, grpc: { port: 0 }, http: { port: 0 } });
  const started = await createCloud({ config, softwareVersion: "test", events: log.add });
  cloud = { ...started, ...log };
  closers.push(() => cloud.close());
  env = ownerOf(dataDir);
  url = await urlOf(cloud.httpPort);
});
after(async () => {
  for (const close of closers.reverse()) await close();
});

async function command(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await runHere([...args, "--url", url], { env });
  assert.equal(code, 0, stderr);
  return stdout;
}

async function claimFor(kind: "gateway" | "device", name: string): Promise<string> {
  const scope = ["--kind", kind, "--name", name, "--site", site];
  return (await command("claim", "create", ...scope)).trim();
}

/** A gateway that enrols with a claim that lies in its data directory. */
async function gateway(name: string, upstreamPort: number): Promise<Started> {
  const authority = `https://127.0.0.1:${cloud.httpPort}`;
  const settings = gatewaySettings(dir, name, site, upstreamPort, { authority });
  const config = join(dir, `${name}.json`);
  await writeFile(config, JSON.stringify(settings));
  const identity = join(settings.dataDir, "identity");
  await mkdir(identity, { recursive: true, mode: 0o700 });
  await writeFile(join(identity, "claim"), await claimFor("gateway", name), { mode: 0o600 });
  const log = createEventLog<GatewayEvent>(name);
  const started = await createGateway({
    config: gatewayConfig.parse(settings),
    softwareVersion: "test",
    events: log.add,
  });
  closers.push(() => started.close());
  await log.event("uplink-attached");
  return { ...started, ...log, config };
}

type Enrolled = { readonly name: string; readonly key: KeyObject; readonly grant: Grant };

async function enrol(name: string): Promise<Enrolled> {
  const claim = await claimFor("device", name);
  const { id = "" } = readClaim(claim) ?? {};
  const key = makeKey("EdDSA");
  const nonce = "n".repeat(22);
  const payload = { kind: "device", name, site, claim: id, nonce, iat: 1 } as const;
  const request = await writeRequest(payload, key);
  const { TRIBUTARY_ANCHORS = "" } = env;
  const { call } = createHttp({
    url,
    credentials: () => credentialsFor({ TRIBUTARY_ANCHORS }, url),
  });
  const json = { claim, request };
  const grant = (await call({ method: "POST", path: "/enrolments", json })) as Grant;
  return { name, key, grant };
}

/** Connects with a certificate, or with a token. */
async function connect(
  { name, key, grant }: Enrolled,
  { mqttPort }: Gateway,
  by: "certificate" | "token" = "certificate",
): Promise<TestDevice> {
  const shown =
    by === "token"
      ? { username: "token", password: grant.token ?? "" }
      : { key: keyToPem(key), cert: [grant.certificate, ...grant.chain].join("") };
  const device = await connectDevice(mqttPort, name, {
    ...{ site, protocol: "mqtts", rejectUnauthorized: false },
    ...shown,
  });
  closers.push(() => device.close().catch(() => {}));
  return device;
}

/** What an SDK's device carries, over a bare connection. */
function carrying(of: () => TestDevice, { grant }: Enrolled): Promise<CarriedList> {
  return openCarriedList({
    disk: undefined,
    trust: { fleet, jwks: grant.jwks },
    publish: (kind, header, payload) => of().say(kind, header, payload),
    report: () => {},
  });
}

async function introduce(device: TestDevice, carried: CarriedList): Promise<void> {
  const before = device.got("welcome").length;
  await device.hello();
  await device.say("hello", { sdk: "test", attributes: {}, denylist: carried.sequence });
  carried.welcomed((await device.next("welcome", before + 2)).denylist);
}

function hear(device: TestDevice, carried: CarriedList): void {
  for (const { kind, header, payload } of device.messages)
    if (kind === "denylist")
      carried.received(header as Parameters<CarriedList["received"]>[0], payload);
}

async function spread(): Promise<SpreadView["gateways"]> {
  return JSON.parse(await command("denylist", "--json")).spread;
}

test("a revoked device reconnecting during a partition is refused, however the denylist got there", async (t) => {
  const wire: Wire = await openWire(cloud.grpcPort);
  closers.push(() => wire.close());
  const here = await gateway("gw-here", cloud.grpcPort);
  const apart = await gateway("gw-apart", wire.port);
  const [thief, other, courier] = [
    await enrol("thief"),
    await enrol("other"),
    await enrol("courier"),
  ];
  const [stolen, second] = [await connect(thief, apart), await connect(other, apart, "token")];

  // The cloud tells the gateways that it reaches; the site that is cut off knows nothing yet.
  wire.cut();
  await apart.event("uplink-lost");
  const revoked = await command("revoke", "device", "thief", "--wait", "60s");
  assert.match(revoked, /^gw-apart .* away/m);
  assert.match(revoked, /^gw-here .* after \d+\.\d s/m);
  await assert.rejects(connect(thief, here), /Not authorized/);
  assert.ok(stolen.connected);

  // A device that comes by from the other gateway brings the list: the thief is cut off at once.
  let device = await connect(courier, here);
  const carried = await carrying(() => device, courier);
  await introduce(device, carried);
  await until("the courier has the list", () => {
    hear(device, carried);
    return carried.sequence > 0;
  });
  await device.close();
  device = await connect(courier, apart);
  await introduce(device, carried);
  await until("the thief is cut off", () => !stolen.connected);
  await assert.rejects(connect(thief, apart), /Not authorized/);
  await assert.rejects(connect(thief, apart, "token"), /Not authorized/);
  assert.ok(second.connected && device.connected, "nobody else is");

  // The next one comes on a USB stick.
  await command("revoke", "device", "other", "--wait", "60s");
  const file = join(dir, "usb-stick");
  await command("denylist", "--out", file);
  const take = (list: string) =>
    runHere(["gateway", "import", list, "--config", apart.config, "--wait", "60s"]);
  const [head, , signature] = (await readFile(file, "utf8")).split(".");
  const nobody = { fleet, sequence: 4_000_000_000, issuedAt: 0, entries: [] };
  const body = Buffer.from(JSON.stringify(nobody)).toString("base64url");
  await writeFile(`${file}-tampered`, `${head}.${body}.${signature}`);
  const tampered = await take(`${file}-tampered`);
  assert.deepEqual([tampered.code, /signature/.test(tampered.stderr)], [1, true], tampered.stderr);
  assert.ok(second.connected);
  const imported = await take(file);
  assert.match(imported.stdout, /^denylist \d+ is in effect\n$/, imported.stderr);
  await until("the other is cut off", () => !second.connected);
  await assert.rejects(connect(other, apart, "token"), /Not authorized/);

  // Once the link is back, the cloud shows when it took effect there.
  assert.equal((await spread()).find((one) => one.gateway === "gw-apart")?.afterMs, null);
  wire.restore();
  await until("the cloud hears", async () => (await spread()).every((one) => one.inEffect));
  for (const { gateway: name, afterMs, cut } of await spread())
    t.diagnostic(`${name}: in effect after ${afterMs} ms, ${cut} connections cut`);
  const late = (await spread()).find((one) => one.gateway === "gw-apart");
  assert.equal(late?.cut, 1);
  assert.ok((late?.afterMs ?? 0) > 0);
});

test("a revoked gateway is cut off, and comes in no more", async () => {
  const stray = await gateway("gw-stray", cloud.grpcPort);
  await command("revoke", "gateway", "gw-stray", "--wait", "0s");
  await stray.event("uplink-lost");
  await until("it is refused, again and again", () => {
    const lost = stray.events.filter((e) => e.name === "uplink-lost" && /revoked/.test(e.reason));
    return lost.length >= 2;
  });
  assert.equal((await spread()).find((one) => one.gateway === "gw-stray")?.shutOut, true);
  assert.match(await command("alarms"), /^gateway-detached +gw-stray /m);
});
