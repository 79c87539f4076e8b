import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { Level } from "level";
import type { OutboxRecord, RoundRecord } from "./store.js";
import { createTemporary } from "./testing/temporary.js";

const temporary = createTemporary();
afterEach(() => temporary.close());

const digest = (fill: string) => fill.repeat(64);
const round = (name: string): RoundRecord => ({
  round: name,
  plan: Uint8Array.from([1, 2, 3]),
  roster: ["dev-a", "dev-b"],
  deadlineAtMs: 1_700_000_000_000.5,
});
const sealed = (name: string) => ({ round: name, offered: 2, folded: 1, declined: 0 });
const entry = (sequence: number, name: string): OutboxRecord => ({
  sequence,
  round: name,
  digest: digest("d"),
  bytes: 100,
  sealedAtMs: 5,
});

describe("the store", () => {
  it("keeps its incarnation and counts its sequence on over restarts", async () => {
    const dir = await temporary.dir();
    const first = await temporary.store(dir);
    assert.equal(await first.nextSequence(), 1);
    await first.seal(sealed("s.1"), [["dev-a", digest("a")]], entry(1, "s.1"));
    await first.close();
    const second = await temporary.store(dir);
    assert.equal(second.incarnation, first.incarnation);
    assert.equal(await second.nextSequence(), 2);
    assert.deepEqual(await second.outbox(), [entry(1, "s.1")]);
    await second.removePartial(1);
    assert.equal(await second.nextSequence(), 2);
  });

  it("says what keeps it from opening", async () => {
    const dir = await temporary.dir();
    await writeFile(join(dir, "index"), "no directory");
    await assert.rejects(temporary.store(dir), (error: unknown) => {
      assert.ok(error instanceof TributaryError);
      assert.equal(error.code, "store-failed");
      assert.match(error.message, /index cannot be opened: /);
      return true;
    });
  });

  it("moves a round from open to sealed in one step", async () => {
    const store = await temporary.store();
    await store.putRound(round("s.1"));
    await store.putRound(round("s.10"));
    await store.noteAsks("s.1", [["dev-a", "offered"]]);
    await store.noteAsks("s.10", [["dev-b", "offered"]]);
    await store.noteAsks("s.10", [["dev-b", "declined"]]);
    await store.seal(sealed("s.1"), [["dev-a", digest("a")]], entry(1, "s.1"));
    const open = await store.openRounds();
    assert.deepEqual(
      open.map((r) => r.round),
      ["s.10"],
    );
    assert.deepEqual(Uint8Array.from(open[0]?.plan ?? []), round("s.10").plan);
    assert.equal((await store.asks("s.1")).size, 0);
    assert.deepEqual([...(await store.asks("s.10"))], [["dev-b", "declined"]]);
    assert.equal(await store.recall("s.1", "dev-a"), digest("a"));
    assert.equal(await store.recall("s.1", "dev-b"), undefined);
    assert.equal(await store.recall("s.10", "dev-a"), undefined);
  });

  it("forgets the contributors of the oldest rounds", async () => {
    const store = await temporary.store(undefined, 3);
    for (let n = 1; n <= 5; n++) {
      await store.seal(sealed(`s.${n}`), [["dev-a", digest(String(n))]], undefined);
    }
    assert.deepEqual(
      (await store.sealed()).map((s) => s.round),
      ["s.3", "s.4", "s.5"],
    );
    assert.equal(await store.recall("s.2", "dev-a"), undefined);
    assert.equal(await store.recall("s.3", "dev-a"), digest("3"));
  });

  it("refuses what a newer build wrote, and names a record that is damaged", async () => {
    const dir = await temporary.dir();
    const store = await temporary.store(dir);
    await store.close();
    const raw = new Level<string, Uint8Array>(join(dir, "index"), { valueEncoding: "view" });
    await raw.put("outbox!1", encodeCbor({ sequence: "one" }));
    await raw.close();
    const damaged = await temporary.store(dir);
    await assert.rejects(damaged.outbox(), (error: TributaryError) => {
      return error.code === "store-failed" && /outbox!1/.test(error.message);
    });
    await damaged.close();
    await raw.open();
    await raw.put("meta!format", encodeCbor(2));
    await raw.close();
    await assert.rejects(temporary.store(dir), (error) => {
      return error instanceof TributaryError && error.code === "store-version";
    });
  });

  it("answers after it is closed with an error, and does not open again", async () => {
    const dir = await temporary.dir();
    const store = await temporary.store(dir);
    await store.close();
    await assert.rejects(store.nextSequence(), TributaryError);
    await temporary.store(dir);
  });
});
