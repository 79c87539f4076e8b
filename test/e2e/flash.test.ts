import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  authorityFile,
  jwksOf,
  listKey,
  readAuthorityKeys,
} from "@tributary/cloud/authority/keys.js";
import { signBundle } from "@tributary/proto/identity/bundle.js";
import { createApi } from "tributary/cli/api.js";
import { credentialsFor } from "tributary/cli/credentials.js";
import { runHere } from "tributary/cli/testing/command.js";
import { ownerOf, urlOf } from "tributary/cli/testing/owner.js";
import { type MadeBundle, sha256, writeArchive } from "tributary/flash/archive.js";
import { makeBundle, type Sign } from "tributary/flash/bundle.js";
import { assembled, finished, importModel, mergedBy, openFloor } from "../floor/floor.js";
import { openMachine, whyNoMachine } from "../floor/machine.js";
import { initialValues, layout, sessionParams } from "../floor/sample.js";
import { until } from "../floor/until.js";

/** Adds a half to each weight; written as an operator writes it, for the device's own Node. */
const trainer = `export function createTrainer() {
  return {
    async train({ tensors }) {
      const weights = new Map([...tensors].map(([name, { values }]) => [name, values.map((v) => v + 0.5)]));
      return { weights, samples: 10, metrics: { loss: 1 } };
    },
    evaluate: () => ({ samples: 10, metrics: {} }),
    predict: () => 0,
  };
}
`;

/** The same bundle with another program in it, signed as well: software that does not work. */
async function broken(made: MadeBundle, version: string, sign: Sign): Promise<MadeBundle> {
  const path = "release/app/bin/tributary.mjs";
  const bytes = new TextEncoder().encode("process.exitCode = 70;\n");
  const files = new Map(made.files).set(path, { mode: 0o755, bytes });
  const bundle = {
    ...made.bundle,
    version,
    files: made.bundle.files.map((file) =>
      file.path === path ? { ...file, bytes: bytes.length, sha256: sha256(bytes) } : file,
    ),
  };
  return { bundle, files, manifest: await sign(bundle) };
}

const skip = whyNoMachine() ?? false;
const arch = process.arch === "arm64" ? "arm64" : "x64";

