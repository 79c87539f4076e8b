import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { openModels, viewModel } from "./models.js";
import { type SampleModel, sampleModel } from "./testing/sample.js";

const a = sampleModel("s.0");
const b = sampleModel("s.1", 3, 0.75);
const c = sampleModel("s.2", 3, 1);

function collect() {
  const failures: string[] = [];
  return { failures, onFailure: (what: string) => void failures.push(what) };
}

function keep(models: Awaited<ReturnType<typeof openModels>>, model: SampleModel, good: boolean) {
  return models.keep(model.manifest, model.layout, model.file, good);
}

for (const where of ["on disk", "in memory"] as const) {
  test(`${where}: the last good model stays whatever is evaluated after it`, async () => {
    const { failures, onFailure } = collect();
    const models = await openModels(where === "on disk" ? memoryDisk() : undefined, onFailure);
    assert.ok(keep(models, a, true).ok);
    assert.ok(keep(models, b, false).ok);
    assert.ok(keep(models, c, false).ok);
    assert.equal(models.good()?.id, "s.0");
    assert.equal(await models.load(b.manifest.digest), undefined);
    assert.equal((await models.load(c.manifest.digest))?.id, "s.2");
    models.markGood(c.manifest.digest);
    assert.ok(keep(models, b, false).ok);
    assert.equal(models.good()?.id, "s.2");
    assert.equal(await models.load(a.manifest.digest), undefined);
    await models.settled();
    assert.deepEqual(failures, []);
  });
}

test("after a restart the last good model is there, and no more files than the bound", async () => {
  const disk = memoryDisk();
  const { failures, onFailure } = collect();
  const models = await openModels(disk, onFailure);
  for (const model of [a, b, c]) keep(models, model, model !== c);
  await models.settled();
  disk.crash();
  const again = await openModels(disk, onFailure);
  assert.equal(again.good()?.id, "s.1");
  assert.deepEqual(again.good()?.values, b.values);
  assert.equal((await again.load(c.manifest.digest))?.id, "s.2");
  const files = await disk.list(".");
  assert.equal(files.filter((name) => name.endsWith(".safetensors")).length, 2);
  assert.deepEqual(failures, []);
});

test("a damaged file or index is reported, and the device starts without it", async () => {
  const disk = memoryDisk();
  const { failures, onFailure } = collect();
  const models = await openModels(disk, onFailure);
  keep(models, a, true);
  await models.settled();
  disk.flip(`${a.manifest.digest}.safetensors`, 999);
  assert.equal((await openModels(disk, onFailure)).good(), undefined);
  assert.deepEqual(failures, ["model"]);
  await disk.writeFileAtomic("models.json", [new TextEncoder().encode("{")]);
  assert.equal((await openModels(disk, onFailure)).good(), undefined);
  assert.deepEqual(failures, ["model", "model index"]);
});

test("whatever bit of the index flips, the device starts without it, and leaves no file behind", async () => {
  const disk = memoryDisk();
  const { onFailure } = collect();
  const models = await openModels(disk, onFailure);
  keep(models, a, true);
  await models.settled();
  const index = await disk.readFile("models.json");
  for (let bit = 0; bit < index.length * 8; bit++) {
    const flipped = new Uint8Array(index);
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    await disk.writeFileAtomic("models.json", [flipped]);
    const good = (await openModels(disk, onFailure)).good();
    // A flip of white space, or of a letter to the same one, changes nothing.
    assert.ok(good === undefined || good.id === "s.0", `bit ${bit}: ${good?.id}`);
    await disk.writeFileAtomic(`${a.manifest.digest}.safetensors`, [a.file]);
  }
  await disk.writeFileAtomic("models.json", [new TextEncoder().encode("{")]);
  await (await openModels(disk, onFailure)).settled();
  assert.deepEqual(await disk.list("."), ["models.json"]);
});

