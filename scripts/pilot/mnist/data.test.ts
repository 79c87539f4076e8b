import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { IMAGE_PIXELS, pick, readMnist } from "./data.js";

test("the package's files hold the whole database", async () => {
  const { train, test: held } = await readMnist();
  assert.equal(train.count, 60_000);
  assert.equal(held.count, 10_000);
  assert.equal(train.pixels.length, 60_000 * IMAGE_PIXELS);
  assert.equal(held.pixels.length, 10_000 * IMAGE_PIXELS);
  // The database's first labels, and its published class counts.
  assert.deepEqual([...train.labels.subarray(0, 5)], [5, 0, 4, 1, 9]);
  assert.deepEqual([...held.labels.subarray(0, 5)], [7, 2, 1, 0, 4]);
  const counts = new Array<number>(10).fill(0);
  for (const label of train.labels) counts[label] = (counts[label] ?? 0) + 1;
  assert.deepEqual(counts, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
});

test("a missing file is named", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "mnist-"));
  t.after(() => rm(folder, { recursive: true }));
  await assert.rejects(readMnist(folder), (error: Error) => {
    assert.match(error.message, /cannot read the MNIST file .*-ubyte/);
    return true;
  });
});

test("a file of another size or kind is refused", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "mnist-"));
  t.after(() => rm(folder, { recursive: true }));
  for (const part of ["train", "t10k"]) {
    await writeFile(join(folder, `${part}-images-idx3-ubyte`), new Uint8Array(16));
    await writeFile(join(folder, `${part}-labels-idx1-ubyte`), new Uint8Array(8));
  }
  await assert.rejects(readMnist(folder), /is not the MNIST file of/);
});

test("picked samples keep image and label together", () => {
  const samples = {
    count: 3,
    pixels: Uint8Array.from({ length: 3 * IMAGE_PIXELS }, (_, i) => Math.floor(i / IMAGE_PIXELS)),
    labels: Uint8Array.of(7, 8, 9),
  };
  const picked = pick(samples, [2, 0]);
  assert.equal(picked.count, 2);
  assert.deepEqual([...picked.labels], [9, 7]);
  assert.equal(picked.pixels[0], 2);
  assert.equal(picked.pixels[IMAGE_PIXELS], 0);
  assert.throws(() => pick(samples, [3]), RangeError);
});
