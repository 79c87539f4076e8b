import assert from "node:assert/strict";
import { test } from "node:test";
import { inTurn } from "./turn.js";

const never = new AbortController().signal;

test("work runs one at a time, in the order given, also after a failure", async () => {
  const log: string[] = [];
  const work = (name: string, fail = false) =>
    inTurn(never, async () => {
      log.push(`${name} starts`);
      await new Promise((resolve) => setImmediate(resolve));
      log.push(`${name} ends`);
      if (fail) throw new Error(name);
      return name;
    });
  const [a, b, c] = await Promise.allSettled([work("a"), work("b", true), work("c")]);
  assert.deepEqual(log, ["a starts", "a ends", "b starts", "b ends", "c starts", "c ends"]);
  assert.deepEqual([a.status, b.status, c.status], ["fulfilled", "rejected", "fulfilled"]);
});

test("work whose signal aborts before its turn never runs", async () => {
  const control = new AbortController();
  const first = inTurn(never, async () => control.abort(new Error("round over")));
  const second = inTurn(control.signal, () => assert.fail("it ran"));
  await first;
  await assert.rejects(second, /round over/);
});
