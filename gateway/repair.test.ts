import assert from "node:assert/strict";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { sha256 } from "@tributary/proto/host/digest.js";
import { type Disk, nodeDisk } from "@tributary/proto/host/disk.js";
import { exitCodeOf, exitCodes } from "@tributary/proto/host/process.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { repairGateway } from "./repair.js";
import { openStore } from "./store.js";
import { del, levelDatabase, openTable } from "./store-table.js";
import type { TestDevice } from "./testing/device.js";
import type { TestReducer } from "./testing/reducer.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported, type StartedGateway } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

const plan = samplePlan();
const devices = ["dev-a", "dev-b", "dev-c"];
const stepsOf = (device: string) => devices.indexOf(device) + 2;

/** A stopped gateway's directory with an open round of three receipted updates; `dev-d` never came. */
async function stoppedMidRound() {
  const reducer = await stage.reducer();
  const dir = await stage.dataDir();
  const gateway = await stage.gateway(dir, reducer.address, { absentGraceMs: 60_000 });
  const here = [];
  for (const name of devices) here.push(await stage.device(gateway, name));
  await reported(reducer, devices.length);
  reducer.openRound(plan, [...devices, "dev-d"]);
  for (const device of here) {
    await device.next("offer");
    await device.upload(sampleUpdate(plan, device.device, stepsOf(device.device)));
    await device.next("receipt");
  }
  await gateway.close();
  const [journal = ""] = await readdir(join(dir, "rounds"));
  return { reducer, dir, file: join("rounds", journal), path: join(dir, "rounds", journal) };
}

async function damage(path: string, share: number): Promise<Buffer> {
  const bytes = await readFile(path);
  const at = Math.floor(bytes.length * share);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await writeFile(path, bytes);
  return bytes;
}

/** Closes the open round and checks what the gateway makes of it. */
async function ship(reducer: TestReducer, gateway: StartedGateway, expected: readonly string[]) {
  await until("it is attached", () => gateway.events.some((e) => e.name === "uplink-attached"));
  await until("its round is known", () => reducer.lastProgress(plan.round) !== undefined);
  reducer.tell({ $case: "roundClosed", value: { round: plan.round, outcome: "published" } });
  await until("the Partial arrives", () => reducer.partials.length === 1);
  const [partial] = reducer.partials;
  assert.deepEqual(
    partial?.contributors.map(({ device }) => device),
    expected,
  );
  const sum = expected.reduce((all, device) => all + BigInt(10 * stepsOf(device)), 0n);
  assert.ok(partial?.sum.every((value) => value === sum));
}

describe("a gateway on a damaged journal", () => {
  it("does not start, says where and what to do, and starts after the repair", async () => {
    const { reducer, dir, file, path } = await stoppedMidRound();
    const damaged = await damage(path, 0.5);
    await assert.rejects(stage.gateway(dir, reducer.address), (error: Error & { code: string }) => {
      assert.equal(error.code, "journal-corrupt");
      assert.match(error.message, /rounds\/.*journal is damaged at byte \d+/);
      assert.match(error.message, /tributary gateway repair/);
      return true;
    });

    const looked = await repairGateway({ dataDir: dir, dryRun: true });
    assert.equal(looked.files[0]?.state, "damaged");
    assert.deepEqual(await readFile(path), damaged);

    const { index, files } = await repairGateway({ dataDir: dir });
    assert.equal(index.state, "whole");
    assert.equal(files.length, 1);
    const [found] = files;
    assert.equal(found?.file, file);
    assert.equal(found?.state, "mended");
    assert.deepEqual(found?.lost, [{ device: "dev-b", samples: 10 }]);
    assert.deepEqual(
      found?.kept.map(({ device }) => device),
      ["dev-a", "dev-c"],
    );
    assert.equal(found?.gaps.length, 1);
    assert.deepEqual(await readFile(join(dir, found?.aside ?? "")), damaged);
    assert.match(found?.aside ?? "", /^damaged\/.*\.journal\.damaged-1$/);

    const again = await repairGateway({ dataDir: dir });
    assert.deepEqual(
      again.files.map(({ state }) => state),
      ["whole"],
    );
    await ship(reducer, await stage.gateway(dir, reducer.address), ["dev-a", "dev-c"]);
  });

  it("keeps each damaged original, and names who was asked and is in no record", async () => {
    const { dir, path } = await stoppedMidRound();
    for (const n of [1, 2]) {
      const bytes = await readFile(path);
      // The header of the first frame, so that nothing can be named.
      bytes[24 + 8] = (bytes[24 + 8] ?? 0) ^ 1;
      await writeFile(path, bytes);
      const { files } = await repairGateway({ dataDir: dir });
      assert.match(files[0]?.aside ?? "", new RegExp(`damaged-${n}$`));
      assert.deepEqual(files[0]?.lost, []);
      assert.deepEqual(files[0]?.unaccounted, devices.slice(0, n));
    }
  });

  it("is not touched while a gateway runs there", async () => {
    const reducer = await stage.reducer();
    const dir = await stage.dataDir();
    await stage.gateway(dir, reducer.address);
    await assert.rejects(repairGateway({ dataDir: dir }), { code: "data-dir-locked" });
    await assert.rejects(repairGateway({ dataDir: join(dir, "absent") }));
  });
});

