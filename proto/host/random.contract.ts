import assert from "node:assert/strict";
import { test } from "node:test";
import type { Random } from "./random.js";

/** What every source of randomness does. */
export function randomContract(name: string, create: () => Random): void {
  test(`${name}: numbers lie in [0, 1) and spread over all of it`, () => {
    const random = create();
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 10_000; i++) {
      const value = random.next();
      assert.ok(value >= 0 && value < 1);
      counts[Math.floor(value * 10)] = (counts[Math.floor(value * 10)] ?? 0) + 1;
    }
    // 1000 in each on average, with a standard deviation of 30.
    for (const count of counts) assert.ok(count > 800 && count < 1200, `${counts}`);
  });

  test(`${name}: bytes come in the asked number, every bit both ways`, () => {
    const random = create();
    for (const count of [0, 1, 3, 4, 5, 33]) assert.equal(random.bytes(count).length, count);
    const [ones, zeros] = random
      .bytes(256)
      .reduce(([some, none], byte) => [some | byte, none | (~byte & 255)], [0, 0]);
    assert.deepEqual([ones, zeros], [255, 255]);
  });

  test(`${name}: ids have the asked length, start with a letter and differ`, () => {
    const random = create();
    const ids = new Set(Array.from({ length: 500 }, () => random.id(16)));
    assert.equal(ids.size, 500);
    for (const id of ids) assert.match(id, /^[a-p][a-z2-7]{15}$/);
    assert.equal(random.id(0), "");
  });
}
