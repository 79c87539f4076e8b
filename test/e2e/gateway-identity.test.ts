import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer as createHttp } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { createCloud } from "@tributary/cloud/cloud.js";
import { configSchema as cloudConfig } from "@tributary/cloud/config.js";
import type { CloudEvent } from "@tributary/cloud/events.js";
import { configSchema as gatewayConfig } from "@tributary/gateway/config.js";
import { enrolNow } from "@tributary/gateway/enrol.js";
import type { GatewayEvent } from "@tributary/gateway/events.js";
import { createGateway } from "@tributary/gateway/gateway.js";
import { type Clock, systemClock } from "@tributary/proto/host/clock.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { claimText, readClaim } from "@tributary/proto/identity/claim.js";
import { runHere } from "tributary/cli/testing/command.js";
import { ownerOf } from "tributary/cli/testing/owner.js";
import { createEventLog } from "../floor/event-log.js";
import { gatewaySettings } from "../floor/floor.js";
import { openWire } from "../floor/wire.js";

const site = "plant";
const DAY_MS = 86_400_000;
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const impatient = { ...systemRandom(), next: () => 0.01 };

function ahead(ms: number): Clock {
  const clock = systemClock();
  return { ...clock, nowMs: () => clock.nowMs() + ms };
}

/** A fleet with its authority, its cloud over TLS, and an owner at the command line. */
async function openFleet(fleet = "press-works") {
  const dir = await mkdtemp(join(tmpdir(), "tributary-fleet-"));
  closers.push(() => rm(dir, { recursive: true, force: true }));
  const dataDir = join(dir, "cloud");
  const made = await runHere(["cloud", "init", "--data", dataDir, "--fleet", fleet]);
  assert.equal(made.code, 0, made.stderr);
  return {
    dir,
    async cloud({ clock, ports = { grpc: 0, http: 0 } }: CloudPlace = {}) {
      const log = createEventLog<CloudEvent>("cloud");
      const { grpc, http } = ports;
      const listen = { grpc: { port: grpc }, http: { port: http } };
      const cloud = await createCloud({
        config: cloudConfig.parse({ dataDir, ...listen, authority: { certificateDays: 1 } }),
        softwareVersion: "test",
        events: log.add,
        ...(clock && { clock }),
      });
      closers.push(() => cloud.close());
      const url = `https://127.0.0.1:${cloud.httpPort}`;
      const command = async (...args: string[]) => {
        const env = ownerOf(dataDir);
        const { code, stdout, stderr } = await runHere([...args, "--url", url], { env });
        assert.equal(code, 0, stderr);
        return stdout.trim();
      };
      return {
        ...cloud,
        ...log,
        url,
        command,
        claim: (name: string, ...more: string[]) =>
          command(
            ...["claim", "create", "--kind", "gateway", "--name", name, "--site", site, ...more],
          ),
        keys: async (...args: string[]) => {
          const done = await runHere(["keys", ...args, "--data", dataDir]);
          assert.equal(done.code, 0, done.stderr);
        },
      };
    },
  };
}

type CloudPlace = {
  readonly clock?: Clock;
  readonly ports?: { readonly grpc: number; readonly http: number };
};
type Cloud = { readonly grpcPort: number; readonly url: string };
type Settings = Readonly<Record<string, unknown>>;

function configOf(dir: string, name: string, cloud: Cloud, settings: Settings = {}) {
  const more = { authority: cloud.url, ...settings };
  return gatewayConfig.parse(gatewaySettings(dir, name, site, cloud.grpcPort, more));
}

async function layClaim(dir: string, name: string, claim: string): Promise<string> {
  const folder = join(dir, name, "identity");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const file = join(folder, "claim");
  await writeFile(file, `${claim}\n`, { mode: 0o600 });
  return file;
}

