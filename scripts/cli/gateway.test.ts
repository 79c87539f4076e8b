import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { StatusView } from "@tributary/gateway/status-view.js";
import { sampleStatus } from "@tributary/gateway/testing/status-sample.js";
import { nodeDisk } from "@tributary/proto/host/disk.js";
import { openJournal } from "@tributary/proto/host/journal.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { runHere } from "./testing/command.js";

const scratch = mkdtempSync(join(tmpdir(), "tributary-gateway-"));
const servers: Server[] = [];
after(() => {
  for (const server of servers) server.close().closeAllConnections();
  rmSync(scratch, { recursive: true, force: true });
});

const HOUR = 3_600_000;
const view: StatusView = {
  ...sampleStatus,
  link: {
    ...sampleStatus.link,
    reason: "the upstream cannot be reached: \u001b[31mnothing listens there".repeat(3),
  },
};

async function pageOf(status: number, body: string): Promise<number> {
  const server = createServer((_, response) => response.writeHead(status).end(body));
  servers.push(server.listen(0, "127.0.0.1"));
  await new Promise((resolve) => server.once("listening", resolve));
  return (server.address() as AddressInfo).port;
}

function configOf(name: string, settings: object = {}): string {
  const file = join(scratch, `${name}.json`);
  const dataDir = join(scratch, name);
  const least = { site: "north", gateway: "gw-1", dataDir, upstream: "127.0.0.1:9" };
  writeFileSync(file, JSON.stringify({ ...least, ...settings }));
  return file;
}

