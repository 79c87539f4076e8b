import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { heldFrom } from "./held-partial.js";
import { LATE_FOLDER, openLatePartials, sweepLatePartials } from "./late-partials.js";
import { partialRows } from "./round-end.js";
import { memoryStore } from "./testing/memory-store.js";
import { encodedSum, plan, sumOf } from "./testing/rounds.js";

function partialOf(sequence: number) {
  const sum = sumOf(plan(), { [`d${sequence}`]: 3 });
  const { bytes, digest } = encodedSum(sum);
  const identity = { gateway: "g", incarnation: "i", sequence };
  const held = heldFrom({ identity, digest, totalBytes: bytes.length }, sum, sequence);
  const ending = { fate: { outcome: "kept" }, retained: true } as const;
  return { sum, bytes, held, rows: partialRows("s.1", held, ending) };
}

function world() {
  const store = memoryStore();
  const disk = memoryDisk({ random: seededRandom(1) });
  const record = ({ rows }: ReturnType<typeof partialOf>) =>
    store.recordPartial(rows.partial, rows.contributions);
  return { store, disk, record };
}

test("what is kept is found again after a power cut, to the byte", async () => {
  const { store, disk, record } = world();
  const late = await openLatePartials(disk, store, "s");
  const kept = partialOf(1);
  await late.write(kept.held, kept.bytes);
  await record(kept);
  await late.adopt([{ ...kept.held, applied: false }]);
  assert.equal(late.bytes(), kept.bytes.length);
  disk.crash();
  const again = await openLatePartials(disk, store, "s");
  assert.deepEqual(again.list(), [{ ...kept.held, applied: false }]);
  assert.deepEqual(await again.read(again.list()[0] ?? assert.fail()), kept.sum);
  assert.deepEqual((await openLatePartials(disk, store, "other")).list(), []);
});

test("a file that no row retains is swept at the start, and only that", async () => {
  const { store, disk, record } = world();
  const late = await openLatePartials(disk, store, "s");
  const [kept, orphan] = [partialOf(1), partialOf(2)];
  for (const { held, bytes } of [kept, orphan]) await late.write(held, bytes);
  await record(kept);
  await sweepLatePartials(disk, store, ["s"]);
  assert.deepEqual(await disk.list(LATE_FOLDER), ["s.g.i.1.partial"]);
});

test("a file goes once nothing retains it", async () => {
  const { store, disk, record } = world();
  const late = await openLatePartials(disk, store, "s");
  const kept = partialOf(1);
  await late.write(kept.held, kept.bytes);
  await record(kept);
  await late.adopt([{ ...kept.held, applied: false }]);
  await late.adopt([]);
  assert.deepEqual(await disk.list(LATE_FOLDER), []);
});

test("a write that failed to answer, and came through all the same, is not forgotten", async () => {
  const { store, disk, record } = world();
  const late = await openLatePartials(disk, store, "s");
  const kept = partialOf(1);
  await late.write(kept.held, kept.bytes);
  late.doubt();
  await record(kept);
  await late.renew();
  assert.deepEqual(late.list(), [{ ...kept.held, applied: false }]);
});

test("a kept file that is missing or damaged is a failure, by name", async () => {
  for (const bytes of [undefined, Buffer.from("rot")]) {
    const { store, disk, record } = world();
    const [gone, whole] = [partialOf(1), partialOf(2)];
    for (const each of [gone, whole]) await record(each);
    await disk.writeFileAtomic(`${LATE_FOLDER}/s.g.i.2.partial`, [whole.bytes]);
    const path = `${LATE_FOLDER}/s.g.i.1.partial`;
    if (bytes !== undefined) await disk.writeFileAtomic(path, [bytes]);
    const late = await openLatePartials(disk, store, "s");
    assert.deepEqual(late.list(), [{ ...whole.held, applied: false }]);
    await assert.rejects(late.renew(), (error: unknown) => {
      assert.ok(error instanceof TributaryError && error.message.includes(path));
      return true;
    });
    assert.deepEqual(
      (await late.examine()).map((each) => each.path),
      [path],
    );
    await disk.writeFileAtomic(path, [gone.bytes]);
    await late.renew();
    assert.deepEqual(late.list().length, 2);
  }
});
