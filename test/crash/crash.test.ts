import assert from "node:assert/strict";
import { test } from "node:test";
import { type Entry, judge } from "./account.js";
import { pointNames, points } from "./points.js";
import { type PointResult, runPoint } from "./run.js";
import { failuresOf, tableHead, tableRow } from "./table.js";

for (const point of ["mid-append", "mid-step", "after-slot-write"] as const)
  test(`a ${points[point].tier} killed at ${point} loses nothing that was receipted`, async () => {
    const result = await runPoint({ point, kills: 3, seed: 7 });
    assert.deepEqual(failuresOf(result), []);
  });

test("a gateway that receipts before it has written is caught: its updates are lost", async () => {
  const result = await runPoint({
    point: "mid-checkpoint",
    kills: 2,
    seed: 1,
    plant: "receipt-early",
    // What a lying gateway lost is missed by its round until the deadline.
    deadlineMs: 6_000,
    settleMs: 4_000,
  });
  assert.ok(result.lost.length > 0, "nothing was found to be lost");
  assert.ok(failuresOf(result).some((failure) => failure.startsWith("lost: ")));
});

const receipt = (device: string) => ({ round: "s.1", device });
const entry = (device: string, change: Partial<Entry> = {}): Entry => ({
  ...{ round: 1, device, outcome: "model", rule: null, model: "s.1", updates: 1, stretch: 0 },
  ...change,
});
const late = { outcome: "expired", rule: "late", model: null };

test("each receipt is in a model, expired by a rule, or lost", () => {
  const books = [entry("a"), entry("b", late), entry("e", { round: 2 })];
  const receipts = ["a", "b", "c", "e"].map(receipt);
  assert.deepEqual(judge("s", [...receipts, receipt("a")], books), {
    ...{ receipted: 4, inModel: 1, expired: 1 },
    ...{ lost: ["s.1 c", "s.1 e"], doubled: [], unreceipted: ["s.2 e"] },
  });
});

test("a contribution of several site rounds has at least as many updates as were receipted", () => {
  const receipts = ["s.1.1", "s.1.2", "s.1.2"].map((round) => ({ round, device: "a" }));
  const lostWith = (updates: number) => judge("s", receipts, [entry("a", { updates })]).lost;
  assert.deepEqual([3, 2, 1].map(lostWith), [[], [], ["s.1 a"]]);
  assert.equal(judge("s", receipts, []).receipted, 1);
});

test("what a site gathered on after it had handed over is a contribution of its own", () => {
  const receipts = ["s.1.1", "s.1.2", "s.1.3"].map((round) => ({ round, device: "a" }));
  const later = { stretch: 2, updates: 2, model: "s.2" };
  const { lost, doubled } = judge("s", receipts, [entry("a"), entry("a", later)]);
  assert.deepEqual({ lost, doubled }, { lost: [], doubled: [] });
  assert.deepEqual(judge("s", receipts, [entry("a", later)]).lost, ["s.1 a"]);
  const twice = [entry("a"), entry("a", later), entry("a", { ...later, model: "s.3" })];
  assert.deepEqual(judge("s", receipts, twice).doubled, ["s.1 a"]);
});

test("a contribution that waits, or that no rule expired, is not accounted for", () => {
  const kept = { outcome: "kept", model: null };
  const books = [entry("a", kept), entry("b", { ...late, rule: null })];
  assert.deepEqual(judge("s", [receipt("a"), receipt("b")], books).lost, ["s.1 a", "s.1 b"]);
});

test("a contribution that ended twice is doubled, receipted or not", () => {
  const books = [entry("a"), entry("a", { model: "s.2" }), entry("b"), entry("b", late)];
  assert.deepEqual(judge("s", [receipt("a")], books).doubled, ["s.1 a", "s.1 b"]);
});

const result: PointResult = {
  ...{ point: "mid-append" as const, asked: 200, kills: 200, elapsedMs: 1 },
  ...{ receipted: 3, inModel: 2, expired: 1, lost: [], doubled: [], unreceipted: [] },
  ...{ checked: { models: 4, sums: 5, late: 1, composed: 0, further: 0 }, modelsWrong: [] },
};

test("the table has a row of as many cells for each point as it has columns", () => {
  const cells = (line: string) => line.split("|").length;
  const [head = "", rule = ""] = tableHead().split("\n");
  assert.equal(cells(rule), cells(head));
  for (const point of pointNames) {
    const row = tableRow({ ...result, point });
    assert.equal(cells(row), cells(head));
    assert.equal(row.length, head.length + 1);
  }
});

test("a run that shows nothing does not pass", () => {
  const { checked } = result;
  assert.deepEqual(failuresOf(result), []);
  for (const empty of [
    { kills: 199 },
    { receipted: 0 },
    { checked: { ...checked, sums: 0 } },
    { point: "after-late", checked: { ...checked, late: 0 } },
    { point: "after-seal" },
    { point: "after-stretch" },
  ] as const)
    assert.deepEqual(
      failuresOf({ ...result, ...empty }).map((failure) => failure.split(":")[0]),
      ["vacuous"],
    );
  for (const wrong of ["lost", "doubled", "unreceipted", "modelsWrong"] as const)
    assert.deepEqual(failuresOf({ ...result, [wrong]: ["s.1 a"] }), [`${wrong}: s.1 a`]);
});
