import assert from "node:assert/strict";
import { test } from "node:test";
import { sha256 } from "@tributary/proto/host/digest.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { verifyWhole } from "@tributary/proto/wire/manifest.js";
import { decodeSafetensors, encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { createModels } from "./models.js";
import { storeLimits } from "./store/limits.js";
import type { ModelRow } from "./store/rows.js";
import type { Store } from "./store/store.js";

const layout = [
  { name: "dense/kernel", shape: [2, 3] },
  { name: "dense/bias", shape: [3] },
];
const values = Float32Array.from([1, -2, 3.5, 0, 1e-30, -0.25, 7, 8, 9]);
const file = encodeSafetensors(layout, values, { author: "a site" });

/** The trail alone, of what the models ask the store for. */
function fakeTrail(sessions: string[] = []): Store & { rows: Map<string, ModelRow> } {
  const rows = new Map<string, ModelRow>();
  const trail = {
    rows,
    model: async (id: string) => rows.get(id),
    session: async (id: string) => (sessions.includes(id) ? { id } : undefined),
    addModel: async (row: ModelRow) => !rows.has(row.id) && rows.set(row.id, row) !== undefined,
    knownDigests: async (digests: readonly string[]) => {
      const known = new Set([...rows.values()].map(({ digest }) => digest));
      return new Set(digests.filter((digest) => known.has(digest)));
    },
  };
  return trail as unknown as Store & { rows: Map<string, ModelRow> };
}

async function* inPieces(bytes: Uint8Array, size = 7): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

function setUp(sessions?: string[]) {
  const disk = memoryDisk();
  const trail = fakeTrail(sessions);
  return { disk, trail, models: createModels(disk, trail, seededRandom(1)) };
}

test("an imported file is kept to the byte, under its digest, as the root of a trail", async () => {
  const { disk, trail, models } = setUp();
  const imported = await models.importFile("digits", inPieces(file), 5);
  assert.ok(imported.ok);
  assert.deepEqual(imported.model, trail.rows.get("digits.0"));
  assert.equal(imported.model.digest, sha256(file));
  assert.equal(imported.model.parameters, 9);
  assert.equal(imported.model.createdAtMs, 5);
  assert.deepEqual(await disk.list("models"), [`${sha256(file)}.safetensors`]);
  const base = await models.base("digits.0");
  assert.deepEqual(base?.layout, layout);
  assert.ok(base && verifyWhole(base.manifest, file, sha256).ok);
  assert.deepEqual(await models.values("digits.0"), values);
  const open = await models.open(imported.model.digest);
  assert.deepEqual(await open.read(3, 10), file.slice(3, 13));
  await open.close();
});

test("a restart finds the same manifest in the file as the cache held", async () => {
  const { disk, trail, models } = setUp();
  await models.importFile("digits", inPieces(file), 5);
  const again = createModels(disk, trail, seededRandom(2));
  assert.deepEqual(await again.base("digits.0"), await models.base("digits.0"));
});

test("nothing in the trail is overwritten, and no session's name is taken", async () => {
  const { models } = setUp(["running"]);
  assert.ok((await models.importFile("digits", inPieces(file), 5)).ok);
  const other = encodeSafetensors([{ name: "w", shape: [1] }], Float32Array.of(1));
  for (const name of ["digits", "running"]) {
    const refused = await models.importFile(name, inPieces(other), 6);
    assert.equal(!refused.ok && refused.code, "model-exists");
  }
  assert.deepEqual(await models.values("digits.0"), values);
});

test("what is no model is refused with a reason, and leaves nothing behind", async () => {
  const nan = encodeSafetensors([{ name: "w", shape: [2] }], Float32Array.of(1, Number.NaN));
  const wide = Array.from({ length: 2048 }, (_, i) => ({ name: `${i}`, shape: [1, 1, 1, 1, 1] }));
  const long = Array.from({ length: 2048 }, (_, i) => ({
    name: `${i}`.padStart(256, "n"),
    shape: [1],
  }));
  const cases: [string, Uint8Array, RegExp][] = [
    ["empty", new Uint8Array(0), /not a safetensors model/],
    ["text", new TextEncoder().encode("PK\u0003\u0004 not a model at all"), /not a safetensors/],
    ["cut", file.subarray(0, file.length - 4), /not a safetensors model/],
    ["no values", encodeSafetensors([], new Float32Array(0)), /no values/],
    ["not finite", nan, /value 1 is not finite: NaN/],
    ["too many items", encodeSafetensors(wide, new Float32Array(2048)), /too many to offer/],
    ["too long", encodeSafetensors(long, new Float32Array(2048)), /too many to offer/],
  ];
  const { disk, trail, models } = setUp();
  for (const [name, bytes, reason] of cases) {
    const refused = await models.importFile("bad", inPieces(bytes, 4096), 1);
    assert.ok(!refused.ok, name);
    assert.equal(refused.code, "model-malformed", name);
    assert.match(refused.message, reason, name);
  }
  assert.deepEqual(await disk.list("models"), []);
  assert.equal(trail.rows.size, 0);
});

test("an upload past the bound ends there, and its bytes are removed", async () => {
  const { disk, models } = setUp();
  const piece = new Uint8Array(64 * 1024 * 1024);
  let pulled = 0;
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) {
      pulled += piece.length;
      yield piece;
    }
  }
  const openAppend = disk.openAppend.bind(disk);
  // The bytes themselves would fill the memory of this test; their count is what matters.
  disk.openAppend = async (path) => {
    const real = await openAppend(path);
    let size = 0;
    return {
      ...real,
      get size() {
        return size;
      },
      append: async (parts) => {
        for (const part of parts) size += part.length;
      },
    };
  };
  const refused = await models.importFile("huge", endless(), 1);
  assert.equal(!refused.ok && refused.code, "too-large");
  assert.ok(pulled <= wireLimits.modelBytes + piece.length);
  assert.deepEqual(await disk.list("models"), []);
});

