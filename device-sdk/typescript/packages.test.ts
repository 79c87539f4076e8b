import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { systemClock } from "@tributary/proto/host/clock.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import type { PackageStatement } from "@tributary/proto/wire/package.js";
import { unpackPackage } from "./package-archive.js";
import { openPackages, type PackageRules, type Packages, packageRulesSchema } from "./packages.js";
import { runModule, type SamplePackage, samplePackage, tarOf } from "./testing/package.js";
import { sampleModel, sha256 } from "./testing/sample.js";
import { until } from "./testing/wait.js";
import type { Model } from "./trainer.js";

const base = sampleModel("s.0");
const model: Model = {
  id: base.id,
  digest: base.manifest.digest,
  tensors: new Map([
    ["w", { shape: [3, 2], values: base.values.slice(0, 6) }],
    ["b", { shape: [2], values: base.values.slice(6) }],
  ]),
};
const plan = { round: "s.1", session: "s", training: { epochs: 2 }, remainingMs: 60_000 };
const never = new AbortController().signal;

let dir: string;
let failures: string[];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "tributary-packages-"));
  failures = [];
});
afterEach(() => rm(dir, { recursive: true, force: true }));

function open(rules: Partial<PackageRules>, at: string | undefined = dir): Promise<Packages> {
  return openPackages({
    rules: packageRulesSchema.parse(rules),
    dir: at,
    clock: systemClock(),
    random: systemRandom(),
    onFailure: (what, message) => failures.push(`${what}: ${message}`),
  });
}

/** The trainer of a package whose signer is pinned, kept as of the session `s`. */
async function trainerOf(sample: SamplePackage, rules: Partial<PackageRules> = {}) {
  const packages = await open({ signers: [sample.signer], ...rules });
  await packages.keep(sample.offered, "s", sample.archive);
  const made = await packages.trainer(sample.offered);
  assert.ok(made.ok);
  return made.trainer;
}

/** A package whose `train` is a script. */
const scripted = (script: string, changes: Partial<PackageStatement> = {}) =>
  samplePackage({ "run.sh": script }, { entryPoints: { train: ["sh", "run.sh"] }, ...changes });

const leftBehind = async () => (await readdir(dir)).filter((name) => name.startsWith("work-"));

describe("who may ship code", () => {
  const code = async (sample: SamplePackage, rules: Partial<PackageRules>, at?: string) => {
    const packages = await openPackages({
      rules: packageRulesSchema.parse(rules),
      dir: at,
      clock: systemClock(),
      random: systemRandom(),
      onFailure: () => {},
    });
    const admitted = await packages.admit(sample.offered);
    const trainer = await packages.trainer(sample.offered);
    assert.equal(admitted.ok, trainer.ok);
    return admitted.ok ? "admitted" : admitted.code;
  };

  test("by default nobody", async () => {
    const sample = await samplePackage({ "run.mjs": runModule });
    assert.equal(await code(sample, {}, dir), "package-refused");
    assert.equal(await code(sample, { signers: [sample.signer] }, dir), "admitted");
  });

  test("only pinned signers, within what the device grants, and with a place to keep it", async () => {
    const sample = await samplePackage({ "run.mjs": runModule });
    const other = await samplePackage({ "run.mjs": runModule }, {}, makeKey("EdDSA"));
    const pinned = { signers: [sample.signer] };
    assert.equal(await code(other, pinned, dir), "package-refused");
    assert.equal(await code(sample, { ...pinned, memoryBytes: 1024 }, dir), "package-refused");
    assert.equal(await code(sample, pinned, undefined), "package-refused");
  });

  test("a tampered package: another statement or file under a pinned signer's name is refused", async () => {
    const sample = await samplePackage({ "run.mjs": runModule });
    const other = await samplePackage({ "run.mjs": "process.exit()" });
    const pinned = { signers: [sample.signer] };
    const { offered } = sample;
    const swapped = { ...offered, manifest: other.offered.manifest };
    assert.equal(await code({ ...sample, offered: swapped }, pinned, dir), "package-malformed");
    const [header, , signature] = offered.statement.split(".");
    const payload = other.offered.statement.split(".")[1];
    const forged = { ...offered, statement: `${header}.${payload}.${signature}` };
    assert.equal(await code({ ...sample, offered: forged }, pinned, dir), "package-signature");
  });
});

