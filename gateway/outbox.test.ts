import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { decodePartial } from "@tributary/proto/algebra/frame.js";
import { merge, type Partial } from "@tributary/proto/algebra/partial.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import fc from "fast-check";
import type { GatewayEvent } from "./events.js";
import { limits } from "./limits.js";
import { openOutbox } from "./outbox.js";
import { type Database, type OutboxRecord, openStore } from "./store.js";
import { type MemoryIndex, memoryIndex } from "./testing/memory-store.js";
import { samplePlan } from "./testing/sample.js";
import { createTemporary } from "./testing/temporary.js";
import { until } from "./testing/wait.js";

const temporary = createTemporary();
afterEach(() => temporary.close());

const plan = samplePlan({ layout: [{ name: "w", shape: [300_000] }] });

type Of = {
  device?: string;
  site?: string;
  base?: string;
  evaluation?: boolean;
  samples?: number;
  coordinates?: number;
};

function partialOf(round: string, value: bigint, of: Of = {}): Partial {
  const { device = "dev-a", site = "plant", base = plan.base.model, samples = 10 } = of;
  const coordinates = of.evaluation ? 0 : (of.coordinates ?? 300_000);
  return {
    site,
    base,
    baseDigest: plan.base.digest,
    grid: plan.grid,
    layout: [{ name: "w", shape: [of.coordinates ?? 300_000] }],
    weight: BigInt(samples),
    contributors: [{ round, device, samples, updates: 1 }],
    metrics: {},
    saturated: 0,
    sum: new BigInt64Array(coordinates).fill(value),
  };
}
const small = (round: string, value: bigint, of: Of = {}) =>
  partialOf(round, value, { coordinates: 10, ...of });

const record = (round: string) => ({ round, offered: 1, folded: 1, declined: 0 });
const ledger: [string, string][] = [["dev-a", "a".repeat(64)]];
const forwarding = { totalMax: 1_000_000, perSite: false };
const digestOf = (name: string) => sha256(name);
const storeOn = (database: (path: string) => Database) => {
  const bounds = { ledgerRounds: 64, receivedPartials: 64, expiries: 64 };
  return openStore({ path: "memory", newIncarnation: () => "inc", ...bounds, database });
};

async function bench() {
  const disk = memoryDisk();
  const clock = createManualClock(1_000);
  const events: GatewayEvent[] = [];
  const dir = await temporary.dir();
  /** @param lostMs of the site's time, in a kill */
  const open = async (lostMs = 0) => {
    const store = await temporary.store(dir);
    const note = (event: GatewayEvent) => void events.push(event);
    const time = { logicalMs: () => clock.nowMs() - lostMs };
    const outbox = await openOutbox(disk, store, time, note);
    const add = (partial: Partial, changes: object = {}) => {
      const round = partial.contributors[0]?.round ?? "";
      return outbox.add(partial, record(round), ledger, { ...forwarding, ...changes });
    };
    return { store, outbox, add };
  };
  return { disk, clock, events, open, ...(await open()) };
}
type Bench = Awaited<ReturnType<typeof bench>>;

async function readAll(pieces: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const piece of pieces) parts.push(piece);
  return Buffer.concat(parts);
}

async function partialIn(outbox: Bench["outbox"], entry: OutboxRecord): Promise<Partial> {
  const bytes = await readAll(outbox.read(entry, 0));
  assert.equal(sha256(bytes), entry.digest);
  assert.equal(bytes.length, entry.bytes);
  const decoded = decodePartial(bytes);
  assert.ok(decoded.ok);
  return decoded.partial;
}

/** The disk and the index as one process sees them: `write` is asked before each of its writes. */
function seenBy(disk: Disk, index: MemoryIndex, write: () => void) {
  const asked = async () => write();
  return {
    disk: {
      ...disk,
      writeFileAtomic: (...all) => asked().then(() => disk.writeFileAtomic(...all)),
      remove: (path) => asked().then(() => disk.remove(path)),
    } satisfies Disk,
    database: (path: string): Database => {
      const database = index.database(path);
      return { ...database, batch: (...all) => asked().then(() => database.batch(...all)) };
    },
  };
}
const killed = () => {
  throw new Error("the process was killed");
};

