import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { TributaryError } from "@tributary/proto/wire/errors.js";
import pg from "pg";
import { memoryStore } from "../testing/memory-store.js";
import { gatewayRow, modelRow, sessionRow } from "../testing/store-rows.js";
import { EMBEDDED_VERSION, openEmbedded } from "./embedded.js";
import { migrate, SCHEMA_VERSION } from "./migrations.js";
import { createStore, openStore } from "./open.js";
import { openServer } from "./server.js";
import type { Sql } from "./sql.js";
import { failsWith, storeContract } from "./store.contract.js";

type SqlPlace = { open(): Promise<Sql>; remove(): Promise<void> };

async function embeddedPlace(): Promise<SqlPlace> {
  const dir = await mkdtemp(join(tmpdir(), "tributary-store-"));
  return {
    open: () => openEmbedded(dir),
    remove: () => rm(dir, { recursive: true, force: true }),
  };
}

async function serverPlace(url: string): Promise<SqlPlace> {
  const name = `tributary_test_${process.pid}_${Date.now()}`;
  const admin = async (statement: string) => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.query(statement);
    await client.end();
  };
  await admin(`CREATE DATABASE ${name}`);
  const own = new URL(url);
  own.pathname = `/${name}`;
  return { open: () => openServer(own.href), remove: () => admin(`DROP DATABASE ${name}`) };
}

function sqlStore(driver: string, makePlace: () => Promise<SqlPlace>): void {
  storeContract(driver, async () => {
    const place = await makePlace();
    return { open: async () => createStore(await place.open()), remove: place.remove };
  });

  test(`an older store gains what is new, ${driver}: models their depth, rows their defaults`, async (t) => {
    const place = await makePlace();
    t.after(() => place.remove());
    const sql = await place.open();
    await migrate(sql, 1);
    const {
      aggregation: _,
      siteRounds: _k,
      offlineSiteRounds: _o,
      ...before
    } = sessionRow("old").params;
    await sql.write("durable", async (query) => {
      await query(
        `INSERT INTO sessions VALUES ('old', $1, 'running', NULL, 'old.3', 4, 0, NULL, 1, 1)`,
        [JSON.stringify(before)],
      );
      // 0 <- 1 <- 2 and 1 <- 3: a head that was moved back.
      for (const [id, parent] of [
        ["old.0"],
        ["old.1", "old.0"],
        ["old.2", "old.1"],
        ["old.3", "old.1"],
      ])
        await query(
          `INSERT INTO models (id, digest, bytes, parameters, parent, session, state, weight,
             contributors, metrics, created_at_ms)
           VALUES ($1, 'd', 1, 1, $2, 'old', 'published', 1, 1, '{}', 1)`,
          [id, parent ?? null],
        );
      await query(
        `INSERT INTO partials VALUES ('g', 'i', 1, 'd', 'old.2', 1, 1, 1, 'merged', NULL, 1)`,
      );
      for (const [round, device, outcome, model] of [
        [1, "b", "model", "old.2"],
        [1, "c", "kept", null],
        [2, "a", "model", "old.2"],
      ])
        await query(`INSERT INTO contributions VALUES ('old', $1, $2, 'g', 1, $3, NULL, $4)`, [
          round,
          device,
          outcome,
          model,
        ]);
      for (const number of [1, 2])
        await query(
          `INSERT INTO rounds VALUES ($1, 'old', $2, 'train', 'old.1', 'committed', NULL, $1, 1, 3, 1,
             1, 0, 1, 2, '', '{}')`,
          [`old.${number}`, number],
        );
      await query(`INSERT INTO devices VALUES ('a', 's', 'g', 'sdk', '{}', true, 1, 1)`);
    });
    const store = await createStore(sql);
    const { items } = await store.listModels({ session: "old" }, { limit: 9 });
    assert.deepEqual(
      items.map(({ id, version }) => `${id} ${version}`),
      ["old.3 2", "old.2 2", "old.1 1", "old.0 0"],
    );
    assert.deepEqual((await store.session("old"))?.params, sessionRow("old").params);
    const partial = await store.partial({ gateway: "g", incarnation: "i", sequence: 1 });
    assert.deepEqual([partial?.session, partial?.retained], ["old", false]);
    const held = await store.listContributions({ session: "old", model: "old.2" }, { limit: 9 });
    assert.deepEqual(held.items[0]?.updates, 1);
    const rounds = (await store.listRounds("old", { limit: 9 })).items;
    assert.deepEqual(
      rounds.map(({ id, merged, kept, fromEarlier }) => [id, merged, kept, fromEarlier]),
      [
        ["old.2", 1, 0, 1],
        ["old.1", 1, 1, 0],
      ],
    );
    assert.equal((await store.listDevices({}, { limit: 9 })).items[0]?.via, "g");
    await store.close();
  });

  test(`a schema that a newer build wrote is refused, ${driver}`, async (t) => {
    const place = await makePlace();
    t.after(() => place.remove());
    const first = await createStore(await place.open());
    await first.addSession(sessionRow("kept"));
    await first.addModel(modelRow("kept", 0));
    await first.close();
    const sql = await place.open();
    const version = (await sql.read("SELECT max(version) AS v FROM schema_versions"))[0]?.v;
    assert.equal(version, SCHEMA_VERSION);
    await migrate(sql);
    await sql.write("durable", (query) =>
      query("INSERT INTO schema_versions (version) VALUES ($1)", [SCHEMA_VERSION + 1]),
    );
    await assert.rejects(createStore(sql), (error: unknown) => {
      assert.ok(failsWith("store-version")(error));
      const versions = `schema version ${SCHEMA_VERSION + 1}; this build knows up to ${SCHEMA_VERSION}`;
      assert.ok((error as Error).message.includes(versions));
      return true;
    });
    const again = await place.open();
    await again.write("durable", (query) =>
      query("DELETE FROM schema_versions WHERE version > $1", [SCHEMA_VERSION]),
    );
    const store = await createStore(again);
    t.after(() => store.close());
    assert.deepEqual(await store.model("kept.0"), modelRow("kept", 0));
  });
}

