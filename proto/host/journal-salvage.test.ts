import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Disk } from "./disk.js";
import { openJournal } from "./journal.js";
import { FILE_HEADER_BYTES, FRAME_HEADER_BYTES } from "./journal-format.js";
import { salvageJournal, writeJournal } from "./journal-salvage.js";
import { memoryDisk } from "./memory-disk.js";
import { seededRandom } from "./random.js";

const limits = { frameBytes: 1_000_000, pendingBytes: 1_000_000 };

type Known = { readonly kind: number; readonly text: string; readonly offset: number };

async function journalOf(bodies: readonly Uint8Array[], seed = 1) {
  const disk = memoryDisk();
  const journal = await openJournal(disk, "j", { limits, random: seededRandom(seed) });
  const known: Known[] = [];
  for (const [kind, body] of bodies.entries()) {
    known.push({ kind, text: Buffer.from(body).toString("hex"), offset: journal.sizeBytes });
    await journal.append(kind, [body]);
  }
  await journal.close();
  return { disk, known, bytes: await disk.readFile("j") };
}

async function salvage(disk: Disk, path = "j") {
  const found: Known[] = [];
  const result = await salvageJournal(disk, path, limits.frameBytes, ({ kind, body, offset }) => {
    found.push({ kind, text: Buffer.from(body).toString("hex"), offset });
  });
  return { ...result, found };
}

const texts = (count: number) =>
  Array.from({ length: count }, (_, i) => Buffer.from(`body ${i} `.repeat(i + 1)));

test("a whole journal has no gaps", async () => {
  const { disk, known, bytes } = await journalOf(texts(5));
  const { found, gaps, opens, frames, sizeBytes } = await salvage(disk);
  assert.deepEqual(found, known);
  assert.deepEqual({ gaps, opens, frames }, { gaps: [], opens: true, frames: 5 });
  assert.equal(sizeBytes, bytes.length);
});

test("a torn tail is a gap with which the journal opens; a hole in the middle is not", async () => {
  const { disk, known, bytes } = await journalOf(texts(4));
  await disk.writeFileAtomic("j", [bytes.subarray(0, bytes.length - 3)]);
  const torn = await salvage(disk);
  assert.equal(torn.opens, true);
  assert.deepEqual(torn.found, known.slice(0, 3));
  assert.deepEqual(
    torn.gaps.map(({ offset, broken }) => [offset, broken.length]),
    [[known[3]?.offset, 1]],
  );

  const at = (known[1]?.offset ?? 0) + FRAME_HEADER_BYTES + 2;
  await disk.writeFileAtomic("j", [bytes.with(at, (bytes[at] ?? 0) ^ 1)]);
  const holed = await salvage(disk);
  assert.equal(holed.opens, false);
  assert.deepEqual(
    holed.found,
    known.filter(({ kind }) => kind !== 1),
  );
  const [gap] = holed.gaps;
  assert.deepEqual(
    [gap?.offset, gap?.bytes],
    [known[1]?.offset, (known[2]?.offset ?? 0) - (known[1]?.offset ?? 0)],
  );
  assert.deepEqual(
    gap?.broken.map(({ kind, offset }) => [kind, offset]),
    [[1, known[1]?.offset]],
  );
});

test("frames are found behind a file header that is damaged anywhere, its salt too", async () => {
  const { disk, known, bytes } = await journalOf(texts(3));
  for (let at = 0; at < FILE_HEADER_BYTES; at++) {
    await disk.writeFileAtomic("j", [bytes.with(at, (bytes[at] ?? 0) ^ 0x40)]);
    const { found, opens } = await salvage(disk);
    assert.deepEqual(found, known, `byte ${at}`);
    assert.equal(opens, false);
  }
  await disk.writeFileAtomic("j", [
    new Uint8Array(FILE_HEADER_BYTES),
    bytes.subarray(FILE_HEADER_BYTES),
  ]);
  assert.deepEqual((await salvage(disk)).found, known);
});

test("a frame that stands alone proves itself by its place behind a header without its salt", async () => {
  const { disk, known, bytes } = await journalOf(texts(1));
  for (let at = 0; at < FILE_HEADER_BYTES; at++) {
    await disk.writeFileAtomic("j", [bytes.with(at, (bytes[at] ?? 0) ^ 0x40)]);
    const { found, opens } = await salvage(disk);
    assert.deepEqual(found, known, `byte ${at}`);
    assert.equal(opens, false);
  }
  // Where its body is wrong, too, nothing proves it: what it seems to hold is shown.
  const broken = bytes.with(13, 1).with(bytes.length - 1, 0);
  await disk.writeFileAtomic("j", [broken]);
  const { found, gaps } = await salvage(disk);
  assert.deepEqual(found, []);
  assert.deepEqual(
    gaps.flatMap((gap) => gap.broken.map(({ kind, offset }) => [kind, offset])),
    [[known[0]?.kind, FILE_HEADER_BYTES]],
  );
});

