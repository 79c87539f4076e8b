import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { runGateway } from "@tributary/gateway/main.js";
import { run } from "./run.js";
import { commandFile, tributary } from "./testing/command.js";

const scratch = mkdtempSync(join(tmpdir(), "tributary-check-"));
const servers: Server[] = [];
after(() => {
  for (const server of servers) server.close();
  rmSync(scratch, { recursive: true, force: true });
});

type Found = { name: string; outcome: string; detail: string; advice: string | null };

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function gatewayConfig(name: string, settings: object = {}): Promise<string> {
  const file = join(scratch, `${name}.json`);
  const least = {
    site: "north",
    gateway: "gw-1",
    dataDir: join(scratch, name),
    upstream: "127.0.0.1:9",
    listen: { port: await freePort() },
    status: { port: await freePort() },
    budgetBytes: 1024 * 1024,
    reserveDiskBytes: 0,
    buffers: {},
    ballastBytes: 0,
  };
  writeFileSync(file, JSON.stringify({ ...least, ...settings }));
  return file;
}

function byName(stdout: string): Map<string, Found> {
  const { findings } = JSON.parse(stdout) as { findings: Found[] };
  return new Map(findings.map((finding) => [finding.name, finding]));
}

async function checkOf(file: string, ...more: string[]) {
  const ended = await tributary(["check", "--config", file, "--json", ...more]);
  return { ...ended, found: byName(ended.stdout) };
}

test("a cloud that is away and a port that another process holds are errors, with advice", async () => {
  const holder = spawn(process.execPath, [
    "-e",
    "const s=require('net').createServer().listen(0,'127.0.0.1',()=>console.log(s.address().port))",
  ]);
  try {
    const [said] = await once(holder.stdout, "data");
    const port = Number(String(said));
    const file = await gatewayConfig("held", { listen: { port } });
    const { code, found } = await checkOf(file);
    assert.equal(code, 2);
    assert.equal(found.get("config")?.outcome, "ok");
    assert.equal(found.get("port listen")?.outcome, "error");
    assert.match(found.get("port listen")?.advice ?? "", new RegExp(`ss -ltnp .*${port}`));
    assert.equal(found.get("port status")?.outcome, "ok");
    assert.equal(found.get("upstream TCP")?.outcome, "error");
    assert.match(found.get("upstream TCP")?.detail ?? "", /ECONNREFUSED/);
    assert.equal(found.get("upstream gRPC")?.outcome, "skipped");
    assert.equal(found.get("store")?.outcome, "ok");
    assert.ok(!existsSync(join(scratch, "held")), "a look makes no folder");
  } finally {
    holder.kill();
    await once(holder, "close");
  }
});

test("a gateway that runs holds its ports, answers a CONNECT and keeps its store to itself", async () => {
  const file = await gatewayConfig("runs");
  const options = { file, env: {}, softwareVersion: "0.1.0", write: () => undefined };
  const gateway = await runGateway(options);
  try {
    const { code, found } = await checkOf(file);
    assert.equal(code, 2, "the cloud is away");
    for (const name of ["port listen", "port status", "broker", "store", "clock"]) {
      assert.equal(found.get(name)?.outcome, "ok", JSON.stringify(found.get(name)));
    }
    assert.match(found.get("store")?.detail ?? "", /status page/);
  } finally {
    await gateway.close();
  }
  const stopped = await checkOf(file);
  assert.equal(stopped.found.get("store")?.detail, "whole");
  assert.equal(stopped.found.get("broker")?.outcome, "skipped");
});

test("a name that is not found and an upstream that speaks no gRPC are told apart", async () => {
  const nowhere = await gatewayConfig("nowhere", { upstream: "cloud.invalid:7443" });
  const { found } = await checkOf(nowhere);
  assert.equal(found.get("upstream DNS")?.outcome, "error");
  assert.match(found.get("upstream DNS")?.detail ?? "", /cloud\.invalid/);
  assert.equal(found.get("upstream TCP")?.outcome, "skipped");

  const mute = createServer((socket) => {
    socket.on("error", () => undefined).end("hello\r\n");
  }).listen(0, "127.0.0.1");
  servers.push(mute);
  await once(mute, "listening");
  const { port } = mute.address() as AddressInfo;
  const other = await checkOf(await gatewayConfig("other", { upstream: `127.0.0.1:${port}` }));
  assert.equal(other.found.get("upstream TCP")?.outcome, "ok");
  assert.equal(other.found.get("upstream gRPC")?.outcome, "error");
  const device = join(scratch, "device.json");
  const trainer = { module: join(scratch, "none.js") };
  const gateway = `mqtt://127.0.0.1:${port}`;
  writeFileSync(device, JSON.stringify({ site: "north", gateway, device: "d-1", trainer }));
  const asDevice = await checkOf(device, "--tier", "device");
  assert.equal(asDevice.code, 2);
  assert.match(asDevice.found.get("gateway MQTT")?.detail ?? "", /no MQTT broker/);
  assert.equal(asDevice.found.get("trainer")?.outcome, "error");
});