storeContract("memory", async () => {
  const store = memoryStore();
  return { open: async () => store, async remove() {} };
});

test("a power cut takes from the store in memory what was written lazily, and nothing else", async () => {
  const store = memoryStore();
  const fleet = async () => (await store.listGateways({ limit: 9 })).items.map(({ id }) => id);
  await store.saveGateways([gatewayRow("g1")]);
  await store.addSession(sessionRow("kept"));
  await store.saveGateways([gatewayRow("g2")]);
  assert.deepEqual(await fleet(), ["g1", "g2"]);
  store.crash();
  assert.deepEqual(await fleet(), ["g1"]);
  assert.deepEqual(await store.session("kept"), sessionRow("kept"));
});

sqlStore("embedded", embeddedPlace);
const serverUrl = process.env.TRIBUTARY_TEST_PG_URL;
if (serverUrl !== undefined) {
  sqlStore("server", () => serverPlace(serverUrl));

  test("a database in use by another cloud is refused", async (t) => {
    const place = await serverPlace(serverUrl);
    const first = await place.open();
    t.after(async () => {
      await first.close();
      await place.remove();
    });
    await assert.rejects(place.open(), failsWith("store-in-use"));
  });
}

test("a server that is not there is a retryable failure", async () => {
  const dead = "postgres://nobody@127.0.0.1:1/none";
  await assert.rejects(openStore({ dataDir: "unused", url: dead }), (error: unknown) => {
    assert.ok(failsWith("store-unreachable")(error));
    return (error as TributaryError).retryable;
  });
});

test("a directory of another PostgreSQL version is refused before the engine touches it", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-store-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  await mkdir(join(dir, "pg"));
  await writeFile(join(dir, "pg", "PG_VERSION"), `${Number(EMBEDDED_VERSION) + 1}\n`);
  await assert.rejects(openStore({ dataDir: dir }), failsWith("store-version"));
});