test("an index that an earlier release wrote, without a checksum, is read", async () => {
  const disk = memoryDisk();
  const { failures, onFailure } = collect();
  const { model: id, digest } = a.manifest;
  await disk.writeFileAtomic(`${digest}.safetensors`, [a.file]);
  const index = JSON.stringify({ version: 1, models: [{ id, digest }], good: digest });
  await disk.writeFileAtomic("models.json", [new TextEncoder().encode(index)]);
  assert.equal((await openModels(disk, onFailure)).good()?.id, "s.0");
  assert.deepEqual(failures, []);
});

test("a file that is no model, or of another layout, is refused", async () => {
  const models = await openModels(undefined, () => {});
  const rubbish = models.keep(a.manifest, a.layout, new Uint8Array(100), true);
  assert.ok(!rubbish.ok && rubbish.code === "model-malformed");
  const other = models.keep(a.manifest, [{ name: "w", shape: [8] }], a.file, true);
  assert.ok(!other.ok && other.code === "wrong-shape");
  assert.equal(models.good(), undefined);
});

test("a full disk is reported, and the model is there all the same", async () => {
  const disk = memoryDisk();
  const { failures, onFailure } = collect();
  const models = await openModels(disk, onFailure);
  disk.fail("full");
  assert.ok(keep(models, a, true).ok);
  await models.settled();
  assert.equal(models.good()?.id, "s.0");
  assert.deepEqual(failures, ["model"]);
});

test("what a disk that took no writes kept too long goes with the next model that is written", async () => {
  const disk = memoryDisk();
  const { failures, onFailure } = collect();
  const models = await openModels(disk, onFailure);
  for (const model of [a, b]) keep(models, model, false);
  await models.settled();
  disk.fail("read-only");
  for (const model of [c, sampleModel("s.3", 3, 2)]) keep(models, model, false);
  await models.settled();
  assert.equal(failures.length, 2);
  disk.fail("none");
  const last = sampleModel("s.4", 3, 3);
  keep(models, last, true);
  await models.settled();
  const files = (await disk.list(".")).filter((name) => name.endsWith(".safetensors"));
  assert.deepEqual(files, [`${last.manifest.digest}.safetensors`]);
});

test("held chunks survive a restart as far as they verify; a torn tail is cut off", async () => {
  const large = sampleModel("s.0", 1000);
  const { manifest, file } = large;
  const disk = memoryDisk();
  const { failures, onFailure } = collect();
  let models = await openModels(disk, onFailure);
  const open = async () => {
    await models.settled();
    models = await openModels(disk, onFailure);
    return models.openHeld(manifest);
  };
  const first = await open();
  assert.equal(first.bytes.length, 0);
  first.extend(file.subarray(0, 2048));
  first.extend(file.subarray(2048, 3072));
  first.close();
  await models.settled();
  // A tail that a crash tore: half a chunk.
  const torn = await disk.openAppend(`${manifest.digest}.part`);
  await torn.append([file.subarray(3072, 3500)]);
  const second = await open();
  assert.deepEqual(new Uint8Array(second.bytes), file.slice(0, 3072));
  second.extend(file.subarray(3072, 4096));
  const third = await open();
  assert.deepEqual(new Uint8Array(third.bytes), file.slice(0, 4096));
  await models.settled();
  disk.flip(`${manifest.digest}.part`, 1500 * 8);
  assert.equal((await open()).bytes.length, 1024);
  assert.deepEqual(failures, []);
});

test("only the transfer that goes on keeps its chunks", async () => {
  const disk = memoryDisk();
  const models = await openModels(disk, () => {});
  const large = sampleModel("s.0", 1000);
  const held = await models.openHeld(large.manifest);
  held.extend(large.file.subarray(0, 1024));
  await models.openHeld(b.manifest);
  assert.deepEqual(await disk.list("."), []);
});

test("a trainer sees the tensors as views, by name, in layout order", () => {
  const { id, layout, values, manifest } = sampleModel("s.0");
  const model = viewModel({ id, digest: manifest.digest, layout, values });
  assert.deepEqual([...model.tensors.keys()], ["w", "b"]);
  assert.deepEqual(model.tensors.get("w")?.shape, [3, 2]);
  assert.equal(model.tensors.get("b")?.values.buffer, values.buffer);
  assert.equal(model.tensors.get("b")?.values.byteOffset, 24);
});
