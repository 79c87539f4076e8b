import assert from "node:assert/strict";
import { it } from "node:test";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { Database, OutboxRecord, RoundRecord, Store } from "./store.js";

/** A place for one store, which one process at a time opens. */
export type StorePlace = {
  /** The store; bounds of 3 but for the rounds in the ledger. Closed before it is opened again. */
  store(ledgerRounds?: number): Promise<Store>;
  /** The opened database below it. Closed before the store is opened again. */
  database(): Promise<Database>;
};

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

/** What the store must do on every database; `make` gives a place with nothing in it. */
export function storeContract(name: string, make: () => Promise<StorePlace>): void {
  const check = (what: string, run: (place: StorePlace) => Promise<void>): void => {
    void it(`on ${name}: ${what}`, async () => run(await make()));
  };

  check("keeps its incarnation and counts its sequence on over restarts", async (place) => {
    const first = await place.store();
    assert.equal(await first.nextSequence(), 1);
    await first.seal(sealed("s.1"), [["dev-a", digest("a")]], entry(1, "s.1"));
    await first.close();
    const second = await place.store();
    assert.equal(second.incarnation, first.incarnation);
    assert.equal(await second.nextSequence(), 2);
    assert.deepEqual(await second.outbox(), [entry(1, "s.1")]);
    await second.removePartial(1);
    assert.equal(await second.nextSequence(), 2);
  });

  check("moves a round from open to sealed in one step", async (place) => {
    const store = await place.store();
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

  check("leaves out an open round that cannot be read, and says so", async (place) => {
    const first = await place.store();
    await first.putRound(round("s.1"));
    await first.putRound(round("s.2"));
    await first.close();
    const database = await place.database();
    const bad = encodeCbor({ round: "s.1", of: "a later version" });
    await database.batch([{ type: "put", key: "round!s.1", value: bad }], { sync: true });
    await database.close();
    const store = await place.store();
    const unread: string[] = [];
    const open = await store.openRounds((name) => unread.push(name));
    assert.deepEqual(
      open.map((record) => record.round),
      ["s.2"],
    );
    assert.deepEqual(unread, ["s.1"]);
    await assert.rejects(store.openRounds(), /round!s\.1 cannot be read/);
  });

  check(
    "forgets none of the cloud's rounds for the sake of site rounds, nor the other way round",
    async (place) => {
      const store = await place.store(2);
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
    },
  );

  check("forgets the contributors of the oldest rounds", async (place) => {
    const store = await place.store(3);
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

  check(
    "forgets whom a round asked with the round, when that was noted behind its end",
    async (place) => {
      const store = await place.store(1);
      await store.putRound(round("s.1"));
      await store.seal(sealed("s.1"), [], undefined);
      await store.noteAsks("s.1", [["dev-a", "declined"]]);
      assert.equal((await store.asks("s.1")).size, 1);
      await store.seal(sealed("s.2"), [], undefined);
      assert.equal((await store.asks("s.1")).size, 0);
    },
  );

  check(
    "takes a Partial from below and its identity in one step, and forgets the oldest of a gateway",
    async (place) => {
      const store = await place.store();
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
    },
  );

  check("puts a sum in the place of what it sums in one step", async (place) => {
    const store = await place.store();
    for (let n = 1; n <= 3; n++) await store.receive(entry(n, "s.1"), origin(n), digest("a"));
    await store.replacePartials(entry(4, "s.1"), [1, 3]);
    assert.deepEqual(await store.outbox(), [entry(2, "s.1"), entry(4, "s.1")]);
    assert.equal(await store.nextSequence(), 5);
    const marked = { ...entry(4, "s.1"), opened: true, held: "s.1" };
    await store.markPartials([marked]);
    assert.deepEqual(await store.outbox(), [entry(2, "s.1"), marked]);
  });

  check("keeps the newest expiries", async (place) => {
    const store = await place.store();
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

  check("refuses what a newer build wrote, and names a record that is damaged", async (place) => {
    const store = await place.store();
    await store.close();
    const put = async (key: string, value: unknown) => {
      const database = await place.database();
      await database.batch([{ type: "put", key, value: encodeCbor(value) }], { sync: true });
      await database.close();
    };
    await put("entry!1", { sequence: "one" });
    const damaged = await place.store();
    await assert.rejects(damaged.outbox(), (error: TributaryError) => {
      return error.code === "store-failed" && /entry!1/.test(error.message);
    });
    await damaged.close();
    await put("meta!format", 3);
    await assert.rejects(place.store(), (error) => {
      return error instanceof TributaryError && error.code === "store-version";
    });
  });

  check("answers after it is closed with an error, and does not open again", async (place) => {
    const store = await place.store();
    await store.close();
    await assert.rejects(store.nextSequence(), TributaryError);
    await place.store();
  });

  const bytes = (text: string) => new TextEncoder().encode(text);
  const put = (key: string, value: string) => ({ type: "put", key, value: bytes(value) }) as const;
  const all = { gte: "", lt: "\u007f" };

  check("a range has its keys in order, the first included and the last not", async (place) => {
    const database = await place.database();
    const keys = ["b!10", "a!2", "b", "b!1", "c!1", "b!2", "b!"];
    await database.batch(
      keys.map((key) => put(key, `at ${key}`)),
      { sync: false },
    );
    const range = { gte: "b!", lt: "b!2" };
    assert.deepEqual(await database.keys(range).all(), ["b!", "b!1", "b!10"]);
    const found = await database.iterator(range).all();
    assert.deepEqual(
      found.map(([key, value]) => [key, new TextDecoder().decode(value)]),
      [
        ["b!", "at b!"],
        ["b!1", "at b!1"],
        ["b!10", "at b!10"],
      ],
    );
    assert.equal(await database.get("b!3"), undefined);
    await database.close();
  });

  check("a batch goes in the order of its operations, and stays over a restart", async (place) => {
    const database = await place.database();
    await database.batch([put("a", "1"), { type: "del", key: "a" }, put("b", "1")], { sync: true });
    await database.batch([{ type: "del", key: "b" }, put("b", "2"), { type: "del", key: "none" }], {
      sync: false,
    });
    await database.close();
    const again = await place.database();
    assert.deepEqual(await again.keys(all).all(), ["b"]);
    assert.deepEqual(Buffer.from((await again.get("b")) ?? []), Buffer.from("2"));
    await again.close();
  });

  check("what is read or written belongs to the caller", async (place) => {
    const database = await place.database();
    const value = bytes("one");
    await database.batch([{ type: "put", key: "a", value }], { sync: true });
    value.fill(0);
    const read = await database.get("a");
    read?.fill(0);
    for (const [, listed] of await database.iterator(all).all()) listed.fill(0);
    assert.deepEqual(Buffer.from((await database.get("a")) ?? []), Buffer.from("one"));
    await database.close();
  });

  check("a database that is closed answers no more", async (place) => {
    const database = await place.database();
    await database.close();
    await assert.rejects(async () => database.get("a"));
    await assert.rejects(async () => database.keys(all).all());
    await assert.rejects(async () => database.iterator(all).all());
    await assert.rejects(async () => database.batch([put("a", "1")], { sync: true }));
  });
}
