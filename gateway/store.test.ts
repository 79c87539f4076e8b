import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { storeContract } from "./store.contract.js";
import { levelDatabase } from "./store-table.js";
import { memoryIndex, openMemoryStore } from "./testing/memory-store.js";
import { createTemporary } from "./testing/temporary.js";

const temporary = createTemporary();
afterEach(() => temporary.close());

describe("the store", () => {
  storeContract("LevelDB", async () => {
    const dir = await temporary.dir();
    return {
      store: (ledgerRounds) => temporary.store(dir, ledgerRounds),
      async database() {
        const database = levelDatabase(join(dir, "index"));
        await database.open();
        return database;
      },
    };
  });

  storeContract("an index in memory", async () => {
    const index = memoryIndex();
    let names = 0;
    return {
      store: (ledgerRounds = 64) =>
        openMemoryStore(index, {
          newIncarnation: () => `inc-${++names}`,
          ledgerRounds,
          receivedPartials: 3,
          expiries: 3,
        }),
      async database() {
        const database = index.database("");
        await database.open();
        return database;
      },
    };
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
});
