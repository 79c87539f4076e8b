import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createChannel } from "./channel.js";

test("pushes that wait when the channel closes reject; what is queued is still read", async () => {
  const channel = createChannel<number>({ capacity: 1 });
  await channel.push(1);
  const waiting = assert.rejects(channel.push(2), { code: "channel-closed" });
  channel.close();
  channel.close();
  await waiting;
  await assert.rejects(channel.push(3), { code: "channel-closed" });
  assert.equal(channel.tryPush(3), false);
  const read: number[] = [];
  for await (const item of channel) read.push(item);
  assert.deepEqual(read, [1]);
});

test("closing ends a reader that waits", async () => {
  const channel = createChannel<number>({ capacity: 1 });
  const next = channel[Symbol.asyncIterator]().next();
  channel.close();
  assert.equal((await next).done, true);
});

test("an item goes to one reader, and to the one that waited first", async () => {
  const channel = createChannel<string>({ capacity: 1 });
  const [a, b] = [channel[Symbol.asyncIterator](), channel[Symbol.asyncIterator]()];
  const reads = [a.next(), b.next()];
  await channel.push("first");
  await channel.push("second");
  assert.deepEqual(
    (await Promise.all(reads)).map(({ value }) => value),
    ["first", "second"],
  );
  assert.equal(channel.size, 0);
});

test("leaving a reading loop does not close the channel", async () => {
  const channel = createChannel<number>({ capacity: 2 });
  await channel.push(1);
  await channel.push(2);
  for await (const item of channel) {
    assert.equal(item, 1);
    break;
  }
  assert.ok(channel.tryPush(3));
  assert.equal(channel.size, 2);
});

test("a channel that can hold nothing is refused", () => {
  for (const capacity of [0, -1, 1.5, Number.NaN])
    assert.throws(() => createChannel({ capacity }), RangeError);
});

test("whatever the order of pushes and reads: nothing is lost, doubled, reordered or over the bound", async () => {
  const step = fc.constantFrom("push", "tryPush", "read");
  const property = fc.asyncProperty(
    fc.integer({ min: 1, max: 5 }),
    fc.array(step, { maxLength: 60 }),
    async (capacity, steps) => {
      const channel = createChannel<number>({ capacity });
      const reader = channel[Symbol.asyncIterator]();
      const reads: Promise<IteratorResult<number>>[] = [];
      const pushes: Promise<void>[] = [];
      let sent = 0;
      for (const action of steps) {
        if (action === "push") pushes.push(channel.push(sent++));
        else if (action === "read") reads.push(reader.next());
        else if (channel.tryPush(sent)) sent++;
        assert.ok(channel.size <= capacity);
      }
      while (reads.length < sent) reads.push(reader.next());
      await Promise.all(pushes);
      channel.close();
      const got = await Promise.all(reads);
      const values = got.filter(({ done }) => done !== true).map(({ value }) => value);
      assert.deepEqual(
        values,
        Array.from({ length: sent }, (_, i) => i),
      );
    },
  );
  await fc.assert(property, { numRuns: 200 });
});
