import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  addSiteRound,
  beginStretch,
  composeSite,
  type SiteWork,
} from "@tributary/gateway/site-model.js";
import { createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import { merge, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import {
  type Audit,
  type Contribution,
  checkContributions,
  checkSums,
  exactSum,
  type GroupClaim,
  type ModelClaim,
  nearestDouble,
  readAudit,
  type Sent,
  sumDigest,
} from "./oracle.js";

const f = 20;

function sent(device: string, samples: number, values: readonly number[], round = "s.1"): Sent {
  return {
    round,
    device,
    gateway: "gw",
    samples,
    fractionBits: [f, f],
    lengths: [1, values.length - 1],
    encoding: "f32",
    digest: "",
    values: Buffer.from(Float32Array.from(values).buffer).toString("base64"),
  };
}

/** All of it receipted. */
function auditOf(updates: readonly Sent[]): Audit {
  const rounds = new Map<string, Map<string, Sent>>();
  for (const update of updates) {
    const devices = rounds.get(update.round) ?? new Map<string, Sent>();
    rounds.set(update.round, devices.set(update.device, update));
  }
  return {
    sent: rounds,
    receipted: new Set(updates.map(({ round, device }) => `${round} ${device}`)),
  };
}

function contribution(device: string, samples: number, round = "s.1", updates = 1): Contribution {
  return { round, device, gateway: "gw", samples, updates };
}

function groupOf(sum: readonly bigint[], contributors: readonly Contribution[]): GroupClaim {
  const weight = contributors.reduce((total, { samples }) => total + samples, 0);
  return {
    age: 0,
    coefficient: 1,
    sumDigest: sumDigest(sum),
    weight: String(weight),
    range: 8,
    contributors,
  };
}

function modelOf(sum: readonly bigint[], group: GroupClaim): ModelClaim {
  return { model: "s.1", sumDigest: sumDigest(sum), groups: [group] };
}

const a = sent("a", 3, [0.5, -0.25, 2 ** -f]);
const b = sent("b", 5, [-1, 0, 7]);
const audit = auditOf([a, b]);
const sum = [3n * 2n ** 19n - 5n * 2n ** 20n, -3n * 2n ** 18n, 3n + 35n * 2n ** 20n];
const both = [contribution("a", 3), contribution("b", 5)];
const claim = modelOf(sum, groupOf(sum, both));

test("the sum is the hand-made one", () => {
  assert.deepEqual(exactSum([a, b]), sum);
  assert.deepEqual(checkSums(audit, [claim]), []);
});

test("a sum that is one grid point off is found", () => {
  const off = [sum[0] ?? 0n, sum[1] ?? 0n, (sum[2] ?? 0n) + 1n];
  assert.deepEqual(checkSums(audit, [modelOf(off, groupOf(off, both))]), ["s.1"]);
  assert.deepEqual(checkSums(audit, [{ ...claim, sumDigest: sumDigest(off) }]), ["s.1"]);
});

test("a wrong weight, sample count, unknown or doubled contributor is found", () => {
  const isRefused = (changes: Partial<GroupClaim>) =>
    assert.deepEqual(
      checkSums(audit, [modelOf(sum, { ...groupOf(sum, both), ...changes })]),
      ["s.1"],
      JSON.stringify(changes),
    );
  isRefused({ weight: "9" });
  isRefused({ contributors: [contribution("a", 4), contribution("b", 5)] });
  isRefused({ contributors: [...both, contribution("c", 1)] });
  isRefused({ contributors: [...both, contribution("a", 3)] });
  isRefused({ contributors: [contribution("a", 3, "s.1", 2), contribution("b", 5)] });
  isRefused({ contributors: [] });
  assert.deepEqual(checkSums(audit, [{ ...claim, groups: [] }]), ["s.1"]);
});

test("late contributions are a sum of their own, discounted by their age, the oldest first", () => {
  const late = sent("c", 2, [1, 1, 1], "s.0");
  const three = auditOf([a, b, late]);
  const lateSum = [2n << 20n, 2n << 20n, 2n << 20n];
  const old = {
    ...groupOf(lateSum, [contribution("c", 2, "s.0")]),
    age: 3,
    coefficient: 2 / 2 / 10,
  };
  const young = { ...groupOf(sum, both), coefficient: 8 / 10 };
  const groups = [old, young];
  const model = { model: "s.1", sumDigest: sumDigest([...lateSum, ...sum]), groups };
  assert.deepEqual(checkSums(three, [model]), []);
  const undiscounted = [{ ...old, coefficient: 2 / 10 }, young];
  assert.deepEqual(checkSums(three, [{ ...model, groups: undiscounted }]), ["s.1"]);
  const swapped = {
    ...model,
    sumDigest: sumDigest([...sum, ...lateSum]),
    groups: groups.toReversed(),
  };
  assert.deepEqual(checkSums(three, [swapped]), ["s.1"]);
});

test("site rounds are composed: means added, put on the grid, weighted by the newest samples", () => {
  const u = 2 ** -f;
  // Means of 1, 1 and 7 / 3 grid points, then of 2, 1.5 and 1: D = 3, 2.5 and 10 / 3 of them.
  const rounds = auditOf([
    sent("a", 2, [u, u, u], "s.1.1"),
    sent("b", 1, [u, u, 5 * u], "s.1.1"),
    sent("a", 4, [2 * u, 1.5 * 2 * u, u], "s.1.3"),
    sent("b", 4, [2 * u, 0, u], "s.1.3"),
    { ...sent("x", 9, [1, 1, 1], "s.1.2"), gateway: "other" },
  ]);
  const contributors = [contribution("a", 4, "s.1", 2), contribution("b", 4, "s.1", 2)];
  const composed = [24n, 16n, 24n];
  assert.deepEqual(checkSums(rounds, [modelOf(composed, groupOf(composed, contributors))]), []);
  const uneven = [24n, 24n, 24n];
  assert.deepEqual(checkSums(rounds, [modelOf(uneven, groupOf(uneven, contributors))]), ["s.1"]);
  const fewer = [contribution("a", 4, "s.1", 1), contribution("b", 4, "s.1", 2)];
  assert.deepEqual(checkSums(rounds, [modelOf(composed, groupOf(composed, fewer))]), ["s.1"]);
  const older = [contribution("a", 2, "s.1", 2), contribution("b", 4, "s.1", 2)];
  assert.deepEqual(checkSums(rounds, [modelOf(composed, groupOf(composed, older))]), ["s.1"]);
});

test("one site round is its exact sum", () => {
  const one = auditOf([
    { ...a, round: "s.1.1" },
    { ...b, round: "s.1.1" },
  ]);
  assert.deepEqual(checkSums(one, [claim]), []);
});

test("the oracle and the gateway compose the same bits, at the range's end too", () => {
  const random = seededRandom("site rounds");
  const kernel = loadKernel();
  const layout = [
    { name: "x", shape: [1] },
    { name: "y", shape: [30] },
  ];
  const grid = { fractionBits: [f, f], range: 1.5 };
  const subject = { site: "hall", base: "s.0", baseDigest: "0".repeat(64) };
  for (let turn = 0; turn < 20; turn++) {
    const updates: Sent[] = [];
    const parts: Sum[] = [];
    const last = 2 + (turn % 6);
    let work: SiteWork | undefined;
    let stretch = 0;
    for (let k = 1; k <= last; k++) {
      const accumulator = createAccumulator(kernel, layout, grid, 10n ** 9n, {
        ...subject,
        round: stretch === 0 ? "s.1" : `s.1.${stretch}`,
      });
      for (const device of ["a", "b", "c"].slice(0, 1 + Math.floor(random.next() * 3))) {
        const values = Array.from(
          { length: 31 },
          () => Math.round((random.next() - 0.5) * 3 * 2 ** f) / 2 ** f,
        );
        const update = sent(device, 1 + Math.floor(random.next() * 999), values, `s.1.${k}`);
        const bytes = new Uint8Array(Buffer.from(update.values, "base64"));
        assert.ok(accumulator.add(bytes, "f32", update, {}, 0).ok);
        updates.push(update);
      }
      work = addSiteRound(work, accumulator.snapshot());
      accumulator.release();
      // Handed over, and a further stretch begins.
      if (k < last && random.next() < 0.7) continue;
      parts.push(composeSite(work, { ...subject, grid, layout }));
      work = beginStretch(work.delta);
      stretch = k + 1;
    }
    const [first, ...rest] = parts as [Sum, ...Sum[]];
    const whole = rest.reduce((sum, part) => {
      const merged = merge(sum, part, 10n ** 9n);
      assert.ok(merged.ok);
      return merged.partial;
    }, first);
    const contributors = whole.contributors.map((row) => {
      const { site = 0 } = splitNumberedId(row.round) ?? {};
      return { ...row, round: "s.1", stretch: site, gateway: "gw" };
    });
    const group = { ...groupOf([...whole.sum], contributors), range: grid.range };
    assert.equal(group.weight, String(whole.weight));
    assert.deepEqual(checkSums(auditOf(updates), [modelOf([...whole.sum], group)]), []);
    // What ended elsewhere is left out all the same.
    if (rest.length === 0) continue;
    const own = contributors.filter((row) => row.stretch === 0);
    const alone = { ...groupOf([...first.sum], own), range: grid.range };
    const model = modelOf([...first.sum], alone);
    const outside = contributors.filter((row) => row.stretch > 0);
    assert.deepEqual(checkSums(auditOf(updates), [model], outside), []);
    assert.deepEqual(checkSums(auditOf(updates), [model]), ["s.1"]);
  }
});

test("the nearest double of a quotient, ties to even", () => {
  assert.equal(nearestDouble(1n, 3n), 1 / 3);
  assert.equal(nearestDouble(-7n, 8n), -0.875);
  assert.equal(nearestDouble(0n, 5n), 0);
  assert.equal(nearestDouble(2n ** 54n + 2n, 2n), 2 ** 53);
  assert.equal(nearestDouble(2n ** 54n + 6n, 2n), 2 ** 53 + 4);
  assert.equal(nearestDouble(2n ** 55n + 5n, 4n), 2 ** 53 + 2);
});

test("integers on the wire are grid points themselves", () => {
  const i16: Sent = {
    ...a,
    encoding: "i16",
    lengths: [2],
    fractionBits: [4],
    values: Buffer.from(Int16Array.of(-7, 9).buffer).toString("base64"),
  };
  const i32: Sent = {
    ...a,
    encoding: "i32",
    lengths: [2],
    fractionBits: [4],
    values: Buffer.from(Int32Array.of(-70_000, 9).buffer).toString("base64"),
  };
  assert.deepEqual(exactSum([i16]), [-21n, 27n]);
  assert.deepEqual(exactSum([i32]), [-210_000n, 27n]);
});

test("missing and doubled contributions are named", () => {
  const once = { round: "s.1", device: "a", updates: 1, outcome: "model" };
  const other = { ...once, device: "b" };
  assert.deepEqual(checkContributions(audit, [once, other]), { missing: [], doubled: [] });
  assert.deepEqual(checkContributions(audit, [once]), { missing: ["s.1 b"], doubled: [] });
  assert.deepEqual(checkContributions(audit, [once, once, other]), {
    missing: [],
    doubled: ["s.1 a"],
  });
  // One for each stretch of its site rounds is no repetition, as long as there are receipts.
  const further = { ...once, stretch: 2 };
  assert.deepEqual(checkContributions(audit, [once, further, other]).doubled, ["s.1 a"]);
  const more = auditOf([
    { ...a, round: "s.1.1" },
    { ...a, round: "s.1.2" },
  ]);
  assert.deepEqual(checkContributions(more, [once, further]), { missing: [], doubled: [] });
  assert.deepEqual(checkContributions(more, [further, further]).doubled, ["s.1 a"]);
  const waiting = { ...other, outcome: "kept" };
  assert.deepEqual(checkContributions(audit, [once, waiting]).missing, ["s.1 b"]);
});

test("a contribution stands for as many receipts as it has updates", () => {
  const rounds = auditOf([
    { ...a, round: "s.1.1" },
    { ...a, round: "s.1.2" },
  ]);
  const two = { round: "s.1", device: "a", updates: 2, outcome: "expired" };
  assert.deepEqual(checkContributions(rounds, [two]), { missing: [], doubled: [] });
  assert.deepEqual(checkContributions(rounds, [{ ...two, updates: 1 }]).missing, ["s.1 a"]);
  assert.deepEqual(checkContributions(rounds, [{ ...two, updates: 3 }]).doubled, ["s.1 a"]);
});

test("a torn last line of an audit file is passed over", async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-oracle-"));
  const whole = `${JSON.stringify({ type: "sent", ...a })}\n${JSON.stringify({ type: "receipt", round: "s.1" })}\n`;
  await writeFile(join(dir, "a.jsonl"), `${whole}{"type":"sent","round":"s.2","val`);
  const read = await readAudit(dir);
  await rm(dir, { recursive: true });
  assert.deepEqual([...read.receipted], ["s.1 a"]);
  assert.deepEqual([...read.sent.keys()], ["s.1"]);
});