function startGateway(config: ReturnType<typeof configOf>, clock?: Clock) {
  const log = createEventLog<GatewayEvent>(config.gateway);
  const starting = createGateway({
    config,
    softwareVersion: "test",
    events: log.add,
    parts: { random: impatient, ...(clock && { clock }) },
  });
  starting.then(
    (gateway) => closers.push(() => gateway.close()),
    () => undefined,
  );
  return { ...log, starting };
}

test("a gateway joins by itself from the claim in its data directory, however late the cloud comes", async () => {
  const { dir, cloud } = await openFleet();
  const { claim, grpcPort, httpPort } = await cloud();
  const wire = await openWire(httpPort);
  closers.push(() => wire.close());
  wire.cut();
  const file = await layClaim(dir, "gw-1", await claim("gw-1"));
  const config = configOf(dir, "gw-1", { grpcPort, url: `https://127.0.0.1:${wire.port}` });
  const gateway = startGateway(config);
  await gateway.event("enrolment-waits");
  assert.ok(existsSync(file), "it is not lost meanwhile");
  wire.restore();
  await gateway.event("enrolled", { gateway: "gw-1", fleet: "press-works" });
  await gateway.event("uplink-attached");
  assert.ok(!existsSync(file), "the claim is forgotten");
  const identity = join(dir, "gw-1", "identity");
  for (const name of ["key.pem", "certificate.pem", "anchors.pem", "fleet.json"])
    assert.equal((await stat(join(identity, name))).mode & 0o777, 0o600, name);

  await (await gateway.starting).close();
  const again = startGateway(config);
  await again.event("uplink-attached");
  assert.equal(again.count("enrolled"), 0, "once is enough");
});

test("a replayed claim: another gateway gets nothing by it, the same one the same again", async () => {
  const { dir, cloud } = await openFleet();
  const { claim, ...place } = await cloud();
  const text = await claim("gw-*");
  const first = await enrolNow(configOf(dir, "gw-1", place), text, systemClock());
  assert.deepEqual([first.name, first.news], ["gw-1", true]);
  const stolen = enrolNow(configOf(dir, "gw-2", place), text, systemClock());
  await assert.rejects(stolen, { code: "claim-used" });
  await layClaim(dir, "gw-3", text);
  await assert.rejects(startGateway(configOf(dir, "gw-3", place)).starting, { code: "claim-used" });
  // Its answer was lost: what it had kept is gone, but for its key.
  await rm(join(dir, "gw-1", "identity", "certificate.pem"));
  const again = await enrolNow(configOf(dir, "gw-1", place), text, systemClock());
  assert.deepEqual(again, first);
});

test("a claim that must be accepted is waited for", async () => {
  const { dir, cloud } = await openFleet();
  const { claim, command, ...place } = await cloud();
  await layClaim(dir, "gw-1", await claim("gw-1", "--approval"));
  const gateway = startGateway(configOf(dir, "gw-1", place));
  await gateway.event("enrolment-waits", { code: "claim-pending" });
  const { waiting } = JSON.parse(await command("claim", "list", "--json"));
  await command("claim", "accept", waiting[0].id);
  await gateway.event("uplink-attached");
});

test("a cloud whose authority is not the claim's is told no claim", async () => {
  const ours = await openFleet();
  const theirs = await openFleet("thieves");
  const { claim } = await ours.cloud();
  const thief = await theirs.cloud();
  const text = await claim("gw-1");
  const lured = enrolNow(configOf(ours.dir, "gw-1", thief), text, systemClock());
  await assert.rejects(lured, { code: "certificate-untrusted" });
  // Even with the anchor of the thief's own authority nothing else of the claim fits there.
  const parts = readClaim(text);
  const other = readClaim(await thief.claim("gw-1"));
  assert.ok(parts && other);
  const mixed = claimText({ ...parts, anchor: other.anchor });
  const unknown = enrolNow(configOf(ours.dir, "gw-1", thief), mixed, systemClock());
  await assert.rejects(unknown, { code: "claim-unknown" });
});

