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
  rounds: [name],
  base: "s.0",
  shape: digest("e"),
  site: null,
  perSite: false,
  weight: 10,
  contributors: 1,
  totalMax: 100,
  digest: digest("d"),
  bytes: 100,
  sealedAtMs: 5,
  opened: false,
});
const origin = (sequence: number, gateway = "gw-b") => ({ gateway, incarnation: "i", sequence });

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

  it("leaves out an open round that cannot be read, and says so", async () => {
    const dir = await temporary.dir();
    const first = await temporary.store(dir);
    await first.putRound(round("s.1"));
    await first.putRound(round("s.2"));
    await first.close();
    const level = new Level<string, Uint8Array>(join(dir, "index"), { valueEncoding: "view" });
    await level.put("round!s.1", encodeCbor({ round: "s.1", of: "a later version" }));
    await level.close();
    const store = await temporary.store(dir);
    const unread: string[] = [];
    const open = await store.openRounds((name) => unread.push(name));
    assert.deepEqual(
      open.map((record) => record.round),
      ["s.2"],
    );
    assert.deepEqual(unread, ["s.1"]);
    await assert.rejects(store.openRounds(), /round!s\.1 cannot be read/);
  });

  it("forgets none of the cloud's rounds for the sake of site rounds, nor the other way round", async () => {
    const store = await temporary.store(undefined, 2);
    await store.seal(sealed("s.1"), [["dev-a", digest("a")]], undefined);
    for (const name of ["s.2.1", "s.2.2", "s.2.3"]) {
      await store.seal(sealed(name), [["dev-a", digest("b")]], undefined);
    }
    assert.equal(await store.recall("s.1", "dev-a"), digest("a"));
    assert.equal(await store.recall("s.2.1", "dev-a"), undefined);
    await store.seal(sealed("s.2"), [], undefined);
    await store.seal(sealed("s.3"), [], undefined);
    assert.equal(await store.recall("s.1", "dev-a"), undefined);
    assert.equal(await store.recall("s.2.2", "dev-a"), digest("b"));
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

  it("takes a Partial from below and its identity in one step, and forgets the oldest of a gateway", async () => {
    const store = await temporary.store();
    await store.receive(entry(1, "s.1"), origin(7), digest("a"));
    await store.receive(entry(2, "s.1"), origin(1, "gw-c"), digest("b"));
    assert.equal(await store.nextSequence(), 3);
    for (let n = 3; n <= 5; n++) {
      // A replaced gateway begins again at 1, under another incarnation.
      const next = { ...origin(n - 2), incarnation: "j" };
      await store.receive(entry(n, "s.1"), next, digest(String(n)));
    }
    assert.equal((await store.outbox()).length, 5);
    assert.equal(await store.received(origin(7)), undefined);
    assert.equal(await store.received({ ...origin(1), incarnation: "j" }), digest("3"));
    assert.equal(await store.received({ ...origin(3), incarnation: "j" }), digest("5"));
    assert.equal(await store.received(origin(1, "gw-c")), digest("b"));
  });

  it("puts a sum in the place of what it sums in one step", async () => {
    const store = await temporary.store();
    for (let n = 1; n <= 3; n++) await store.receive(entry(n, "s.1"), origin(n), digest("a"));
    await store.replacePartials(entry(4, "s.1"), [1, 3]);
    assert.deepEqual(await store.outbox(), [entry(2, "s.1"), entry(4, "s.1")]);
    assert.equal(await store.nextSequence(), 5);
    const marked = { ...entry(4, "s.1"), opened: true, held: "s.1" };
    await store.markPartials([marked]);
    assert.deepEqual(await store.outbox(), [entry(2, "s.1"), marked]);
  });

  it("keeps the newest expiries", async () => {
    const store = await temporary.store();
    const expiry = (sequence: number) => ({
      sequence,
      rounds: ["s.1"],
      rule: "overlap",
      message: "",
      contributors: ["s.1/dev-a"],
      expiredAtMs: 1,
    });
    for (let n = 1; n <= 5; n++) {
      await store.receive(entry(n, "s.1"), origin(n), digest("a"));
      await store.expirePartial(expiry(n));
    }
    assert.deepEqual(await store.outbox(), []);
    assert.deepEqual(await store.expiries(), [3, 4, 5].map(expiry));
  });

  it("refuses what a newer build wrote, and names a record that is damaged", async () => {
    const dir = await temporary.dir();
    const store = await temporary.store(dir);
    await store.close();
    const raw = new Level<string, Uint8Array>(join(dir, "index"), { valueEncoding: "view" });
    await raw.put("entry!1", encodeCbor({ sequence: "one" }));
    await raw.close();
    const damaged = await temporary.store(dir);
    await assert.rejects(damaged.outbox(), (error: TributaryError) => {
      return error.code === "store-failed" && /entry!1/.test(error.message);
    });
    await damaged.close();
    await raw.open();
    await raw.put("meta!format", encodeCbor(3));
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