test("a further import than the bound is told to wait, and a broken one leaves nothing", async () => {
  const { disk, models } = setUp();
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  async function* broken(): AsyncGenerator<Uint8Array> {
    yield file.subarray(0, 8);
    await held;
    throw new Error("the caller went away");
  }
  const waiting = Array.from({ length: storeLimits.importsAtOnce }, (_, i) =>
    assert.rejects(models.importFile(`m${i}`, broken(), 1), /went away/),
  );
  const refused = await models.importFile("more", inPieces(file), 1);
  assert.equal(!refused.ok && refused.code, "busy");
  release();
  await Promise.all(waiting);
  assert.deepEqual(await disk.list("models"), []);
  assert.ok((await models.importFile("more", inPieces(file), 1)).ok);
});

test("a round's model is written with its name in it, the same bytes each time", async () => {
  const { disk, models } = setUp();
  const written = await models.write("digits.3", layout, values);
  assert.deepEqual(await models.write("digits.3", layout, values), written);
  const bytes = await disk.readFile(`models/${written.digest}.safetensors`);
  assert.equal(bytes.length, written.bytes);
  const read = decodeSafetensors(bytes);
  assert.ok(read.ok);
  assert.deepEqual(read.values, values);
  assert.deepEqual(read.metadata, { model: "digits.3" });
  assert.equal((await models.base("digits.3"))?.manifest.digest, written.digest);
});

test("a start removes files without a row and unfinished imports, nothing else", async () => {
  const { disk, trail, models } = setUp();
  await models.importFile("digits", inPieces(file), 5);
  await models.write(
    "digits.1",
    layout,
    Float32Array.from(values, (v) => v + 1),
  );
  await disk.writeFileAtomic("models/import-abc", [Uint8Array.of(1)]);
  await createModels(disk, trail, seededRandom(2)).sweep();
  assert.deepEqual(await disk.list("models"), [`${sha256(file)}.safetensors`]);
});

test("a damaged file is a failure, not a model", async () => {
  const { disk, trail, models } = setUp();
  const imported = await models.importFile("digits", inPieces(file), 5);
  assert.ok(imported.ok);
  const damaged = Uint8Array.from(file);
  damaged[damaged.length - 1] = 0x42;
  await disk.writeFileAtomic(`models/${imported.model.digest}.safetensors`, [damaged]);
  const again = createModels(disk, trail, seededRandom(2));
  await assert.rejects(again.base("digits.0"), /damaged/);
  assert.equal(await again.base("digits.9"), undefined);
  await assert.rejects(again.values("digits.9"), /no model digits.9/);
});