/** A stopped gateway in its second site round: three contributed to the first, one to this one. */
async function stoppedInSiteRounds() {
  const reducer = await stage.reducer();
  const dir = await stage.dataDir();
  const settings = { absentGraceMs: 60_000 };
  const layout = [{ name: "w", shape: [4] }];
  const model = encodeSafetensors(layout, new Float32Array(4));
  reducer.models.set("mnist.0", model);
  const base = makeManifest("mnist.0", model, sha256, 1024);
  const gateway = await stage.gateway(dir, reducer.address, settings);
  const here = [];
  for (const name of devices) here.push(await stage.device(gateway, name));
  await reported(reducer, devices.length);
  const give = async (device: TestDevice, count: number) => {
    const { plan: offered } = await device.next("offer", count);
    await device.upload(sampleUpdate(offered, device.device, 3));
    await device.next("receipt", count);
  };
  reducer.openRound(samplePlan({ layout, base, siteRounds: 3 }), devices);
  for (const device of here) await give(device, 1);
  await give(here[0] as TestDevice, 2);
  await gateway.close();
  return { reducer, dir, settings };
}

type InSiteRounds = Awaited<ReturnType<typeof stoppedInSiteRounds>>;

/** Starts it again; resolves with the round that a device is offered. */
async function offeredNext({ reducer, dir, settings }: InSiteRounds): Promise<string> {
  const again = await stage.gateway(dir, reducer.address, settings);
  await until("it is attached", () => again.events.some((e) => e.name === "uplink-attached"));
  const device = await stage.device(again, "dev-a");
  return (await device.next("offer")).plan.round;
}

describe("a damaged state of site rounds", () => {
  it("is set aside with what was trained from it, and the gateway starts", async () => {
    const stopped = await stoppedInSiteRounds();
    const { reducer, dir } = stopped;
    await damage(join(dir, "sites", "mnist.1.state"), 0.9);
    await assert.rejects(
      stage.gateway(dir, reducer.address),
      /mnist\.1\.state[\s\S]*gateway repair/,
    );

    const looked = await repairGateway({ dataDir: dir, dryRun: true });
    assert.deepEqual(
      looked.files.map(({ state }) => state),
      ["damaged", "whole"],
    );
    const { files } = await repairGateway({ dataDir: dir });
    assert.deepEqual(
      files.map(({ file, state, lost }) => [file, state, lost.map(({ device }) => device)]),
      [
        ["sites/mnist.1.state", "set-aside", devices],
        ["rounds/mnist.1.2.journal", "set-aside", ["dev-a"]],
      ],
    );
    assert.equal(await offeredNext(stopped), "mnist.1.3");
  });
});

