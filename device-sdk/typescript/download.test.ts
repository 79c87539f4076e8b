import assert from "node:assert/strict";
import { test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import type { Up } from "@tributary/proto/wire/device-link.js";
import fc from "fast-check";
import { startDownload } from "./download.js";
import { limits } from "./limits.js";
import { sampleModel, sha256 } from "./testing/sample.js";

/** A file of some ten chunks. */
const { file, manifest } = sampleModel("s.1", 1200, 0.5);
const chunkBytes = manifest.chunkBytes;

function begin(held: Uint8Array = new Uint8Array(0), online = true) {
  const clock = createManualClock();
  const asked: Up<"fetch">[] = [];
  const kept: number[] = [];
  let done: Uint8Array | undefined;
  let failed: string | undefined;
  let bad = 0;
  const download = startDownload({
    manifest,
    held,
    online,
    clock,
    random: seededRandom(1),
    sha256,
    request: (header) => asked.push(header),
    onHeld: (bytes) => kept.push(bytes.length),
    onDone(bytes) {
      assert.equal(done, undefined);
      done = bytes;
    },
    onFailed(code) {
      failed = code;
    },
    onBadChunk() {
      bad++;
    },
  });
  const header = (offset: number) => ({ model: manifest.model, digest: manifest.digest, offset });
  return {
    clock,
    download,
    asked,
    kept,
    done: () => done,
    failed: () => failed,
    bad: () => bad,
    part: (offset: number, bytes = file.slice(offset, offset + chunkBytes)) =>
      download.part(header(offset), bytes),
    header,
  };
}

const offsets = (asked: readonly Up<"fetch">[]): number[] => asked.map(({ offset }) => offset);

test("a window of chunks is asked for, and one more for each that came", async () => {
  const run = begin();
  await Promise.resolve();
  assert.equal(run.asked.length, limits.fetchWindowChunks);
  run.part(0);
  assert.equal(run.asked.length, limits.fetchWindowChunks + 1);
  for (let at = 1; run.done() === undefined; at++) run.part(at * chunkBytes);
  assert.deepEqual(run.done(), file);
  assert.equal(run.asked.length, Math.ceil(file.length / chunkBytes));
});

test("parts in any order, repeated, corrupt, alien or unasked for give the file or nothing", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.tuple(
          fc.nat(1000),
          fc.constantFrom("good", "good", "good", "twice", "corrupt", "short", "alien", "lost"),
        ),
        { maxLength: 300 },
      ),
      async (deeds) => {
        const run = begin();
        await Promise.resolve();
        let corrupt = 0;
        for (const [pick, deed] of deeds) {
          const offset = run.asked[pick % run.asked.length]?.offset ?? 0;
          const bytes = file.slice(offset, offset + chunkBytes);
          if (deed === "good" || deed === "twice") run.part(offset, bytes);
          if (deed === "twice") run.part(offset, bytes);
          if (deed === "corrupt" && corrupt++ < 4) {
            bytes[pick % bytes.length] = (bytes[pick % bytes.length] ?? 0) ^ 1;
            run.part(offset, bytes);
          }
          if (deed === "short" && corrupt++ < 4) run.part(offset, bytes.subarray(1));
          if (deed === "alien")
            run.download.part({ ...run.header(offset), digest: "0".repeat(64) }, bytes);
          if (deed === "lost") run.clock.advance(limits.fetchDoubtMs);
        }
        assert.equal(run.failed(), undefined);
        while (run.done() === undefined) {
          const before = run.asked.length;
          run.clock.advance(limits.fetchDoubtMs);
          for (const { offset } of run.asked.slice(before)) run.part(offset);
        }
        assert.deepEqual(run.done(), file);
        assert.equal(run.kept.reduce((sum, length) => sum + length, 0) <= file.length, true);
      },
    ),
    { numRuns: 100 },
  );
});

test("a bad chunk is asked for again, a bounded number of times", async () => {
  const run = begin();
  await Promise.resolve();
  const bad = file.slice(0, chunkBytes).fill(7);
  for (let i = 0; i < limits.badChunks; i++) {
    run.part(0, bad);
    assert.equal(run.failed(), undefined);
    assert.equal(run.asked.at(-1)?.offset, 0);
  }
  run.part(0, bad);
  assert.equal(run.failed(), "digest-mismatch");
  assert.equal(run.bad(), limits.badChunks + 1);
});

test("late parts of another model are no bad chunks", async () => {
  const run = begin();
  await Promise.resolve();
  const alien = { ...run.header(0), digest: "0".repeat(64) };
  for (let i = 0; i <= limits.badChunks; i++) run.download.part(alien, new Uint8Array(chunkBytes));
  assert.equal(run.failed(), undefined);
  assert.equal(run.bad(), 0);
});

test("what is held is not asked for again; a whole file needs nothing", async () => {
  const some = begin(file.slice(0, 3 * chunkBytes));
  await Promise.resolve();
  assert.equal(some.asked[0]?.offset, 3 * chunkBytes);
  const all = begin(file);
  await Promise.resolve();
  assert.deepEqual(all.done(), file);
  assert.deepEqual(all.asked, []);
});

test("silence asks again; so does a new link; no link asks for nothing", async () => {
  const run = begin();
  await Promise.resolve();
  run.part(chunkBytes);
  run.clock.advance(limits.fetchDoubtMs);
  assert.equal(run.asked.filter(({ offset }) => offset === 0).length, 2);
  assert.equal(run.asked.filter(({ offset }) => offset === chunkBytes).length, 1);
  run.download.setOnline(false);
  const before = run.asked.length;
  run.clock.advance(10 * limits.fetchDoubtMs);
  assert.equal(run.asked.length, before);
  run.download.setOnline(true);
  assert.equal(offsets(run.asked.slice(before))[0], 0);
});

test("a retryable refusal waits at least as long as it says; another ends the transfer", async () => {
  const run = begin();
  await Promise.resolve();
  const before = run.asked.length;
  run.download.refused("unknown-model", "", 1234);
  run.clock.advance(1233);
  assert.equal(run.asked.length, before);
  run.clock.advance(1);
  assert.ok(run.asked.length > before);
  run.download.refused("bad-offset", "", 0);
  assert.equal(run.failed(), "bad-offset");
});

test("a refused chunk is asked for after its wait, though other parts come meanwhile", async () => {
  const run = begin();
  await Promise.resolve();
  run.download.refused("busy", "", 500);
  const before = run.asked.length;
  for (const at of [1, 2, 3]) run.part(at * chunkBytes);
  assert.equal(run.asked.length, before);
  run.clock.advance(500 + limits.backoffBaseMs);
  assert.deepEqual(offsets(run.asked.slice(before)), [0]);
});

test("after an abort nothing is asked for and nothing reported", async () => {
  const run = begin();
  run.download.abort();
  await Promise.resolve();
  run.part(0);
  run.download.setOnline(true);
  run.clock.advance(limits.fetchDoubtMs);
  assert.deepEqual(run.asked, []);
  assert.equal(run.done() ?? run.failed(), undefined);
});
