import assert from "node:assert/strict";
import { test } from "node:test";
import { createMailbox } from "./mailbox.js";

test("jobs run one at a time, in order, whatever each of them does", async () => {
  const mailbox = createMailbox(10);
  const log: string[] = [];
  const job = (name: string, fails = false) =>
    mailbox.put(async () => {
      log.push(`${name} begins`);
      await new Promise<void>((resolve) => setImmediate(resolve));
      log.push(`${name} ends`);
      if (fails) throw new Error(name);
      return name;
    });
  const failing = job("one", true);
  const second = job("two");
  await assert.rejects(failing ?? Promise.resolve(), /one/);
  assert.equal(await second, "two");
  await mailbox.idle();
  assert.deepEqual(log, ["one begins", "one ends", "two begins", "two ends"]);
});

test("a full mailbox takes no job until one has begun", async () => {
  const mailbox = createMailbox(2);
  const ran: number[] = [];
  const put = (n: number) => mailbox.put(async () => void ran.push(n));
  const taken = [put(1), put(2), put(3)];
  assert.deepEqual(
    taken.map((run) => run !== undefined),
    [true, true, false],
  );
  await mailbox.idle();
  assert.notEqual(put(4), undefined);
  await mailbox.idle();
  assert.deepEqual(ran, [1, 2, 4]);
});

test("idle waits for jobs that jobs put", async () => {
  const mailbox = createMailbox(10);
  let inner = false;
  void mailbox.put(async () => {
    void mailbox.put(async () => {
      inner = true;
    });
  });
  await mailbox.idle();
  assert.equal(inner, true);
});