test("a frame of another journal inside a body is none of this one's", async () => {
  const other = await journalOf(texts(3), 7);
  const { disk, known, bytes } = await journalOf([
    Buffer.from("first"),
    other.bytes,
    Buffer.from("last"),
  ]);
  const at = (known[1]?.offset ?? 0) + 1;
  await disk.writeFileAtomic("j", [bytes.with(at, (bytes[at] ?? 0) ^ 1)]);
  assert.deepEqual(
    (await salvage(disk)).found.map(({ kind }) => kind),
    [0, 2],
  );
});

test("a newer format is left to the program that wrote it", async () => {
  const { disk, bytes } = await journalOf(texts(2));
  const { crc32 } = await import("node:zlib");
  const newer = bytes.slice();
  const view = new DataView(newer.buffer);
  view.setUint32(8, 2, true);
  view.setUint32(20, crc32(newer.subarray(0, 20)), true);
  await disk.writeFileAtomic("j", [newer]);
  await assert.rejects(salvage(disk), { code: "journal-version" });
});

test("gaps longer than what is searched in one go end at the next frame", async () => {
  const { disk, known, bytes } = await journalOf([
    Buffer.from("first"),
    new Uint8Array(900_000),
    new Uint8Array(900_000).fill(3),
    new Uint8Array(900_000).fill(5),
    Buffer.from("last"),
  ]);
  const from = known[1]?.offset ?? 0;
  const to = known[4]?.offset ?? 0;
  await disk.writeFileAtomic("j", [
    bytes.subarray(0, from),
    new Uint8Array(to - from),
    bytes.subarray(to),
  ]);
  const { found, gaps } = await salvage(disk);
  assert.deepEqual(found, [known[0], known[4]]);
  assert.deepEqual(
    gaps.map(({ offset, bytes: length }) => [offset, length]),
    [[from, to - from]],
  );
});

/** A piece of the file that is overwritten, taken out, or put in. */
const damageArbitrary = fc.record({
  type: fc.constantFrom("overwrite", "cut", "insert"),
  at: fc.nat(100_000),
  bytes: fc.uint8Array({ minLength: 1, maxLength: 60 }),
});

test("whatever is done to the bytes, only frames that were written come out, and all untouched ones", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 80 }), { minLength: 1, maxLength: 12 }),
      fc.array(damageArbitrary, { minLength: 1, maxLength: 4 }),
      fc.nat(1_000),
      async (bodies, damages, seed) => {
        const { disk, known, bytes } = await journalOf(bodies, seed);
        let rest = Buffer.from(bytes);
        for (const { type, at, bytes: piece } of damages) {
          const place = at % (rest.length + 1);
          const behind = type === "insert" ? place : place + piece.length;
          const middle = type === "cut" ? [] : [Buffer.from(piece)];
          rest = Buffer.concat([rest.subarray(0, place), ...middle, rest.subarray(behind)]);
        }
        await disk.writeFileAtomic("j", [rest]);
        const { found, opens } = await salvage(disk);
        const shown = ({ kind, text }: Known) => `${kind}:${text}`;
        const written = known.map(shown);
        // In order, though a piece that was put in may repeat none of them.
        let last = -1;
        for (const frame of found) {
          const place = written.indexOf(shown(frame), last + 1);
          assert.ok(place > last, `frame ${shown(frame)} was not written there`);
          last = place;
        }
        const headerStands = rest
          .subarray(0, FILE_HEADER_BYTES)
          .equals(bytes.subarray(0, FILE_HEADER_BYTES));
        if (headerStands) {
          for (const [i, { offset }] of known.entries()) {
            const frame = bytes.subarray(offset, known[i + 1]?.offset ?? bytes.length);
            const stands = rest.indexOf(frame, FILE_HEADER_BYTES) >= 0;
            if (stands)
              assert.ok(
                found.some((kept) => kept.kind === i),
                `frame ${i} stands`,
              );
          }
        }
        await disk.writeFileAtomic("k", [rest]);
        const reopened = await openJournal(disk, "k", { limits, random: seededRandom(2) }).then(
          (journal) => journal.close().then(() => true),
          () => false,
        );
        assert.equal(reopened, opens);
      },
    ),
    { numRuns: 300 },
  );
});

test("what is written anew opens, with the same frames", async () => {
  const { disk, known } = await journalOf(texts(4));
  const file = await disk.openAppend("mended");
  await writeJournal(file, seededRandom(9).bytes(8), (write) =>
    salvageJournal(disk, "j", limits.frameBytes, write),
  );
  await file.close();
  const { found, opens, gaps } = await salvage(disk, "mended");
  assert.deepEqual([found, opens, gaps], [known, true, []]);
  const journal = await openJournal(disk, "mended", { limits, random: seededRandom(1) });
  assert.equal(journal.cutBytes, 0);
  await journal.close();
});