test("status says in 80 columns what waits, until when it is full and how long it takes to send", async () => {
  const port = await pageOf(200, JSON.stringify(view));
  const { code, stdout } = await runHere([
    "gateway",
    "status",
    "--url",
    `http://127.0.0.1:${port}`,
  ]);
  assert.equal(code, 0);
  for (const line of stdout.split("\n")) assert.ok(line.length <= 80, line);
  assert.ok(
    !stdout.includes("\u001b"),
    "no control character of the gateway's reaches the terminal",
  );
  assert.match(stdout, /^waiting +3 results, 24\.4 MB, the oldest 2 h old/m);
  assert.match(stdout, /^buffer +308\.0 MB of 400\.0 MB \(77 %\)/m);
  assert.match(stdout, /^full in +8 h without a link, at today's 12\.0 MB an hour/m);
  assert.match(stdout, /^to send +3 min at 125\.0 kB\/s, as configured/m);
  assert.match(stdout, /^clock +wrong, at least 5 h behind/m);
  assert.match(stdout, /^denylist +1900000000, 2 shut out, in effect for 4 h/m);
  assert.match(stdout, /^fit\.12 +running +12 +9 +1$/m);
  assert.match(stdout, /^fit\.11 +result made, 1 gateway still at it +12 +7 +0$/m);

  const config = configOf("status", { status: { port } });
  const slow = { ...view, drain: { ...view.drain, bytesPerSecond: 512.3456 } };
  const url = `http://127.0.0.1:${await pageOf(200, JSON.stringify(slow))}`;
  assert.match((await runHere(["gateway", "status", "--url", url])).stdout, / at 512 B\/s,/);
  const brokenAbove = { gateway: "region", sinceMs: 2 * HOUR };
  const link = { ...view.link, attached: true, brokenAbove };
  const idle = { why: "reconnecting", round: "fit.12" };
  const cut = `http://127.0.0.1:${await pageOf(200, JSON.stringify({ ...view, link, idle }))}`;
  const said = (await runHere(["gateway", "status", "--url", cut])).stdout;
  assert.match(said, /^above +region has had no link to the cloud for 2 h/m);
  assert.match(said, /^idle +trains on after fit\.12 if the link stays away/m);
  const json = await runHere(["gateway", "status", "--config", config, "--json"]);
  assert.deepEqual(JSON.parse(json.stdout), view);
});

test("status of nothing, of something else and of a wrong address ends with 69 or 64", async () => {
  const gone = await runHere(["gateway", "status", "--url", "http://127.0.0.1:9"]);
  assert.equal(gone.code, 69);
  assert.match(gone.stderr, /cannot reach a gateway's status page/);
  for (const [status, body] of [
    [200, "hello"],
    [200, "{}"],
    [500, JSON.stringify(view)],
  ] as const) {
    const url = `http://127.0.0.1:${await pageOf(status, body)}`;
    const other = await runHere(["gateway", "status", "--url", url]);
    assert.equal(other.code, 69, body);
  }
  const misnamed = `http://127.0.0.1:${await pageOf(421, "not this host")}`;
  assert.equal((await runHere(["gateway", "status", "--url", misnamed])).code, 64);
  assert.equal((await runHere(["gateway", "status", "--url", "gateway"])).code, 64);
  const off = configOf("off", { status: { enabled: false } });
  assert.equal((await runHere(["gateway", "status", "--config", off])).code, 64);
});

test("size calculates from a model file or a number, and shows its formulas", async () => {
  const file = join(scratch, "m.safetensors");
  writeFileSync(file, encodeSafetensors([{ name: "w", shape: [10, 5] }], new Float32Array(50)));
  const asked = ["gateway", "size", "--devices", "4", "--encoding", "i16", "--outage", "2d"];
  const fromFile = await runHere([...asked, "--model", file, "--json"]);
  const fromNumber = await runHere([...asked, "--parameters", "50", "--json"]);
  assert.equal(fromFile.code, 0);
  assert.deepEqual(JSON.parse(fromFile.stdout), JSON.parse(fromNumber.stdout));
  const { load, parts } = JSON.parse(fromFile.stdout);
  assert.deepEqual([load.parameters, load.outageMs, parts[0].bytes], [50, 48 * HOUR, 100]);
  const { stdout } = await runHere([...asked, "--parameters", "1000000"]);
  assert.match(stdout, /N \(P b \+ 320\)/);
  for (const line of stdout.split("\n")) assert.ok(line.length <= 80, line);
  const wrong = [
    ["--devices", "4"],
    ["--devices", "0", "--parameters", "5"],
    ["--devices", "4", "--parameters", "5", "--model", file],
    ["--devices", "4", "--parameters", "5", "--outage", "soon"],
    ["--devices", "4", "--model", join(scratch, "absent")],
  ];
  for (const options of wrong) {
    assert.equal((await runHere(["gateway", "size", ...options])).code, 64, options.join(" "));
  }
});

test("size says of an absurd number which flag it is of, and what the flag takes", async () => {
  const whole = (most: number) => `a whole number from 1 to ${most}`;
  const ranges = {
    "--devices": whole(12_000),
    "--parameters": whole(134_217_728),
    "--upload-slots": whole(64),
    "--rounds-per-hour": "a number from 0 to 3600",
    "--outage": "from 1m to 3650d",
  };
  for (const [flag, range] of Object.entries(ranges)) {
    for (const absurd of ["-1", "1e300", "NaN", "", "9".repeat(400), "0.0000000001"]) {
      const { code, stderr } = await runHere(["gateway", "size", flag, absurd]);
      assert.equal(code, 64, `${flag} ${absurd}`);
      assert.ok(stderr.includes(`option '${flag} <`), stderr);
      assert.ok(stderr.includes(range), stderr);
    }
  }
  assert.match((await runHere(["gateway", "size", "--devices", "0"])).stderr, /from 1 to 12000/);
});

test("repair finds damage in a dry run with 1, mends it, and then finds none", async () => {
  const config = configOf("damaged");
  const dataDir = join(scratch, "damaged");
  mkdirSync(dataDir);
  const disk = nodeDisk(dataDir);
  const bounds = { frameBytes: 1_000, pendingBytes: 1_000 };
  const journal = await openJournal(disk, "rounds/fit.1.journal", {
    limits: bounds,
    random: systemRandom(),
  });
  await journal.append(1, [Buffer.from("no update")]);
  await journal.close();

  const absent = await runHere(["gateway", "repair", "--config", configOf("nowhere")]);
  assert.equal(absent.code, 73);
  const looked = await runHere(["gateway", "repair", "--config", config, "--dry-run"]);
  assert.equal(looked.code, 1);
  assert.match(looked.stdout, /rounds\/fit\.1\.journal {2}damaged/);
  assert.match(looked.stdout, /cannot be read: \d+ bytes at byte 24/);
  const mended = await runHere(["gateway", "repair", "--config", config, "--json"]);
  assert.equal(mended.code, 0);
  const { files } = JSON.parse(mended.stdout);
  assert.deepEqual(
    files.map(({ file, state }: { file: string; state: string }) => [file, state]),
    [["rounds/fit.1.journal", "mended"]],
  );
  const again = await runHere(["gateway", "repair", "--config", config]);
  assert.match(again.stdout, /fit\.1\.journal {2}whole/);
});
