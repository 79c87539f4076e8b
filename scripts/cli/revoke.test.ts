import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type FakeCloud, fakeCloud, problem } from "./testing/cloud.js";
import { runHere } from "./testing/command.js";

const dir = mkdtempSync(join(tmpdir(), "tributary-revoke-"));
const text = "header.payload.signature";
const list = {
  sequence: 7,
  issuedAtMs: Date.UTC(2030, 4, 1),
  entries: [{ kind: "device", name: "press-7", before: Date.UTC(2030, 4, 1) / 1000 }],
  text,
};
const holds = (gateway: string, sequence: number, afterMs: number | null, more: object = {}) => ({
  ...{ gateway, attached: true, shutOut: false, sequence },
  ...{ inEffect: afterMs !== null, afterMs, cut: afterMs === null ? null : 1, ...more },
});
let looks = 0;
let cloud: FakeCloud;

before(async () => {
  cloud = await fakeCloud(({ method, path }) => {
    if (path === "/denylist") return { json: list };
    if (method !== "GET" || path !== "/denylist/spread")
      return problem(404, "unknown-route", "no such route");
    looks++;
    const gateways = [
      looks > 2 ? holds("north-1", 7, 240) : holds("north-1", 6, null),
      holds("south-1", 6, null, { attached: false }),
      holds("west-1", 0, null, { attached: false, shutOut: true, sequence: null }),
    ];
    return { json: { sequence: 7, issuedAtMs: list.issuedAtMs, gateways } };
  });
});
after(async () => {
  await cloud.close();
  rmSync(dir, { recursive: true, force: true });
});

const command = (...args: string[]) => runHere([...args, "--url", cloud.url]);

test("a revocation waits for gateways that are attached, and says since when it is in effect at each", async () => {
  looks = 0;
  const revoked = await command("revoke", "device", "press-7");
  assert.equal(revoked.code, 0, revoked.stderr);
  assert.equal(
    revoked.stdout,
    [
      "device press-7 is shut out: denylist 7",
      "GATEWAY  HOLDS  IN EFFECT        CUT OFF",
      "north-1  7      after 0.2 s            1",
      "south-1  6      away                   -",
      "west-1   -      shut out itself        -",
      "",
      "in effect at 1 of 2 gateways\n",
    ].join("\n"),
  );
  looks = 0;
  const hasty = await command("revoke", "device", "press-7", "--wait", "0s");
  assert.match(hasty.stdout, /north-1 +6 +not yet/);
  assert.equal(looks, 1);
});

test("the denylist is shown, and written to a file as it travels", async () => {
  const shown = await command("denylist");
  assert.match(shown.stdout, /^denylist 7 of 2030-05-01T00:00:00Z\n\nKIND .*\ndevice +press-7 /);
  const file = join(dir, "list");
  assert.equal((await command("denylist", "--out", file)).stdout, `denylist 7: ${file}\n`);
  assert.equal(readFileSync(file, "utf8"), `${text}\n`);
  assert.equal((await command("denylist", "--out", join(dir, "no", "list"))).code, 73);
});

test("a gateway that does not run finds an imported list when it starts; what is none is not laid there", async () => {
  const config = join(dir, "gateway.json");
  const dataDir = join(dir, "data");
  writeFileSync(
    config,
    JSON.stringify({ site: "north", gateway: "north-1", dataDir, upstream: "127.0.0.1:7443" }),
  );
  const file = join(dir, "usb");
  const give = () => runHere(["gateway", "import", file, "--config", config, "--wait", "0s"]);
  writeFileSync(file, `${text}\n`);
  assert.equal((await give()).code, 73, "there is no data directory");
  mkdirSync(dataDir);
  const given = await give();
  assert.deepEqual([given.code, /when it starts/.test(given.stdout)], [0, true]);
  const [laid = ""] = readdirSync(join(dataDir, "import"));
  assert.equal(readFileSync(join(dataDir, "import", laid), "utf8"), text);
  writeFileSync(file, "my holiday pictures");
  assert.equal((await give()).code, 64);
  assert.equal((await runHere(["gateway", "import", join(dir, "none")])).code, 64);
  assert.equal(readdirSync(join(dataDir, "import")).length, 1);
});