test("a device that is to go over TLS is told what it lacks, and nothing to say", async () => {
  const file = join(scratch, "tls-device.json");
  const mute = createServer((socket) => {
    socket.on("error", () => undefined).end("hello\r\n");
  }).listen(0, "127.0.0.1");
  servers.push(mute);
  await once(mute, "listening");
  const { port } = mute.address() as AddressInfo;
  const trainer = { module: join(scratch, "none.js") };
  const place = { site: "north", gateway: `mqtts://127.0.0.1:${port}`, dataDir: scratch };
  writeFileSync(file, JSON.stringify({ ...place, device: "d-1", trainer }));
  const { found } = await checkOf(file, "--tier", "device");
  assert.match(found.get("identity d-1")?.advice ?? "", /claim create --kind device --name d-1/);
  assert.equal(found.get("gateway MQTT over TLS")?.outcome, "error");
  const claimFile = join(scratch, "claim");
  writeFileSync(claimFile, "tc1", { mode: 0o600 });
  writeFileSync(file, JSON.stringify({ ...place, claimFile, device: "d-1", trainer }));
  const again = await checkOf(file, "--tier", "device");
  assert.equal(again.found.get("identity d-1")?.outcome, "ok");
});

test("a folder that cannot be written to is an error", async () => {
  // Nobody makes files there, root neither.
  const { found } = await checkOf(await gatewayConfig("ro", { dataDir: "/proc/self/fd" }));
  assert.equal(found.get("disk write")?.outcome, "error");
  assert.notEqual(found.get("disk write")?.advice, null);
});

const namespaces = spawnSync("unshare", ["-rm", "true"]).status === 0;

test("a full disk is an error", {
  skip: namespaces ? false : "no mount namespaces here",
}, async () => {
  const dataDir = join(scratch, "full");
  mkdirSync(dataDir);
  const file = await gatewayConfig("full-config", { dataDir });
  const script =
    'mount -t tmpfs -o size=64k none "$1" && head -c 60000 /dev/zero > "$1/rest" && exec "$2" "$3" check --config "$4" --json';
  const args = ["-rm", "sh", "-c", script, "sh", dataDir, process.execPath, commandFile, file];
  const full = byName(spawnSync("unshare", args, { encoding: "utf8" }).stdout);
  assert.match(full.get("disk write")?.detail ?? "", /ENOSPC/);
  assert.equal(full.get("disk space")?.outcome, "warning");
});

test("a clock before the build is an error; the text fits 80 columns and ends with 2", async () => {
  const written: string[] = [];
  const output = { write: () => undefined, isTerminal: false, width: 80 };
  const take = { ...output, write: (text: string) => written.push(text) };
  const file = await gatewayConfig("clock");
  const world = { env: {}, stdout: take, stderr: output, nowMs: () => Date.UTC(1970, 0, 2) };
  assert.equal(await run(["check", "--config", file], world), 2);
  const stdout = written.join("");
  assert.match(stdout, /^error +clock +1970-01-02T/m);
  assert.match(stdout, /^ +-> Set the clock/m);
  for (const line of stdout.split("\n")) {
    assert.ok(line.length <= 80, line);
  }
});

test("a wrong config is one error that names the line; a cloud's is looked at as one", async () => {
  const file = await gatewayConfig("wrong", { colour: "red" });
  const wrong = await checkOf(file);
  assert.equal(wrong.code, 2);
  assert.deepEqual([...wrong.found.keys()], ["config"]);
  assert.match(wrong.found.get("config")?.detail ?? "", /colour/);

  const cloud = join(scratch, "cloud.json");
  const ports = { grpc: { port: await freePort() }, http: { port: await freePort() } };
  writeFileSync(cloud, JSON.stringify({ dataDir: join(scratch, "cloud"), ...ports }));
  const good = await checkOf(cloud, "--tier", "cloud");
  assert.equal(good.found.get("port grpc")?.outcome, "ok");
  assert.equal(good.found.get("port http")?.outcome, "ok");
  assert.equal(good.found.get("store")?.outcome, "skipped");
  assert.ok([...good.found.values()].every(({ outcome }) => outcome !== "error"));
});