/** Everything that can be shipped, in order. */
async function shipAll({ outbox }: Pick<Bench, "outbox">): Promise<Partial[]> {
  const shipped: Partial[] = [];
  for (let entry = await outbox.next(); entry !== undefined; entry = await outbox.next()) {
    shipped.push(await partialIn(outbox, entry));
    await outbox.remove(entry);
  }
  return shipped;
}

const contributions = (partials: readonly Partial[]) =>
  partials.map((p) => p.contributors.map(({ round, device }) => `${round}/${device}`));

describe("the outbox", () => {
  it("keeps Partials over a restart, in order, with their bytes and digest", async () => {
    const { disk, clock, store, outbox, add, open } = await bench();
    const other = { base: "mnist.7" };
    const [one, two] = await Promise.all([
      add(partialOf("s.1", 7n)),
      add(partialOf("s.2", -8n, other)),
    ]);
    assert.deepEqual([one.sequence, two.sequence], [1, 2]);
    assert.equal(outbox.count, 2);
    assert.equal(outbox.bytes, one.bytes + two.bytes);
    clock.advance(500);
    assert.equal(outbox.oldestAgeMs(), 500);
    await store.close();
    disk.crash();

    const again = await open();
    assert.deepEqual(again.outbox.entries(), [one, two]);
    assert.deepEqual(again.outbox.rounds(), ["s.1", "s.2"]);
    const bytes = await readAll(again.outbox.read(one, 0));
    assert.equal(sha256(bytes), one.digest);
    const rest = await readAll(again.outbox.read(one, 1_000_001));
    assert.deepEqual(Buffer.from(rest), Buffer.from(bytes.subarray(1_000_001)));

    assert.deepEqual(await again.outbox.next(), { ...one, opened: true });
    await again.outbox.remove(one);
    assert.deepEqual(await again.outbox.next(), { ...two, opened: true });
    assert.deepEqual(await disk.list("outbox"), ["0000000000000002.partial"]);
  });

  it("takes none that was there at the start for younger than that", async () => {
    const { clock, store, add, open } = await bench();
    clock.advance(60_000);
    await add(partialOf("s.1", 7n));
    await add(partialOf("s.2", -8n, { base: "mnist.7" }));
    await store.close();
    const again = await open(60_000);
    assert.equal(again.outbox.oldestAgeMs(), 0);
    clock.advance(8_000);
    assert.equal(again.outbox.oldestAgeMs(), 8_000);
    const sequences = again.outbox.entries().map(({ sequence }) => sequence);
    assert.deepEqual(sequences, [1, 2]);
  });

  it("takes away a file that a crash left without its index entry", async () => {
    const { disk, store, open } = await bench();
    await disk.writeFileAtomic("outbox/0000000000000001.partial", [new Uint8Array(5)]);
    await store.close();
    const { outbox } = await open();
    assert.equal(outbox.count, 0);
    assert.deepEqual(await disk.list("outbox"), []);
  });

  it("takes away what it could not remove once it can, without a restart", async () => {
    const { disk, outbox, add } = await bench();
    await add(small("s.1", 1n));
    await add(small("s.2", 1n));
    const { remove } = disk;
    const readOnly = () => Promise.reject(new Error("read-only file system"));
    disk.remove = readOnly;
    const merged = await outbox.next();
    assert.deepEqual(merged?.rounds, ["s.1", "s.2"]);
    assert.equal((await disk.list("outbox")).length, 3);
    disk.remove = remove;
    await outbox.sweep();
    assert.deepEqual(await disk.list("outbox"), ["0000000000000003.partial"]);

    disk.remove = readOnly;
    await outbox.remove(merged);
    assert.equal(outbox.count, 0);
    await outbox.sweep();
    disk.remove = remove;
    await add(small("s.3", 1n));
    await shipAll({ outbox });
    assert.deepEqual(await disk.list("outbox"), []);
  });

  it("keeps a file whose number was one that could not be removed", async () => {
    const { disk, outbox, add } = await bench();
    const { remove } = disk;
    await add(small("s.1", 7n));
    disk.remove = () => Promise.reject(new Error("read-only file system"));
    // Its file is written under the next number before it turns out to be there already.
    await add(small("s.1", 7n));
    const second = await add(small("s.2", 1n));
    disk.remove = remove;
    await outbox.sweep();
    assert.equal(second.sequence, 2);
    assert.deepEqual(contributions(await shipAll({ outbox })), [["s.1/dev-a", "s.2/dev-a"]]);
  });

  it("says when a file is missing, keeps that on record, and goes on", async () => {
    const { disk, store, add, open, events } = await bench();
    await add(small("s.1", 7n));
    await store.close();
    await disk.remove("outbox/0000000000000001.partial");
    const again = await open();
    assert.equal(again.outbox.count, 0);
    assert.ok(events.some((e) => e.name === "partial-damaged" && e.sequence === 1));
    const [expiry] = await again.store.expiries();
    assert.deepEqual([expiry?.rule, expiry?.rounds], ["partial-damaged", ["s.1"]]);
    assert.equal((await again.add(small("s.2", 1n))).sequence, 2);
  });

  it("makes one entry of a round, whatever failed before", async () => {
    const { disk, outbox, add, store } = await bench();
    disk.fail("full");
    await assert.rejects(add(small("s.1", 7n)));
    assert.equal(outbox.count, 0);
    disk.fail("none");
    const first = await add(small("s.1", 7n));
    const again = await add(small("s.1", 7n));
    assert.deepEqual(again, first);
    assert.equal((await store.outbox()).length, 1);
    assert.equal(outbox.count, 1);
    assert.deepEqual(await store.sealed(), [{ ...record("s.1"), order: 1 }]);
  });

  it("never sends a damaged Partial, nor adds it to another", async () => {
    const { disk, outbox, add, events, store } = await bench();
    await add(small("s.1", 7n));
    await add(small("s.2", 1n));
    const broken = await add(small("s.3", 5n, { base: "mnist.7" }));
    for (const sequence of [1, broken.sequence]) {
      disk.flip(`outbox/${String(sequence).padStart(16, "0")}.partial`, 8 * (broken.bytes - 8));
    }
    assert.deepEqual(contributions(await shipAll({ outbox })), [["s.2/dev-a"]]);
    assert.equal(events.filter((e) => e.name === "partial-damaged").length, 2);
    assert.deepEqual(
      (await store.expiries()).map(({ sequence, rule }) => [sequence, rule]),
      [
        [1, "partial-damaged"],
        [broken.sequence, "partial-damaged"],
      ],
    );
  });

  it("keeps on record what the upstream refused, contribution by contribution", async () => {
    const { outbox, add, store, disk } = await bench();
    await add(small("s.1", 7n, { device: "dev-b" }));
    const entry = await outbox.next();
    assert.ok(entry !== undefined);
    await outbox.expire(entry, "not-in-roster", "dev-b");
    assert.equal(outbox.count, 0);
    assert.deepEqual(await disk.list("outbox"), []);
    const [expiry] = await store.expiries();
    assert.deepEqual(expiry?.contributors, ["s.1/dev-b"]);
    assert.equal(expiry?.rule, "not-in-roster");
  });
});

