import assert from "node:assert/strict";
import { test } from "node:test";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { limits } from "./limits.js";
import { sampleModel, sampleTask, sampleUpdate } from "./testing/sample.js";
import { createChunkSender } from "./upload.js";

const base = sampleModel("s.0", 500_000, 0.5, 64 * 1024);
const update = sampleUpdate(sampleTask("s.1", base), base);
const total = update.payload.length;

function begin() {
  const sent: { offset: number; length: number; ack: () => void; fail: () => void }[] = [];
  let progress = 0;
  let done = 0;
  const sender = createChunkSender({
    publish: ({ offset }, payload) =>
      new Promise((resolve, reject) => {
        const fail = () => reject(new Error("gone"));
        sent.push({ offset, length: payload.length, ack: resolve, fail });
      }),
    onProgress() {
      progress++;
    },
    onSent() {
      done++;
    },
  });
  return { sender, sent, progress: () => progress, done: () => done };
}

/** Lets what was acknowledged be noticed. */
const turn = () => new Promise((resolve) => setImmediate(resolve));

test("chunks go in order, no more than the window unacknowledged, to the last byte", async () => {
  const { sender, sent, progress, done } = begin();
  sender.start(update, 0, 2 * wire.chunkBytes);
  assert.equal(sent.length, 2);
  for (let i = 0; i < sent.length; i++) {
    assert.ok(sent.length - i <= 2);
    assert.equal(done(), 0);
    sent[i]?.ack();
    await turn();
  }
  let at = 0;
  for (const { offset, length } of sent) {
    assert.equal(offset, at);
    at += length;
  }
  assert.equal(at, total);
  assert.equal(progress(), sent.length);
  assert.equal(done(), 1);
});

test("a window smaller than a chunk lets one chunk through, a huge one the SDK's own bound", () => {
  const small = begin();
  small.sender.start(update, 0, 1);
  assert.equal(small.sent.length, 1);
  const huge = begin();
  huge.sender.start(update, 0, Number.MAX_SAFE_INTEGER);
  const bound = Math.min(limits.uploadWindowBytes, total);
  assert.equal(huge.sent.reduce((sum, { length }) => sum + length, 0) <= bound, true);
});

test("a new start leaves the old one: late acknowledgements move nothing", async () => {
  const { sender, sent, progress } = begin();
  sender.start(update, 0, wire.chunkBytes);
  sender.start(update, 3 * wire.chunkBytes, wire.chunkBytes);
  assert.deepEqual(
    sent.map(({ offset }) => offset),
    [0, 3 * wire.chunkBytes],
  );
  sent[0]?.ack();
  await turn();
  assert.equal(sent.length, 2);
  assert.equal(progress(), 0);
  sender.stop();
  sent[1]?.ack();
  await turn();
  assert.equal(sent.length, 2);
});

test("a publish that fails ends the run without an error; beginning again is others' work", async () => {
  const { sender, sent, done } = begin();
  sender.start(update, 0, 2 * wire.chunkBytes);
  sent[0]?.fail();
  sent[1]?.ack();
  await turn();
  assert.equal(sent.length, 2);
  assert.equal(done(), 0);
});

test("nothing left to send is sent", () => {
  const { sender, sent, done } = begin();
  sender.start(update, total, wire.chunkBytes);
  assert.equal(sent.length, 0);
  assert.equal(done(), 1);
});