describe("a file that is gone", () => {
  it("stops the start when it is an open round's journal, which repair ends on record", async () => {
    const { reducer, dir, file, path } = await stoppedMidRound();
    await rm(path);
    const refused = (error: Error & { code: string }) => {
      assert.equal(error.code, "journal-missing");
      assert.match(error.message, /mnist\.1\.journal is gone[\s\S]*tributary gateway repair/);
      return true;
    };
    await assert.rejects(stage.gateway(dir, reducer.address), refused);
    const looked = await repairGateway({ dataDir: dir, dryRun: true });
    assert.deepEqual(
      looked.files.map((found) => [found.file, found.state, found.unaccounted]),
      [[file, "missing", devices]],
    );
    // It changed nothing, and a start that was refused did not make the file either.
    await assert.rejects(stage.gateway(dir, reducer.address), refused);

    const { files } = await repairGateway({ dataDir: dir });
    assert.deepEqual(
      files.map(({ state }) => state),
      ["given-up"],
    );
    assert.deepEqual((await repairGateway({ dataDir: dir })).files, []);
    const gateway = await stage.gateway(dir, reducer.address);
    await until("it is attached", () => gateway.events.some((e) => e.name === "uplink-attached"));
    reducer.openRound(plan, devices);
    await until("it says that nothing came of the round", () => {
      const progress = reducer.lastProgress(plan.round);
      return progress?.sealed === true && progress.folded === 0;
    });
  });

  it("is not missed when a kill kept it from being made", async () => {
    for (const siteRounds of [1, 2]) {
      const reducer = await stage.reducer();
      const dir = await stage.dataDir();
      const real = nodeDisk(dir);
      const disk: Disk = {
        ...real,
        openAppend: (path) =>
          path.startsWith("rounds/")
            ? Promise.reject(new TributaryError("disk-failed", "ended here"))
            : real.openAppend(path),
      };
      const gateway = await stage.gateway(dir, reducer.address, {}, { disk });
      await stage.device(gateway, "dev-a");
      await reported(reducer, 1);
      reducer.openRound(samplePlan({ siteRounds }), ["dev-a"]);
      await until("it ends there", () =>
        gateway.events.some(({ name }) => name === "plan-refused" || name === "seal-failed"),
      );
      await gateway.close();
      assert.deepEqual((await repairGateway({ dataDir: dir, dryRun: true })).files, []);
      await (await stage.gateway(dir, reducer.address)).close();
    }
  });

  it("stops the start when it is the state of site rounds, whose contributors are known", async () => {
    const stopped = await stoppedInSiteRounds();
    const { reducer, dir } = stopped;
    await rm(join(dir, "sites", "mnist.1.state"));
    await assert.rejects(stage.gateway(dir, reducer.address), {
      code: "journal-missing",
      message: /^sites\/mnist\.1\.state is gone/,
    });
    const { files } = await repairGateway({ dataDir: dir });
    assert.deepEqual(
      files.map(({ file, state, lost }) => [file, state, lost.map(({ device }) => device)]),
      [
        ["sites/mnist.1.state", "given-up", devices],
        ["rounds/mnist.1.2.journal", "set-aside", ["dev-a"]],
      ],
    );
    assert.equal(await offeredNext(stopped), "mnist.1.3");
  });

  it("stops the start when it is a site round's journal", async () => {
    const stopped = await stoppedInSiteRounds();
    const { reducer, dir } = stopped;
    await rm(join(dir, "rounds", "mnist.1.2.journal"));
    await assert.rejects(stage.gateway(dir, reducer.address), {
      code: "journal-missing",
      message: /^rounds\/mnist\.1\.2\.journal is gone/,
    });
    const { files } = await repairGateway({ dataDir: dir });
    assert.deepEqual(
      files.map((found) => [found.file, found.state, found.unaccounted]),
      [
        ["sites/mnist.1.state", "whole", []],
        ["rounds/mnist.1.2.journal", "given-up", devices],
      ],
    );
    assert.equal(await offeredNext(stopped), "mnist.1.3");
  });

  it("is on record when it is a Partial in the outbox, with whom the ledger names", async () => {
    const { reducer, dir, partial } = await stoppedWithPartial();
    await rm(partial);
    const looked = await repairGateway({ dataDir: dir, dryRun: true });
    assert.deepEqual(
      looked.files.map(({ kind, state, lost }) => [kind, state, lost]),
      [["partial", "missing", [{ device: `${plan.round}/dev-a`, samples: null }]]],
    );
    // What is lost is lost: a gateway starts all the same, and says so.
    const started = await stage.gateway(dir, reducer.address);
    assert.ok(started.events.some((e) => e.name === "partial-damaged"));
    await started.close();
    assert.deepEqual((await repairGateway({ dataDir: dir })).files, []);
    const store = await openStore({
      path: join(dir, "index"),
      newIncarnation: () => "",
      ...{ ledgerRounds: 64, receivedPartials: 64, expiries: 64 },
    });
    const [expiry] = await store.expiries();
    await store.close();
    assert.equal(expiry?.rule, "partial-damaged");
    assert.deepEqual(expiry?.contributors, [`${plan.round}/dev-a`]);
  });
});

/** A stopped gateway with the Partial of one device in its outbox. */
async function stoppedWithPartial() {
  const reducer = await stage.reducer();
  const dir = await stage.dataDir();
  const gateway = await stage.gateway(dir, reducer.address);
  const device = await stage.device(gateway, "dev-a");
  await reported(reducer, 1);
  reducer.openRound(plan, ["dev-a"]);
  await device.next("offer");
  await reducer.close();
  await device.upload(sampleUpdate(plan, "dev-a", 3));
  await device.next("receipt");
  await until("it seals", () => gateway.events.some((e) => e.name === "round-sealed"));
  await gateway.close();
  const [partial = ""] = await readdir(join(dir, "outbox"));
  return { reducer, dir, partial: join(dir, "outbox", partial) };
}