describe("merging in the outbox", () => {
  it("sums what is on one base into one Partial, exactly, before it is sent", async () => {
    const { outbox, add, disk, clock } = await bench();
    await add(small("s.1", 7n, { device: "dev-b" }));
    clock.advance(100);
    await add(small("s.2", -20n, { device: "dev-a" }));
    const entry = await outbox.next();
    assert.ok(entry !== undefined);
    assert.deepEqual(
      [entry.sequence, entry.rounds, entry.opened, entry.sealedAtMs],
      [3, ["s.1", "s.2"], true, 1_000],
    );
    const partial = await partialIn(outbox, entry);
    assert.ok(partial.sum.every((value) => value === -13n));
    assert.equal(partial.weight, 20n);
    assert.equal(partial.site, "plant");
    assert.deepEqual(contributions([partial]), [["s.1/dev-b", "s.2/dev-a"]]);
    assert.deepEqual(await disk.list("outbox"), ["0000000000000003.partial"]);
  });

  it("leaves an entry alone from the moment that it is handed out, over a restart too", async () => {
    const { outbox, add, store, open } = await bench();
    const first = await add(small("s.1", 7n));
    const opened = await outbox.next();
    assert.deepEqual(opened, { ...first, opened: true });
    await add(small("s.2", 1n));
    assert.deepEqual(await outbox.next(), opened);
    await store.close();
    const again = await open();
    for (let n = 3; n <= 9; n++) await again.add(small(`s.${n}`, 1n));
    assert.deepEqual(await again.outbox.next(), opened);
    assert.equal((await partialIn(again.outbox, first)).weight, 10n);
  });

  it("keeps apart other bases, other sessions, other grids, evaluation and what NMax forbids", async () => {
    const { outbox, add, events } = await bench();
    await add(small("s.1", 1n));
    await add(small("s.2", 1n, { base: "mnist.7" }));
    await add(small("t.1", 1n));
    await add({ ...small("s.3", 1n), grid: { ...plan.grid, range: 2 } });
    await add(small("s.4", 1n, { evaluation: true }));
    await add(small("s.5", 1n, { evaluation: true }));
    await add(small("s.6", 1n, { samples: 90 }), { totalMax: 99 });
    await add(small("s.7", 1n));
    const shipped = await shipAll({ outbox });
    assert.deepEqual(
      shipped.map((p) => [...new Set(p.contributors.map((c) => c.round))]),
      [["s.1", "s.7"], ["s.2"], ["t.1"], ["s.3"], ["s.4", "s.5"], ["s.6"]],
    );
    assert.ok(!events.some((e) => e.name === "merge-failed"), "the index told all of it");
  });

  it("merges sites only where the plan lets it", async () => {
    const { outbox, add } = await bench();
    const perSite = { perSite: true };
    await add(small("s.1", 1n, { site: "a" }), perSite);
    await add(small("s.2", 1n, { site: "b" }), perSite);
    await add(small("s.3", 1n, { site: "a" }), perSite);
    await add(small("s.4", 1n, { site: "a", base: "mnist.7" }));
    await add(small("s.5", 1n, { site: "b", base: "mnist.7" }));
    const shipped = await shipAll({ outbox });
    assert.deepEqual(contributions(shipped), [
      ["s.1/dev-a", "s.3/dev-a"],
      ["s.2/dev-a"],
      ["s.4/dev-a", "s.5/dev-a"],
    ]);
    assert.deepEqual(
      shipped.map((p) => p.site),
      ["a", "b", null],
    );
  });

  it("sends apart what overlaps, for the upstream to judge", async () => {
    const { outbox, add, events } = await bench();
    await add(small("s.1", 1n));
    await add(small("s.1", 2n));
    await add(small("s.2", 3n));
    const shipped = await shipAll({ outbox });
    assert.deepEqual(contributions(shipped), [["s.1/dev-a", "s.2/dev-a"], ["s.1/dev-a"]]);
    assert.equal(events.filter((e) => e.name === "merge-failed").length, 1);
  });

  it("comes to an end where nothing merges", async () => {
    const { outbox, add } = await bench();
    for (let n = 1; n <= 6; n++) await add(small("s.1", BigInt(n)));
    await outbox.close();
    assert.equal(outbox.count, 6);
  });

  it("happens while nothing is sent, so that a week offline is one upload and bounded writes", async () => {
    const { outbox, add, disk, events } = await bench();
    const rounds = 40;
    const coordinates = 50_000;
    let written = 0;
    const { writeFileAtomic } = disk;
    disk.writeFileAtomic = async (path, parts) => {
      written += parts.reduce((sum, part) => sum + part.length, 0);
      return writeFileAtomic(path, parts);
    };
    for (let n = 1; n <= rounds; n++) await add(small(`s.${n}`, 1n, { coordinates }));
    await outbox.close();
    assert.ok(outbox.count < limits.mergeWaiting, `${outbox.count} entries wait`);
    const once = rounds * coordinates * 8;
    assert.ok(written < 1.5 * once, `${written} bytes written for ${once}`);
    assert.ok(events.filter((e) => e.name === "partials-merged").length >= 12);
    const [only, ...others] = await shipAll({ outbox });
    assert.equal(others.length, 0);
    assert.equal(only?.contributors.length, rounds);
    assert.ok(only?.sum.every((value) => value === BigInt(rounds)));
  });

  it("gives a flat sum, whatever comes, waits, is sent and crashes in between", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom("add", "receive", "next", "remove", "crash", "condense"), {
          minLength: 1,
          maxLength: 25,
        }),
        fc.integer({ min: 1, max: 1_000_000 }),
        async (steps, seed) => {
          const random = seededRandom(seed);
          const disk = memoryDisk({ random });
          const index = memoryIndex();
          const names = { next: 0 };
          const delivered: Partial[] = [];
          let flat: Partial | undefined;
          let lives = 0;
          const open = async () => {
            const born = ++lives;
            const seen = seenBy(disk, index, () => born === lives || killed());
            const store = await storeOn(seen.database);
            return {
              store,
              outbox: await openOutbox(seen.disk, store, { logicalMs: () => 5 }, () => {}),
            };
          };
          let life = await open();
          for (const step of steps) {
            const name = ++names.next;
            const partial = small(`s.${name}`, BigInt(name * 3 - 40));
            if (step === "add" || step === "receive") {
              if (step === "add") {
                await life.outbox.add(partial, record(`s.${name}`), ledger, forwarding);
              } else {
                const origin = { gateway: "gw-b", incarnation: "i", sequence: name };
                await life.outbox.receive(partial, origin, digestOf(`${name}`), forwarding);
              }
              const both = flat && merge(flat, partial, 10_000n);
              flat = both === undefined ? partial : both.ok ? both.partial : assert.fail();
            } else if (step === "next") await life.outbox.next();
            else if (step === "condense") await life.outbox.condense();
            else if (step === "remove") {
              const entry = await life.outbox.next();
              if (entry !== undefined) {
                delivered.push(await partialIn(life.outbox, entry));
                await life.outbox.remove(entry);
              }
            } else {
              lives++;
              disk.crash();
              index.crash(random.next());
              life = await open();
            }
          }
          delivered.push(...(await shipAll(life)));
          const [first, ...rest] = delivered;
          let sum = first;
          for (const more of rest) {
            const both = merge(sum as Partial, more, 10_000n);
            assert.ok(both.ok, "a contribution was delivered twice");
            sum = both.partial;
          }
          assert.deepEqual(sum, flat);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("is done again after a crash at any write of it, and never done twice", async () => {
    const whole = ["s.1/dev-a", "s.2/dev-a", "s.3/dev-a"];
    let survived = false;
    for (let writes = 0; !survived; writes++) {
      const disk = memoryDisk();
      const index = memoryIndex();
      let left = Number.POSITIVE_INFINITY;
      const seen = seenBy(disk, index, () => left-- > 0 || killed());
      const open = async (on: Pick<typeof seen, "disk" | "database">) =>
        openOutbox(on.disk, await storeOn(on.database), { logicalMs: () => 5 }, () => {});
      const outbox = await open(seen);
      for (let n = 1; n <= 3; n++) {
        await outbox.add(small(`s.${n}`, 1n), record(`s.${n}`), ledger, forwarding);
      }
      left = writes;
      await outbox.next().catch(() => {});
      survived = left > 0;
      const again = await open({ disk, database: index.database });
      assert.deepEqual(contributions(await shipAll({ outbox: again })), [whole], `at ${writes}`);
    }
  });
});

describe("a write of the index that fails", () => {
  /** An outbox whose index takes the next writes and reports a failure all the same. */
  async function lying() {
    const disk = memoryDisk();
    const index = memoryIndex();
    const lie = { next: false };
    const database = (path: string): Database => {
      const honest = index.database(path);
      return {
        ...honest,
        async batch(...all) {
          await honest.batch(...all);
          if (lie.next) throw new Error("the disk is full");
        },
      };
    };
    const store = await storeOn(database);
    const outbox = await openOutbox(disk, store, { logicalMs: () => 5 }, () => {});
    const add = (n: number) =>
      outbox.add(small(`s.${n}`, 1n), record(`s.${n}`), ledger, forwarding);
    const failing = async (work: () => Promise<unknown>) => {
      lie.next = true;
      await assert.rejects(work());
      lie.next = false;
    };
    return { outbox, store, add, failing, files: () => disk.list("outbox") };
  }

  it("and is there all the same makes one entry of a round", async () => {
    const { outbox, add, failing } = await lying();
    await failing(() => add(1));
    assert.equal((await add(1)).sequence, 1);
    await add(2);
    assert.deepEqual(contributions(await shipAll({ outbox })), [["s.1/dev-a", "s.2/dev-a"]]);
  });

  it("and is there all the same merges once", async () => {
    const { outbox, store, add, failing, files } = await lying();
    await add(1);
    await add(2);
    await failing(() => outbox.next());
    const entry = await outbox.next();
    assert.deepEqual([entry?.sequence, outbox.count], [3, 1]);
    assert.deepEqual(await files(), ["0000000000000003.partial"]);
    assert.deepEqual(await store.outbox(), [entry]);
  });

  it("and is there all the same removes once", async () => {
    const { outbox, add, failing, files } = await lying();
    await add(1);
    const entry = (await outbox.next()) as OutboxRecord;
    await failing(() => outbox.remove(entry));
    assert.equal(await outbox.next(), undefined);
    assert.equal(outbox.count, 0);
    assert.deepEqual(await files(), []);
  });
});

describe("what is held", () => {
  it("waits for its round, merges with its like, and goes when it is released", async () => {
    const { outbox, add, open, store } = await bench();
    const held = { held: "s.1" };
    for (const device of ["dev-a", "dev-b", "dev-c", "dev-d"]) {
      await add(small("s.1", 1n, { device }), held);
    }
    await add(small("s.2", 1n));
    await until("they are merged", () => outbox.count === 2);
    assert.deepEqual(contributions(await shipAll({ outbox })), [["s.2/dev-a"]]);
    await outbox.release("s.9");
    assert.equal(await outbox.next(), undefined);
    await store.close();
    const again = await open();
    assert.equal(await again.outbox.next(), undefined);
    await again.outbox.release("s.1");
    await again.add(small("s.1", 1n, { device: "dev-e" }));
    const shipped = await shipAll(again);
    assert.equal(shipped.length, 1);
    assert.equal(shipped[0]?.contributors.length, 5);
  });
});

describe("a Partial from a gateway below", () => {
  it("is known again under its identity, after it was merged, sent and receipted", async () => {
    const { outbox, store, open } = await bench();
    const origin = { gateway: "gw-b", incarnation: "i", sequence: 4 };
    await outbox.receive(small("s.1", 1n, { site: "b" }), origin, digestOf("x"), forwarding);
    await outbox.receive(
      small("s.1", 1n, { site: "b", device: "dev-b" }),
      { ...origin, sequence: 5 },
      digestOf("y"),
      forwarding,
    );
    assert.equal((await shipAll({ outbox })).length, 1);
    await store.close();
    const again = await open();
    assert.equal(await again.store.received(origin), digestOf("x"));
    assert.equal(await again.store.received({ ...origin, sequence: 5 }), digestOf("y"));
    assert.equal(await again.store.received({ ...origin, incarnation: "j" }), undefined);
  });
});
