import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { openJournal } from "@tributary/proto/host/journal.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import fc from "fast-check";
import { openCombine } from "./combine.js";
import { limits } from "./limits.js";
import { copyReadable, examineJournal } from "./repair-journal.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";

const kernel = loadKernel();
const plan = samplePlan({ layout: [{ name: "w", shape: [300] }], encoding: "i16" });
const path = "rounds/s.1.journal";
const stepsOf = (device: string) => Number(device.slice(1)) - 5;
const samplesOf = (device: string) => 1 + Number(device.slice(1));

/** A journal of updates that all are receipted; each number of `batches` commits that many together. */
async function journalOf(batches: readonly number[]) {
  const disk = memoryDisk();
  const clock = createManualClock();
  let uploading = 1;
  const combine = await openCombine({
    disk,
    path,
    kernel,
    plan,
    subject: plan,
    site: "plant",
    clock,
    random: seededRandom(1),
    uploading: () => uploading,
  });
  const devices: string[] = [];
  for (const size of batches) {
    uploading = 1;
    const commits = Array.from({ length: size }, () => {
      const device = `d${devices.length}`;
      devices.push(device);
      const changes = { samples: samplesOf(device) };
      const { begin, payload } = sampleUpdate(plan, device, stepsOf(device), changes);
      return combine.commit({
        round: plan.round,
        device,
        begin,
        payload,
        clipped: false,
        release: () => {},
      });
    });
    uploading = 0;
    clock.advance(limits.commitDelayMaxMs);
    for (const verdict of await Promise.all(commits)) assert.deepEqual(verdict, { ok: true });
  }
  await combine.close();
  return { disk, devices, bytes: await disk.readFile(path) };
}

/** What a gateway that starts on these bytes sums. */
async function sumOf(bytes: Uint8Array) {
  const disk = memoryDisk();
  await disk.writeFileAtomic(path, [bytes]);
  const combine = await openCombine({
    disk,
    path,
    kernel,
    plan,
    subject: plan,
    site: "plant",
    clock: createManualClock(),
    random: seededRandom(3),
    uploading: () => 0,
  });
  const devices = [...combine.digests.keys()].sort();
  const partial = await combine.seal();
  await combine.close();
  return { devices, sum: partial?.sum ?? [], weight: partial?.weight ?? 0n };
}

function expectedSum(devices: readonly string[]): bigint {
  return devices.reduce((sum, d) => sum + BigInt(stepsOf(d) * samplesOf(d)), 0n);
}

const names = (all: readonly { readonly device: string }[]) =>
  all.map(({ device }) => device).sort();

describe("a round's journal", () => {
  it("is whole, and holds what was receipted", async () => {
    const { disk, devices } = await journalOf([1, 2, 30, 1]);
    const found = await examineJournal(disk, path);
    assert.deepEqual([found.state, found.gaps, found.lost], ["whole", [], []]);
    assert.deepEqual(names(found.kept), [...devices].sort());
    assert.ok(found.kept.every(({ device, samples }) => samples === samplesOf(device)));
  });

  it("names an update whose values are damaged, and where", async () => {
    const { disk, devices, bytes } = await journalOf([1, 1, 1]);
    const at = Math.floor(bytes.length / 2);
    await disk.writeFileAtomic(path, [bytes.with(at, (bytes[at] ?? 0) ^ 4)]);
    const found = await examineJournal(disk, path);
    assert.equal(found.state, "damaged");
    assert.deepEqual(found.lost, [{ device: "d1", samples: 2 }]);
    assert.deepEqual(
      names(found.kept),
      devices.filter((device) => device !== "d1"),
    );
    const [gap] = found.gaps;
    assert.ok(gap !== undefined && gap.offset < at && at < gap.offset + gap.bytes);
  });

  it("with a later checkpoint loses nothing of what that stands for", async () => {
    const { disk, devices, bytes } = await journalOf([1, 1, 30]);
    const at = 200;
    await disk.writeFileAtomic(path, [bytes.with(at, (bytes[at] ?? 0) ^ 4)]);
    const found = await examineJournal(disk, path);
    assert.equal(found.state, "damaged");
    assert.deepEqual([names(found.kept), found.lost], [[...devices].sort(), []]);
  });

  it("of records that are no records is damaged where they are", async () => {
    const disk = memoryDisk();
    const journal = await openJournal(disk, path, {
      limits: limits.journal,
      random: seededRandom(1),
    });
    await journal.append(1, [Buffer.from("no update")]);
    await journal.close();
    const found = await examineJournal(disk, path);
    assert.deepEqual([found.state, found.gaps.length, found.kept], ["damaged", 1, []]);
  });

  it("of a newer version is left alone", async () => {
    const disk = memoryDisk();
    const journal = await openJournal(disk, path, {
      limits: limits.journal,
      random: seededRandom(1),
    });
    await journal.append(77, [Buffer.from("from the future")]);
    await journal.close();
    await assert.rejects(examineJournal(disk, path), { code: "journal-version" });
  });

  it("however it is damaged, mends to the exact sum of what is reported as kept", async () => {
    const damage = fc.record({
      type: fc.constantFrom("flip", "overwrite", "cut", "end"),
      at: fc.nat(1_000_000),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 400 }),
    });
    // Journals are known beforehand: runs differ in what is done to them.
    const known = await Promise.all(
      [[1, 1, 1, 1, 1, 1], [2, 3, 1, 4], [1, 20, 1, 1], [1]].map(journalOf),
    );
    let damaged = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...known),
        fc.array(damage, { minLength: 1, maxLength: 3 }),
        async ({ devices, bytes }, damages) => {
          let rest = Buffer.from(bytes);
          for (const { type, at, bytes: piece } of damages) {
            const place = at % Math.max(1, rest.length);
            if (type === "flip") rest[place] = (rest[place] ?? 0) ^ 1;
            if (type === "overwrite") rest.set(piece.subarray(0, rest.length - place), place);
            if (type === "end") rest = rest.subarray(0, place);
            if (type === "cut") {
              rest = Buffer.concat([rest.subarray(0, place), rest.subarray(place + piece.length)]);
            }
          }
          const disk = memoryDisk();
          await disk.writeFileAtomic(path, [rest]);
          const found = await examineJournal(disk, path);
          const kept = names(found.kept);
          assert.ok(kept.every((device) => devices.includes(device)));
          assert.ok(names(found.lost).every((device) => !kept.includes(device)));
          if (found.state === "damaged") {
            damaged++;
            await copyReadable(disk, path, "mended", seededRandom(5).bytes(8));
            rest = Buffer.from(await disk.readFile("mended"));
          }
          const { devices: summed, sum, weight } = await sumOf(rest);
          assert.deepEqual(summed, kept);
          const value = expectedSum(kept);
          assert.ok(sum.every((coordinate) => coordinate === value));
          assert.equal(weight, BigInt(kept.reduce((all, device) => all + samplesOf(device), 0)));
        },
      ),
      { numRuns: 200 },
    );
    assert.ok(damaged > 0);
  });
});