describe("a package at work", () => {
  test("trains, validates and predicts through files, and leaves nothing behind", async () => {
    const sample = await samplePackage({ "run.mjs": runModule }, { environment: { STEP: "0.5" } });
    const trainer = await trainerOf(sample);
    const trained = await trainer.train(model, plan, never);
    assert.deepEqual([trained.samples, trained.metrics], [7, { loss: 0.5 }]);
    assert.deepEqual(trained.weights.get("b"), Float32Array.of(1, 1));
    assert.equal(trained.weights.get("w")?.length, 6);
    assert.deepEqual(await trainer.evaluate(model, never), { samples: 7, metrics: { loss: 0.5 } });
    const answer = await trainer.predict?.(model, { x: 1 });
    assert.deepEqual(answer, { task: "predict", input: { x: 1 } });
    assert.deepEqual(await leftBehind(), []);
  });

  test("sees its task, its data folder and its own environment, and none of the device's", async () => {
    process.env.DEVICE_SECRET = "do not tell";
    try {
      const sample = await scripted(
        'env > "$TRIBUTARY_DATA/env"; cat "$TRIBUTARY_INPUT/task.json" > "$TRIBUTARY_DATA/task"; exit 3',
        { environment: { MODE: "fast" } },
      );
      const trainer = await trainerOf(sample, { dataDir: dir });
      await assert.rejects(trainer.train(model, plan, never), /sh: it ended with 3/);
      const environment = await readFile(join(dir, "env"), "utf8");
      assert.match(environment, /^MODE=fast$/m);
      assert.match(environment, /^TRIBUTARY_TASK=train$/m);
      assert.doesNotMatch(environment, /DEVICE_SECRET/);
      const task = JSON.parse(await readFile(join(dir, "task"), "utf8"));
      assert.deepEqual(task, { model: "s.0", ...plan });
    } finally {
      delete process.env.DEVICE_SECRET;
    }
  });

  test("that is slow is ended, with all that it started", async () => {
    const sample = await scripted(
      'sleep 600 & echo $! > "$TRIBUTARY_DATA/pid"; echo "went on" >&2; sleep 600',
    );
    const trainer = await trainerOf(sample, { dataDir: dir, timeMs: 3_000 });
    await assert.rejects(trainer.train(model, plan, never), /longer than 3000 ms: went on/);
    await isGone(Number(await readFile(join(dir, "pid"), "utf8")));
    assert.deepEqual(await leftBehind(), []);
  });

  test("what it leaves running in the background ends with it", async () => {
    const sample = await scripted('sleep 600 & echo $! > "$TRIBUTARY_DATA/pid"; exit 1');
    const trainer = await trainerOf(sample, { dataDir: dir });
    await assert.rejects(trainer.train(model, plan, never), /ended with 1/);
    await isGone(Number(await readFile(join(dir, "pid"), "utf8")));
  });

  test("ends when its round does", async () => {
    const sample = await scripted('echo > "$TRIBUTARY_DATA/begun"; sleep 600');
    const trainer = await trainerOf(sample, { dataDir: dir });
    const aborter = new AbortController();
    const training = trainer.train(model, plan, aborter.signal);
    await until("it began", () => existsSync(join(dir, "begun")));
    aborter.abort("closed");
    await assert.rejects(training, /aborted/);
    assert.deepEqual(await leftBehind(), []);
  });

  test("gets no more memory than it asked for", async () => {
    const greedy = `const kept = []; for (let i = 0; i < 20; i++) kept.push(Buffer.alloc(16 << 20, 1));`;
    const entryPoints = { train: ["node", "run.mjs"] };
    const tell = `${greedy} (await import("node:fs")).writeFileSync(process.env.TRIBUTARY_DATA + "/had", "all");`;
    const run = async (memoryBytes: number) => {
      const sample = await samplePackage({ "run.mjs": tell }, { entryPoints, memoryBytes });
      const trainer = await trainerOf(sample, { dataDir: dir, memoryBytes: 4 * 1024 ** 3 });
      await trainer.train(model, plan, never).catch(() => {});
      return existsSync(join(dir, "had"));
    };
    assert.equal(await run(256 * 1024 ** 2), false, "320 MiB in 256 MiB");
    assert.equal(await run(2 * 1024 ** 3), true, "320 MiB in 2 GiB");
  });

  test("has limits on files, processor time and core dumps that it cannot lift", async () => {
    const sample = await scripted(
      'for f in c f n t; do ulimit -H -$f; done > "$TRIBUTARY_DATA/limits"; ulimit -d unlimited 2> /dev/null && echo lifted >> "$TRIBUTARY_DATA/limits"; true',
    );
    const trainer = await trainerOf(sample, { dataDir: dir });
    // It leaves no result: that is not what is tested.
    await assert.rejects(trainer.train(model, plan, never), /no result.json/);
    const [core, file, open, seconds, lifted] = (await readFile(join(dir, "limits"), "utf8")).split(
      "\n",
    );
    assert.equal(core, "0");
    assert.ok(Number(file) > 0 && Number(open) <= 1024 && Number(seconds) > 0);
    // Who runs as root may lift a limit; a device does not.
    if (process.getuid?.() !== 0) assert.notEqual(lifted, "lifted");
  });

  for (const [what, script, says] of [
    ["no result", "exit 0", /no result.json/],
    ["a result that is none", 'echo "[]" > "$TRIBUTARY_OUTPUT/result.json"', /result.json/],
    [
      "a link in place of its result",
      'ln -s "$TRIBUTARY_INPUT/task.json" "$TRIBUTARY_OUTPUT/result.json"',
      /ELOOP/,
    ],
    ["a pipe in place of its result", 'mkfifo "$TRIBUTARY_OUTPUT/result.json"', /no plain file/],
    [
      "a result past the bound",
      'head -c 70000 /dev/zero > "$TRIBUTARY_OUTPUT/result.json"',
      /at most/,
    ],
    [
      "weights that are none",
      'echo "{\\"samples\\":1}" > "$TRIBUTARY_OUTPUT/result.json"; cp "$TRIBUTARY_INPUT/task.json" "$TRIBUTARY_OUTPUT/weights.safetensors"',
      /weights.safetensors/,
    ],
  ] as const)
    test(`that leaves ${what} fails its task`, async () => {
      const trainer = await trainerOf(await scripted(script));
      await assert.rejects(trainer.train(model, plan, never), says);
      assert.deepEqual(await leftBehind(), []);
    });

  test("without the command that is asked for fails its task", async () => {
    const trainer = await trainerOf(await scripted("exit 0"));
    await assert.rejects(trainer.evaluate(model, never), /steps.1 has no validate/);
  });

  test("runs anew each time: what it changes of itself is gone", async () => {
    const sample = await scripted(
      'if [ -e mark ]; then echo again >&2; exit 9; fi; echo > mark; chmod 600 run.sh; echo "exit 8" > run.sh; exit 7',
    );
    const trainer = await trainerOf(sample);
    for (let i = 0; i < 2; i++)
      await assert.rejects(trainer.train(model, plan, never), /ended with 7/);
  });
});