test("a machine is flashed, installed and started, enrols and runs a round; updates are kept or go back", {
  skip,
}, async () => {
  const floor = await openFloor();
  const stops: (() => unknown)[] = [];
  try {
    const { dir } = floor;
    const data = join(dir, "cloud");
    const made = await runHere(["cloud", "init", "--data", data, "--fleet", "works"]);
    assert.equal(made.code, 0, made.stderr);
    const cloud = await floor.cloud();
    const url = await urlOf(cloud.httpPort);
    const env = ownerOf(data);
    const api = createApi({ url, credentials: () => credentialsFor(env, url) });
    await importModel(api, "start", layout, initialValues);

    // At the desk: the cloud makes the claim and signs.
    const settings = join(dir, "settings.yaml");
    const config = { listen: { port: 0 }, status: { port: 0 }, reserveDiskBytes: 0, log: "json" };
    writeFileSync(settings, JSON.stringify({ ...config, absentGraceMs: 60_000 }));
    const bundle = join(dir, "bundle");
    const upstream = `127.0.0.1:${cloud.grpcPort}`;
    const flashed = await runHere(
      [
        ...["flash", "--site", "north", "--name", "north-1", "--upstream", upstream],
        ...["--authority", `https://127.0.0.1:${cloud.httpPort}`],
        ...["--gateway-config", settings, "--device-sdk", "--out", bundle, "--url", url, "--json"],
      ],
      { env },
    );
    assert.equal(flashed.code, 0, flashed.stderr);
    const { key, version } = JSON.parse(flashed.stdout) as { key: string; version: string };

    // On the machine.
    const machine = openMachine(join(dir, "machine"));
    const home = join(machine.root, "var/lib/tributary");
    const line = [join(bundle, "install.sh"), "--root", machine.root, "--key", key];
    const installed = spawnSync("sh", line, { encoding: "utf8" });
    assert.equal(installed.status, 0, installed.stderr);
    const identity = join(home, "data/identity");
    assert.ok(existsSync(join(identity, "claim")));
    const service = machine.start();
    stops.push(() => service.stop());
    const { port } = await service.event("gateway-started", { gateway: "north-1" });
    await service.event("uplink-attached");
    assert.ok(!existsSync(join(identity, "claim")), "the claim is forgotten");
    assert.equal(statSync(join(identity, "key.pem")).mode & 0o777, 0o600);

    // A device on the bundle's own device SDK and Node, which enrols at the gateway.
    writeFileSync(join(dir, "trainer.mjs"), trainer);
    const { text } = await api.createClaim({ kind: "device", name: "press-7", site: "north" });
    writeFileSync(join(dir, "device.claim"), text, { mode: 0o600 });
    const device = {
      site: "north",
      device: "press-7",
      gateway: `mqtts://127.0.0.1:${port}`,
      claimFile: "./device.claim",
      dataDir: "./device",
      trainer: { module: "./trainer.mjs" },
    };
    writeFileSync(join(dir, "device.json"), JSON.stringify(device));
    const program = spawn(
      join(bundle, "release/runtime/bin/node"),
      [
        ...[join(bundle, "release/app/bin/device.mjs"), "device", "start"],
        ...["--config", join(dir, "device.json")],
      ],
      { stdio: ["ignore", "ignore", "inherit"], env: {} },
    );
    stops.push(() => program.kill("SIGKILL"));
    await assembled(api, { "north-1": 1 });
    await api.startSession({ name: "fit", rounds: 1, ...sessionParams });
    await finished(api, "fit");
    assert.deepEqual(await mergedBy(api, "fit"), [[1, ["press-7"]]]);

    // Software from a file, as from a USB stick, taken with the machine's own command.
    const keys = await readAuthorityKeys(authorityFile(data));
    const sign: Sign = (next) => signBundle(next, listKey(keys, Date.now()));
    const release = {
      fleet: keys.fleet,
      jwks: jwksOf(keys, Date.now()),
      minimumVersion: version,
      arch,
      runtime: undefined,
      deviceSdk: false,
      setup: undefined,
    } as const;
    const update = async (next: MadeBundle) => {
      const file = join(dir, `${next.bundle.version}.tar.gz`);
      await writeArchive(next, file);
      const current = join(home, "current");
      const own = [join(current, "app/bin/tributary.mjs"), "gateway", "update", file];
      return spawnSync(join(current, "runtime/bin/node"), [...own, "--home", home], {
        encoding: "utf8",
        env: {},
      });
    };
    const next = await makeBundle({ ...release, version: "1.1.0" }, sign);
    const taken = await update(next);
    assert.equal(taken.status, 0, taken.stderr);
    assert.match(taken.stdout, /tributary 1\.1\.0 runs from the next start on/);
    service.restart();
    await service.event("update-kept", { softwareVersion: "1.1.0" });
    assert.equal(readlinkSync(join(home, "current")), "slots/b");

    const bad = await update(await broken(next, "1.2.0", sign));
    assert.equal(bad.status, 0, bad.stderr);
    const before = service.starts;
    service.restart();
    await service.event("update-went-back", { softwareVersion: "1.1.0" });
    assert.equal(service.starts - before, 4, "three that failed, and the one that runs");
    assert.equal(readlinkSync(join(home, "current")), "slots/b");
    await until("the gateway is back", () => service.count("uplink-attached") === 3);

    const older = await makeBundle({ ...release, version: "1.0.0" }, sign);
    const downgrade = await update(older);
    assert.equal(downgrade.status, 1);
    assert.match(downgrade.stderr, /1\.0\.0 is older than 1\.1\.0, which runs/);
  } finally {
    for (const stop of stops.reverse()) await stop();
    await floor.close();
  }
});
