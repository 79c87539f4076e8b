import assert from "node:assert/strict";
import { test } from "node:test";
import { type Entry, judge } from "./account.js";
import { pointNames, points } from "./points.js";
import { runPoint } from "./run.js";
import { passed, tableHead, tableRow } from "./table.js";

for (const point of ["mid-append", "mid-step", "after-slot-write"] as const)
  test(`a ${points[point].tier} killed at ${point} loses nothing that was receipted`, async () => {
    const result = await runPoint({ point, kills: 3, seed: 7 });
    assert.deepEqual([result.lost, result.doubled, result.modelsWrong], [[], [], []]);
    assert.ok(result.receipted > 0 && result.modelsChecked > 0);
    assert.ok(passed(result));
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
  assert.ok(!passed(result));
});

const receipt = (device: string) => ({ round: "s.1", device });
const entry = (device: string, change: Partial<Entry> = {}): Entry => ({
  ...{ round: 1, device, outcome: "model", rule: null, model: "s.1", updates: 1 },
  ...change,
});
const late = { outcome: "expired", rule: "late", model: null };

test("each receipt is in a model, expired by a rule, or lost", () => {
  const books = [entry("a"), entry("b", late), entry("e", { round: 2 })];
  const receipts = ["a", "b", "c", "e"].map(receipt);
  assert.deepEqual(judge("s", [...receipts, receipt("a")], books), {
    ...{ receipted: 4, inModel: 1, expired: 1 },
    ...{ lost: ["s.1 c", "s.1 e"], doubled: [] },
  });
});

test("a contribution of several site rounds has at least as many updates as were receipted", () => {
  const receipts = ["s.1.1", "s.1.2", "s.1.2"].map((round) => ({ round, device: "a" }));
  const lostWith = (updates: number) => judge("s", receipts, [entry("a", { updates })]).lost;
  assert.deepEqual([3, 2, 1].map(lostWith), [[], [], ["s.1 a"]]);
  assert.equal(judge("s", receipts, []).receipted, 1);
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

test("the table has a row of as many cells for each point as it has columns", () => {
  const cells = (line: string) => line.split("|").length;
  const [head = "", rule = ""] = tableHead().split("\n");
  assert.equal(cells(rule), cells(head));
  for (const point of pointNames) {
    const row = tableRow({
      ...{ point, kills: 200, receipted: 3, inModel: 2, expired: 1, lost: [], doubled: [] },
      ...{ modelsChecked: 4, modelsWrong: [], elapsedMs: 1 },
    });
    assert.equal(cells(row), cells(head));
    assert.equal(row.length, head.length + 1);
  }
});