describe("kept packages", () => {
  test("outlive the process; the one unused longest goes, and what a crash left is removed", async () => {
    const samples = await Promise.all(
      [1, 2, 3].map((n) =>
        samplePackage({ "run.mjs": `${runModule}// ${n}` }, { package: `p.${n}` }),
      ),
    );
    const signers = samples.map(({ signer }) => signer);
    const packages = await open({ signers });
    for (const [at, { offered, archive }] of samples.entries())
      await packages.keep(offered, `s${at}`, archive);
    await writeFile(join(dir, "work-left"), "");
    const again = await open({ signers });
    await again.sweep();
    const here = await Promise.all(samples.map(({ offered }) => again.has(offered, "x")));
    assert.deepEqual(here, [false, true, true]);
    const files = await readdir(dir);
    assert.deepEqual(
      files.filter((name) => !name.endsWith(".tar.gz")),
      ["packages.json"],
    );
    assert.equal(files.length, 3);
    assert.deepEqual(failures, []);
  });

  test("a damaged archive counts as gone and never runs; a damaged index as empty", async () => {
    const sample = await samplePackage({ "run.mjs": runModule });
    const trainer = await trainerOf(sample);
    const path = join(dir, `${sample.statement.digest}.tar.gz`);
    const bytes = await readFile(path);
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
    await writeFile(path, bytes);
    await assert.rejects(trainer.train(model, plan, never), /damaged/);
    const packages = await open({ signers: [sample.signer] });
    assert.equal(await packages.has(sample.offered, "s"), false);
    await writeFile(join(dir, "packages.json"), "{");
    await open({ signers: [sample.signer] });
    assert.match(failures.join(), /package index/);
  });

  test("predict for the session that ran them last, while their signer is pinned", async () => {
    const sample = await samplePackage({ "run.mjs": runModule });
    const mute = await samplePackage(
      { "run.mjs": runModule },
      { package: "mute.1", entryPoints: { train: ["node", "run.mjs"] } },
    );
    const signers = [sample.signer, mute.signer];
    const packages = await open({ signers });
    await packages.keep(sample.offered, "s", sample.archive);
    await packages.keep(mute.offered, "t", mute.archive);
    assert.ok(await packages.predictor("s"));
    assert.equal(await packages.predictor("t"), undefined);
    assert.equal(await packages.predictor("u"), undefined);
    assert.ok(await (await open({ signers })).predictor("s"));
    assert.equal(await (await open({ signers: [] })).predictor("s"), undefined);
    // Its next version takes its place.
    await packages.keep(mute.offered, "s", mute.archive);
    assert.equal(await packages.predictor("s"), undefined);
  });
});