test("an upstream that is another fleet's, or a gateway of the own fleet in the cloud's place, is told nothing", async () => {
  const { dir, cloud } = await openFleet();
  const place = await cloud();
  for (const name of ["gw-1", "impostor"])
    await enrolNow(configOf(dir, name, place), await place.claim(name), systemClock());
  const thief = await (await openFleet("thieves")).cloud();
  const lured = startGateway(configOf(dir, "gw-1", { ...place, grpcPort: thief.grpcPort }));
  const lost = await lured.event("uplink-lost");
  assert.match(lost.reason, /not of a trusted authority/);
  assert.equal(thief.count("gateway-refused"), 0);
  await (await lured.starting).close();

  const downstream = { listen: { port: 0 } };
  const impostor = startGateway(configOf(dir, "impostor", place, { downstream }));
  const { downstreamPort = 0 } = await impostor.starting;
  const misled = { ...place, grpcPort: downstreamPort };
  const gateway = startGateway(configOf(dir, "gw-1", misled));
  assert.match((await gateway.event("uplink-lost")).reason, /the server is the gateway impostor/);
  assert.equal(impostor.count("gateway-attached"), 0);
});

test("gateways below a gateway attach over TLS, and enrolments are passed on up", async () => {
  const { dir, cloud } = await openFleet();
  const place = await cloud();
  for (const name of ["region", "leaf"])
    await enrolNow(configOf(dir, name, place), await place.claim(name), systemClock());
  const downstream = { listen: { port: 0 } };
  const region = startGateway(configOf(dir, "region", place, { downstream }));
  await region.event("uplink-attached");
  const { downstreamPort = 0 } = await region.starting;
  const below = { grpcPort: downstreamPort, url: "https://127.0.0.1:1" };
  const config = configOf(dir, "leaf", below, { upstreamName: "region" });
  // Its certificate is due, and the way over HTTPS leads nowhere.
  const leaf = startGateway(config, ahead(0.9 * DAY_MS));
  await leaf.event("uplink-attached");
  await region.event("gateway-attached", { gateway: "leaf" });
  await leaf.event("certificate-renewed");
  await place.event("renewed", { who: "leaf" });
});

test("a gateway that was away past its certificate's end is refused, renews, and comes in", async () => {
  const { dir, cloud } = await openFleet();
  const first = await cloud();
  const config = configOf(dir, "gw-1", first);
  await enrolNow(config, await first.claim("gw-1"), systemClock());
  const before = await readFile(join(dir, "gw-1", "identity", "certificate.pem"), "utf8");
  await first.close();
  const later = ahead(2 * DAY_MS);
  const ports = { grpc: first.grpcPort, http: first.httpPort };
  await cloud({ clock: later, ports });
  const gateway = startGateway(config, later);
  await gateway.event("certificate-renewed");
  await gateway.event("uplink-attached");
  const after = await readFile(join(dir, "gw-1", "identity", "certificate.pem"), "utf8");
  assert.notEqual(after, before);
});

test("a gateway whose clock is years behind enrols and attaches", async () => {
  const { dir, cloud } = await openFleet();
  const place = await cloud();
  await layClaim(dir, "gw-1", await place.claim("gw-1"));
  const gateway = startGateway(configOf(dir, "gw-1", place), ahead(-10_000 * DAY_MS));
  await gateway.event("uplink-attached");
});

test("when the authority is rotated, gateways go on, and older claims still serve", async () => {
  const { dir, cloud } = await openFleet();
  const first = await cloud();
  const config = configOf(dir, "gw-1", first);
  await enrolNow(config, await first.claim("gw-1"), systemClock());
  const claim = await first.claim("gw-2");
  await first.keys("rotate", "--authority");
  await first.close();
  const ports = { grpc: first.grpcPort, http: first.httpPort };
  const next = await cloud({ ports });
  const gateway = startGateway(config);
  await gateway.event("uplink-attached");
  const newcomer = await enrolNow(configOf(dir, "gw-2", next), claim, systemClock());
  assert.equal(newcomer.name, "gw-2");
  const anchors = await readFile(join(dir, "gw-2", "identity", "anchors.pem"), "utf8");
  assert.equal(anchors.match(/BEGIN CERTIFICATE/g)?.length, 2);
  await startGateway(configOf(dir, "gw-2", next)).event("uplink-attached");
});

