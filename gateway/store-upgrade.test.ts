import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { decodePartial } from "@tributary/proto/algebra/frame.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { nodeDisk } from "@tributary/proto/host/disk.js";
import { Level } from "level";
import type { GatewayEvent } from "./events.js";
import { openOutbox } from "./outbox.js";
import { readPlan } from "./plan-check.js";
import { sampleModel, samplePlan } from "./testing/sample.js";
import { createTemporary } from "./testing/temporary.js";

const temporary = createTemporary();
afterEach(() => temporary.close());

type Fixture = { readonly rows: Record<string, string>; readonly files: Record<string, string> };

/** A data directory as format 1 left it: two sealed rounds, one open. */
async function formerDirectory(): Promise<string> {
  // Beside the sources: compiled, this file is in dist/.
  const file = new URL("../testing/format-1.json", import.meta.url);
  const fixture: Fixture = JSON.parse(await readFile(file, "utf8"));
  const dir = await temporary.dir();
  const level = new Level<string, Uint8Array>(join(dir, "index"), { valueEncoding: "view" });
  for (const [key, text] of Object.entries(fixture.rows)) {
    await level.put(key, Buffer.from(text, "base64"));
  }
  await level.close();
  const disk = nodeDisk(dir);
  for (const [path, text] of Object.entries(fixture.files)) {
    await disk.writeFileAtomic(path, [Buffer.from(text, "base64")]);
  }
  return dir;
}

const now = { logicalMs: () => 1_700_000_005_000 };

describe("a data directory of format 1", () => {
  it("is read: open and sealed rounds, models, and receipts that were given", async () => {
    const store = await temporary.store(await formerDirectory());
    assert.equal(store.incarnation, "inc-of-format-1");
    assert.equal(await store.nextSequence(), 3);
    const [open] = await store.openRounds();
    assert.deepEqual(open?.roster, ["dev-a", "dev-b"]);
    assert.ok(readPlan(open?.plan ?? new Uint8Array(), open?.roster ?? []).ok);
    assert.equal((await store.asks("mnist.3")).get("dev-b"), "declined");
    assert.deepEqual(
      (await store.sealed()).map(({ round }) => round),
      ["mnist.1", "mnist.2"],
    );
    assert.equal(await store.recall("mnist.1", "dev-b"), "b".repeat(64));
    const [model] = await store.models();
    assert.equal(model?.manifest.digest, sha256(sampleModel));
    assert.equal((await store.published()).length, 1);
  });

  it("keeps its outbox as it was: identity, digest and bytes, whatever waits beside it", async () => {
    const dir = await formerDirectory();
    const disk = nodeDisk(dir);
    const before = await Promise.all(
      [1, 2].map((n) => disk.readFile(`outbox/000000000000000${n}.partial`)),
    );
    const plan = samplePlan({ layout: [{ name: "w", shape: [10] }] });
    const first = await temporary.store(dir);
    const outbox = await openOutbox(disk, first, now, () => {});
    assert.deepEqual(
      outbox.entries().map(({ opened }) => opened),
      [true, true],
    );
    const record = { round: "mnist.3", offered: 2, folded: 1, declined: 1 };
    const decoded = decodePartial(before[0] as Uint8Array);
    assert.ok(decoded.ok);
    const contributors = [{ round: "mnist.3", device: "dev-a", samples: 17, updates: 1 }];
    await outbox.add({ ...decoded.partial, contributors }, record, [], plan);
    await first.close();

    const store = await temporary.store(dir);
    const again = await openOutbox(disk, store, now, () => {});
    assert.equal(again.oldestAgeMs(), 5_000);
    for (const [i, bytes] of before.entries()) {
      const entry = await again.next();
      assert.ok(entry !== undefined);
      assert.deepEqual([entry.sequence, entry.rounds], [i + 1, [`mnist.${i + 1}`]]);
      assert.equal(entry.digest, sha256(bytes));
      const sent: Uint8Array[] = [];
      for await (const piece of again.read(entry, 0)) sent.push(piece);
      assert.deepEqual(Buffer.concat(sent), Buffer.from(bytes));
      await again.remove(entry);
    }
    assert.deepEqual((await again.next())?.rounds, ["mnist.3"]);
    assert.deepEqual(await store.formerOutbox(), []);
  });

  it("is taken over where it is damaged, too, and says so", async () => {
    const dir = await formerDirectory();
    const disk = nodeDisk(dir);
    await disk.writeFileAtomic("outbox/0000000000000001.partial", [new Uint8Array(4)]);
    const store = await temporary.store(dir);
    const events: GatewayEvent[] = [];
    const outbox = await openOutbox(disk, store, now, (event) => events.push(event));
    assert.deepEqual(
      outbox.entries().map(({ sequence }) => sequence),
      [2],
    );
    assert.ok(events.some((event) => event.name === "partial-damaged" && event.sequence === 1));
    assert.deepEqual(
      (await store.expiries()).map(({ rounds, rule }) => [rounds, rule]),
      [[["mnist.1"], "partial-damaged"]],
    );
    assert.deepEqual(await disk.list("outbox"), ["0000000000000002.partial"]);
  });

  it("is no longer opened by what reads format 1 only", async () => {
    const dir = await formerDirectory();
    await (await temporary.store(dir)).close();
    const level = new Level<string, Uint8Array>(join(dir, "index"), { valueEncoding: "view" });
    assert.deepEqual([...((await level.get("meta!format")) ?? [])], [2]);
    await level.close();
  });
});