describe("a damaged outbox", () => {
  it("has its damaged Partial set aside, on record, with the names that it still shows", async () => {
    const { reducer, dir, partial } = await stoppedWithPartial();
    await damage(partial, 0.95);

    const { files } = await repairGateway({ dataDir: dir });
    const [found] = files;
    assert.deepEqual([found?.state, found?.kind], ["set-aside", "partial"]);
    assert.deepEqual(found?.lost, [{ device: `${plan.round}/dev-a`, samples: 10 }]);
    assert.deepEqual(await readdir(join(dir, "outbox")), []);
    assert.ok((await readFile(join(dir, found?.aside ?? ""))).length > 0);
    const back = await stage.reducer(reducer.port);
    const started = await stage.gateway(dir, back.address);
    await until("it is attached", () => started.events.some((e) => e.name === "uplink-attached"));
    assert.deepEqual(back.partials, []);
  });
});

describe("a damaged index", () => {
  it("that is gone keeps a gateway from taking its files for left-overs", async () => {
    const { reducer, dir, path } = await stoppedMidRound();
    await rm(join(dir, "index"), { recursive: true });
    await assert.rejects(stage.gateway(dir, reducer.address), {
      code: "store-failed",
      message: /no index that names it/,
    });
    assert.ok((await readFile(path)).length > 0);
    assert.equal((await repairGateway({ dataDir: dir })).index.state, "missing");
  });

  it("is made anew, and gives no sequence twice", async () => {
    const { reducer, dir } = await stoppedMidRound();
    const index = join(dir, "index");
    const [manifest = ""] = (await readdir(index)).filter((name) => name.startsWith("MANIFEST"));
    await rm(join(index, manifest));
    await assert.rejects(stage.gateway(dir, reducer.address), (error: Error & { code: string }) => {
      assert.equal(error.code, "index-corrupt");
      assert.match(error.message, /tributary gateway repair/);
      return true;
    });
    const looked = await repairGateway({ dataDir: dir, dryRun: true });
    assert.equal(looked.index.state, "damaged");
    const mended = await repairGateway({ dataDir: dir });
    assert.equal(mended.index.state, "mended");
    assert.ok((await readdir(join(dir, mended.index.aside ?? ""))).length > 0);
    assert.deepEqual(
      mended.files.map(({ state }) => state),
      ["whole"],
    );
    const gateway = await stage.gateway(dir, reducer.address);
    await ship(reducer, gateway, devices);
    await until("its end is known", () =>
      gateway.events.some((e) => e.name === "partial-delivered" && e.sequence > 1_000_000),
    );
  });

  it("in the middle of its log stops the start with file and offset, and nothing is removed", async () => {
    const { reducer, dir, file, path } = await stoppedMidRound();
    const journal = await readFile(path);
    const index = join(dir, "index");
    const [log = ""] = (await readdir(index)).filter((name) => name.endsWith(".log"));
    const bytes = await readFile(join(index, log));
    // In what says that the round is open, with records behind it.
    const at = bytes.indexOf(`round!${plan.round}`);
    assert.ok(at > 0);
    bytes.set([0xaa, 0x55], at);
    await writeFile(join(index, log), bytes);
    for (let attempt = 0; attempt < 2; attempt++) {
      await assert.rejects(stage.gateway(dir, reducer.address), (error: Error) => {
        assert.equal(exitCodeOf(error), exitCodes.cannotWrite);
        assert.match(error.message, new RegExp(`${log} at byte \\d+[^]*tributary gateway repair`));
        return true;
      });
      assert.deepEqual(await readFile(path), journal);
    }
    assert.equal((await repairGateway({ dataDir: dir, dryRun: true })).index.state, "damaged");
    assert.deepEqual(await readFile(join(index, log)), bytes);

    const { index: mended, files } = await repairGateway({ dataDir: dir });
    assert.equal(mended.state, "mended");
    assert.match(mended.message ?? "", new RegExp(`${log} at byte`));
    assert.deepEqual(await readFile(join(dir, mended.aside ?? "", log)), bytes);
    const [given] = files;
    assert.deepEqual([given?.file, given?.state], [file, "set-aside"]);
    assert.deepEqual(given?.lost.map(({ device }) => device).sort(), devices);
    assert.deepEqual(await readFile(join(dir, given?.aside ?? "")), journal);
    await stage.gateway(dir, reducer.address).then((gateway) => gateway.close());
    const expiry = await onlyExpiry(dir);
    assert.equal(expiry.rule, "index-damaged");
    assert.ok(expiry.sequence > 1_000_000);
  });

  it("that has lost how a round ended does not cost its Partial", async () => {
    const { reducer, dir, partial } = await stoppedWithPartial();
    const index = join(dir, "index");
    const [log = ""] = (await readdir(index)).filter((name) => name.endsWith(".log"));
    const bytes = await readFile(join(index, log));
    bytes.set([0xaa, 0x55], bytes.indexOf("entry!"));
    await writeFile(join(index, log), bytes);
    const whole = await readFile(partial);
    await assert.rejects(stage.gateway(dir, reducer.address), { code: "index-corrupt" });
    const { files } = await repairGateway({ dataDir: dir });
    assert.deepEqual(
      files.map(({ state, kind }) => [state, kind]),
      [
        ["adopted", "partial"],
        ["whole", "partial"],
      ],
    );
    assert.deepEqual(files[0]?.kept, [{ device: `${plan.round}/dev-a`, samples: 10 }]);
    assert.deepEqual(await readFile(partial), whole);
    const back = await stage.reducer(reducer.port);
    await stage.gateway(dir, back.address);
    await until("the Partial arrives", () => back.partials.length === 1);
    assert.deepEqual(
      back.partials[0]?.contributors.map(({ device }) => device),
      ["dev-a"],
    );
  });

  it("that has forgotten an open round does not cost its journal", async () => {
    const { reducer, dir, file, path } = await stoppedMidRound();
    const journal = await readFile(path);
    const table = await openTable(join(dir, "index"), levelDatabase);
    await table.write([del(`round!${plan.round}`)], true);
    await table.close();
    await assert.rejects(stage.gateway(dir, reducer.address), (error: Error & { code: string }) => {
      assert.equal(error.code, "index-corrupt");
      assert.match(error.message, new RegExp(`${file}[^]*tributary gateway repair`));
      return true;
    });
    const looked = await repairGateway({ dataDir: dir, dryRun: true });
    assert.deepEqual(
      looked.files.map(({ state }) => state),
      ["damaged"],
    );
    assert.deepEqual(await readFile(path), journal);
    const { index, files } = await repairGateway({ dataDir: dir });
    assert.equal(index.state, "whole");
    assert.deepEqual([files[0]?.state, files[0]?.lost.length], ["set-aside", 3]);
    await stage.gateway(dir, reducer.address).then((gateway) => gateway.close());
    const { contributors, rule, rounds } = await onlyExpiry(dir);
    assert.deepEqual([rule, rounds], ["index-damaged", [plan.round]]);
    assert.deepEqual(
      [...contributors].sort(),
      devices.map((d) => `${plan.round}/${d}`),
    );
  });

  it("that has forgotten a round does not cost its state of site rounds", async () => {
    const { reducer, dir } = await stoppedMidRound();
    await mkdir(join(dir, "sites"), { recursive: true });
    await writeFile(join(dir, "sites", "other.7.state"), "something");
    await assert.rejects(stage.gateway(dir, reducer.address), {
      code: "index-corrupt",
      message: /sites\/other\.7\.state/,
    });
    const { files } = await repairGateway({ dataDir: dir });
    assert.deepEqual(
      files.map(({ state }) => state),
      ["set-aside", "whole"],
    );
    await stage.gateway(dir, reducer.address).then((gateway) => gateway.close());
    assert.deepEqual((await onlyExpiry(dir)).rounds, ["other.7"]);
  });

  it("is finished although a kill came while the new one was put in its place", async () => {
    const { reducer, dir } = await stoppedMidRound();
    await rename(join(dir, "index"), join(dir, "index.mended"));
    await assert.rejects(stage.gateway(dir, reducer.address), /tributary gateway repair/);
    assert.equal((await repairGateway({ dataDir: dir })).index.state, "whole");
    const gateway = await stage.gateway(dir, reducer.address);
    await ship(reducer, gateway, devices);
  });
});

async function onlyExpiry(dir: string) {
  const newIncarnation = () => "unused";
  const bounds = { ledgerRounds: 64, receivedPartials: 64, expiries: 64 };
  const store = await openStore({ path: join(dir, "index"), newIncarnation, ...bounds });
  try {
    const expiries = await store.expiries();
    assert.equal(expiries.length, 1);
    return expiries[0] as (typeof expiries)[number];
  } finally {
    await store.close();
  }
}