test("a proxy carries the way up, and sees no more than where it leads", async () => {
  const { dir, cloud } = await openFleet();
  const place = await cloud();
  const asked = new Set<string>();
  const proxy = createHttp().on("connect", ({ url = "" }, socket) => {
    asked.add(url);
    const [host, port] = url.split(":");
    const far = connect(Number(port), host, () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      socket.pipe(far).pipe(socket);
    });
    for (const end of [socket, far]) end.on("error", () => undefined);
    closers.push(() => far.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  closers.push(() => proxy.close());
  const { port } = proxy.address() as AddressInfo;
  await layClaim(dir, "gw-1", await place.claim("gw-1"));
  const settings = { proxy: `http://127.0.0.1:${port}` };
  const gateway = startGateway(configOf(dir, "gw-1", place, settings));
  await gateway.event("uplink-attached");
  assert.deepEqual(
    [...asked].sort(),
    [`127.0.0.1:${place.grpcPort}`, `127.0.0.1:${place.httpPort}`].sort(),
  );
});

test("the command line enrols a gateway, and says so again without asking", async () => {
  const { dir, cloud } = await openFleet();
  const place = await cloud();
  const config = join(dir, "gw-1.json");
  const settings = gatewaySettings(dir, "gw-1", site, place.grpcPort, { authority: place.url });
  await writeFile(config, JSON.stringify(settings));
  const none = await runHere(["gateway", "enrol", "--config", config]);
  assert.deepEqual([none.code, /claim/.test(none.stderr)], [64, true]);
  const claim = join(dir, "claim");
  await writeFile(claim, await place.claim("gw-1"), { mode: 0o600 });
  const line = ["gateway", "enrol", "--config", config];
  const done = await runHere([...line, "--claim", claim]);
  assert.equal(done.code, 0, done.stderr);
  assert.match(done.stdout, /^gateway gw-1 of plant has joined the fleet press-works; /);
  const again = await runHere([...line, "--json"]);
  assert.equal(JSON.parse(again.stdout).news, false);
  const moved = join(dir, "moved.json");
  await writeFile(moved, JSON.stringify({ ...settings, gateway: "gw-9" }));
  const other = await runHere(["gateway", "enrol", "--config", moved]);
  assert.deepEqual([other.code, /is for the gateway gw-1/.test(other.stderr)], [78, true]);
});

test("check gets through to the own fleet's cloud over TLS, and tells another fleet's from it", async () => {
  const { dir, cloud } = await openFleet();
  const place = await cloud();
  const thief = await (await openFleet("thieves")).cloud();
  const config = join(dir, "gw-1.json");
  const found = async (grpcPort: number) => {
    await writeFile(config, JSON.stringify(gatewaySettings(dir, "gw-1", site, grpcPort)));
    const { stdout } = await runHere(["check", "--config", config, "--json"]);
    const { findings } = JSON.parse(stdout) as {
      findings: { name: string; outcome: string; detail: string }[];
    };
    return ["identity", "upstream gRPC"].map((name) => {
      const { outcome, detail } = findings.find((one) => one.name === name) ?? assert.fail(name);
      return `${outcome}: ${detail}`;
    });
  };
  const [none, closed] = await found(place.grpcPort);
  assert.match(none ?? "", /^skipped: not enrolled/);
  assert.match(closed ?? "", /^error: .* no identity for TLS/);
  await enrolNow(configOf(dir, "gw-1", place), await place.claim("gw-1"), systemClock());
  const [own, open] = await found(place.grpcPort);
  assert.match(own ?? "", /^ok: of the fleet press-works, until /);
  assert.match(open ?? "", /^ok: /);
  const [, other] = await found(thief.grpcPort);
  assert.match(other ?? "", /^error: .*not cloud of the fleet press-works/);
});
