import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { decodePartial } from "@tributary/proto/algebra/frame.js";
import type { Partial } from "@tributary/proto/algebra/partial.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import type { GatewayEvent } from "./events.js";
import { openOutbox } from "./outbox.js";
import { samplePlan } from "./testing/sample.js";
import { createTemporary } from "./testing/temporary.js";

const temporary = createTemporary();
afterEach(() => temporary.close());

const plan = samplePlan({ layout: [{ name: "w", shape: [300_000] }] });

function partialOf(round: string, value: bigint): Partial {
  return {
    site: "plant",
    base: plan.base.model,
    baseDigest: plan.base.digest,
    grid: plan.grid,
    layout: plan.layout,
    weight: 10n,
    contributors: [{ round, device: "dev-a", samples: 10, updates: 1 }],
    metrics: {},
    saturated: 0,
    sum: new BigInt64Array(300_000).fill(value),
  };
}

const record = (round: string) => ({ round, offered: 1, folded: 1, declined: 0 });
const ledger: [string, string][] = [["dev-a", "a".repeat(64)]];

async function bench() {
  const disk = memoryDisk();
  const dir = await temporary.dir();
  const clock = createManualClock(1_000);
  const events: GatewayEvent[] = [];
  const open = async () => {
    const store = await temporary.store(dir);
    return {
      store,
      outbox: await openOutbox(disk, store, { logicalMs: clock.nowMs }, (e) => events.push(e)),
    };
  };
  return { disk, clock, events, open, ...(await open()) };
}

async function readAll(pieces: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const piece of pieces) parts.push(piece);
  return Buffer.concat(parts);
}

describe("the outbox", () => {
  it("keeps Partials over a restart, in order, with their bytes and digest", async () => {
    const { disk, clock, store, outbox, open } = await bench();
    const [one, two] = await Promise.all([
      outbox.add(partialOf("s.1", 7n), record("s.1"), ledger),
      outbox.add(partialOf("s.2", -8n), record("s.2"), ledger),
    ]);
    assert.deepEqual([one.sequence, two.sequence], [1, 2]);
    assert.equal(outbox.count, 2);
    assert.equal(outbox.bytes, one.bytes + two.bytes);
    clock.advance(500);
    assert.equal(outbox.oldestAgeMs(), 500);
    await store.close();
    disk.crash();

    const again = await open();
    assert.deepEqual(again.outbox.first(), one);
    assert.deepEqual(again.outbox.rounds(), ["s.1", "s.2"]);
    const bytes = await readAll(again.outbox.read(one, 0));
    assert.equal(sha256(bytes), one.digest);
    const decoded = decodePartial(bytes);
    assert.ok(decoded.ok && decoded.partial.sum.every((value) => value === 7n));
    const rest = await readAll(again.outbox.read(one, 1_000_001));
    assert.deepEqual(Buffer.from(rest), Buffer.from(bytes.subarray(1_000_001)));

    await again.outbox.remove(one);
    assert.deepEqual(again.outbox.first(), two);
    assert.deepEqual(await disk.list("outbox"), ["0000000000000002.partial"]);
  });

  it("takes away a file that a crash left without its index entry", async () => {
    const { disk, store, open } = await bench();
    await disk.writeFileAtomic("outbox/0000000000000001.partial", [new Uint8Array(5)]);
    await store.close();
    const { outbox } = await open();
    assert.equal(outbox.count, 0);
    assert.deepEqual(await disk.list("outbox"), []);
  });

  it("says when a file is missing, and goes on", async () => {
    const { disk, store, outbox, open, events } = await bench();
    await outbox.add(partialOf("s.1", 7n), record("s.1"), ledger);
    await store.close();
    await disk.remove("outbox/0000000000000001.partial");
    const again = await open();
    assert.equal(again.outbox.count, 0);
    assert.ok(events.some((e) => e.name === "storage-failed" && e.level === "error"));
    const next = await again.outbox.add(partialOf("s.2", 1n), record("s.2"), ledger);
    assert.equal(next.sequence, 2);
  });

  it("makes one entry of a round, whatever failed before", async () => {
    const { disk, outbox, store } = await bench();
    disk.fail("full");
    await assert.rejects(outbox.add(partialOf("s.1", 7n), record("s.1"), ledger));
    assert.equal(outbox.count, 0);
    disk.fail("none");
    const first = await outbox.add(partialOf("s.1", 7n), record("s.1"), ledger);
    const again = await outbox.add(partialOf("s.1", 7n), record("s.1"), ledger);
    assert.deepEqual(again, first);
    assert.equal((await store.outbox()).length, 1);
    assert.equal(outbox.count, 1);
  });
});