describe("a package's archive", () => {
  const unpack = async (
    archive: Uint8Array,
    files: number,
    unpackedBytes: number,
  ): Promise<string> => {
    const statement = { files, unpackedBytes } as PackageStatement;
    const into = await mkdtemp(join(dir, "into-"));
    const unpacked = await unpackPackage(archive, statement, into);
    return unpacked.ok ? "unpacked" : unpacked.message;
  };

  test("is unpacked as it is stated to be, or refused", async () => {
    const archive = await tarOf([
      [{ name: "a" }, "one"],
      [{ name: "b/c" }, "three"],
    ]);
    assert.equal(await unpack(archive, 2, 8), "unpacked");
    assert.match(await unpack(archive, 1, 8), /more than 1 files/);
    assert.match(await unpack(archive, 3, 8), /2 files of 8 bytes/);
    assert.match(await unpack(archive, 2, 7), /more than 2 files or 7 bytes/);
    assert.match(await unpack(archive.subarray(0, archive.length - 12), 2, 8), /archive/);
    assert.match(await unpack(Uint8Array.of(1, 2, 3), 2, 8), /archive/);
  });

  test("leads nowhere else: no link, no device, no way up, no file twice", async () => {
    for (const header of [
      { name: "../out" },
      { name: "/etc/x" },
      { name: "a/../../x" },
      { name: "x", type: "symlink", linkname: "/etc" },
      { name: "x", type: "link", linkname: "/etc/passwd" },
      { name: "x", type: "fifo" },
      { name: "x", type: "directory" },
    ] as const)
      assert.match(await unpack(await tarOf([[header, ""]]), 1, 0), /no plain file|no path/);
    const twice = await tarOf([
      [{ name: "a" }, "x"],
      [{ name: "a" }, "y"],
    ]);
    assert.match(await unpack(twice, 2, 2), /twice/);
  });

  test("that is small and unpacks to much is stopped on the way", async () => {
    const bomb = await tarOf([[{ name: "a" }, "\0".repeat(64 * 1024 * 1024)]]);
    assert.ok(bomb.length < 1024 * 1024);
    assert.match(await unpack(bomb, 1, 1), /more than|longer than/);
    assert.equal(sha256(bomb).length, 64);
  });
});

/** Waits until no process has the id, or one that only waits to be buried. */
async function isGone(pid: number): Promise<void> {
  assert.ok(pid > 1);
  const startMs = performance.now();
  for (;;) {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
    if (stat === undefined || / Z /.test(stat)) return;
    if (performance.now() - startMs > 20_000) throw new Error(`process ${pid} is still there`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
