import assert from "node:assert/strict";
import { test } from "node:test";
import { fractionBitsOf, sessionParamsSchema, siteDeadlineMs } from "./params.js";

const minimal = { name: "digits", initialModel: "mnist.0" };

function problems(extra: object): string[] {
  const parsed = sessionParamsSchema.safeParse({ ...minimal, ...extra });
  return parsed.success ? [] : parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`);
}

test("a name and a model are enough, and the defaults keep the sum exact", () => {
  const params = sessionParamsSchema.parse(minimal);
  assert.deepEqual(params.optimizer, { kind: "fedavg", learningRate: 1 });
  assert.equal(siteDeadlineMs(params), params.deadlineMs - params.uploadWindowMs);
  assert.ok(siteDeadlineMs(params) > 0);
});

test("a deadline not longer than the upload window is an error", () => {
  assert.match(
    problems({ deadlineMs: 5_000, uploadWindowMs: 5_000 }).join(),
    /deadlineMs: must be longer than uploadWindowMs \(5000\)/,
  );
  assert.match(problems({ deadlineMs: 4_000, uploadWindowMs: 5_000 }).join(), /deadlineMs/);
  assert.deepEqual(problems({ deadlineMs: 5_001, uploadWindowMs: 5_000 }), []);
});

test("a grace longer than the deadline and a total below one update's count are errors", () => {
  assert.match(
    problems({ deadlineMs: 1_000, uploadWindowMs: 100, absentGraceMs: 1_001 }).join(),
    /^absentGraceMs/,
  );
  assert.match(problems({ nMax: 10, totalMax: 9 }).join(), /^totalMax: must be at least nMax/);
});

test("a plan without headroom is refused with its code, whichever tensor lacks it", () => {
  for (const fractionBits of [40, { default: 16, tensors: { "dense/kernel": 40 } }]) {
    const parsed = sessionParamsSchema.safeParse({ ...minimal, grid: { fractionBits, range: 1 } });
    const issue = parsed.error?.issues[0];
    assert.equal(issue?.code === "custom" && issue.params?.code, "plan-headroom");
  }
  // nMax R 2^f < 2^51 with R = 1 and f = 20: 2^31 - 1 is the last that fits.
  const grid = { fractionBits: 20, range: 1 };
  assert.deepEqual(problems({ grid, nMax: 2 ** 31 - 1, totalMax: 2 ** 31 }), []);
  assert.match(problems({ grid, nMax: 2 ** 31, totalMax: 2 ** 31 }).join(), /2\^51/);
});

test("a typo, an unknown optimiser and another optimiser's parameter are named", () => {
  assert.match(problems({ round: 3 }).join(), /Unrecognized key: "round"/);
  assert.match(problems({ optimizer: { kind: "adam" } }).join(), /^optimizer.kind/);
  assert.match(problems({ optimizer: { kind: "fedavg", momentum: 0.5 } }).join(), /momentum/);
});

test("each optimiser has its defaults", () => {
  const parsed = (kind: string) =>
    sessionParamsSchema.parse({ ...minimal, optimizer: { kind } as never }).optimizer;
  assert.deepEqual(parsed("fedavgm"), { kind: "fedavgm", learningRate: 1, momentum: 0.9 });
  assert.deepEqual(parsed("fedyogi"), {
    kind: "fedyogi",
    eta: 0.1,
    beta1: 0.9,
    beta2: 0.99,
    tau: 1e-3,
  });
  assert.deepEqual(parsed("fedadagrad"), { kind: "fedadagrad", eta: 0.1, beta1: 0, tau: 1e-3 });
});

test("a trainer's own parameters pass through and keep the conventional ones' defaults", () => {
  const { training } = sessionParamsSchema.parse({ ...minimal, training: { dropout: 0.5 } });
  assert.deepEqual(training, { epochs: 1, learningRate: 0.05, batchSize: 32, dropout: 0.5 });
  assert.match(problems({ training: { layers: [1] } }).join(), /^training.layers/);
});

test("no number outside its bounds is taken", () => {
  for (const wrong of [
    { rounds: 0 },
    { rounds: 1.5 },
    { fraction: 0 },
    { fraction: 1.1 },
    { overSelection: -0.1 },
    { siteQuorum: 0 },
    { deadlineMs: Number.POSITIVE_INFINITY },
    { grid: { range: 0 } },
    { grid: { range: Number.NaN } },
    { seed: -1 },
    { gate: { tolerance: -1 } },
    { name: "a/b" },
    { initialModel: "mnist" },
  ])
    assert.notDeepEqual(problems(wrong), [], JSON.stringify(wrong));
});

test("fraction bits follow the layout, and an alien tensor is named", () => {
  const layout = [{ name: "a" }, { name: "__proto__" }, { name: "b" }];
  const bits = { default: 10, tensors: { b: 20 } };
  assert.deepEqual(fractionBitsOf({ fractionBits: 7, range: 1 }, layout), {
    ok: true,
    fractionBits: [7, 7, 7],
  });
  assert.deepEqual(fractionBitsOf({ fractionBits: bits, range: 1 }, layout), {
    ok: true,
    fractionBits: [10, 10, 20],
  });
  const refused = fractionBitsOf({ fractionBits: bits, range: 1 }, [{ name: "a" }]);
  assert.equal(!refused.ok && refused.code, "plan-invalid");
  assert.match(refused.ok ? "" : refused.message, /"b"/);
});

test("aggregation has defaults, and each rule its own parameters", () => {
  const { aggregation } = sessionParamsSchema.parse(minimal);
  const staleness = { kind: "polynomial", exponent: 0.5 };
  assert.deepEqual(aggregation, { kind: "sync", staleness, maxStaleness: 20 });
  assert.match(problems({ aggregation: { kind: "async" } }).join(), /^aggregation.kind/);
  assert.match(problems({ aggregation: { kind: "buffered" } }).join(), /^aggregation.contributors/);
  const mixed = { kind: "site-memory", maxStaleness: 3 };
  assert.match(problems({ aggregation: mixed }).join(), /Unrecognized key: "maxStaleness"/);
  const named = { kind: "site-memory", populations: { north: 3, south: 1 } };
  assert.deepEqual(problems({ aggregation: named }), []);
});

test("rules that contradict one another are errors", () => {
  assert.match(problems({ saturate: false, siteRounds: 2 }).join(), /^saturate: must be on/);
  assert.match(problems({ saturate: false, offlineSiteRounds: 1 }).join(), /^saturate/);
  assert.deepEqual(problems({ saturate: false }), []);
  const aggregation = { kind: "buffered", contributors: 8 };
  assert.match(problems({ aggregation, siteQuorum: 2 }).join(), /^siteQuorum: must be 1 with/);
  assert.deepEqual(problems({ aggregation }), []);
});

test("clipNorm is a length, and nothing by default", () => {
  assert.ok(!("clipNorm" in sessionParamsSchema.parse(minimal)));
  assert.deepEqual(problems({ clipNorm: 0.5 }), []);
  for (const clipNorm of [0, -1, Number.POSITIVE_INFINITY, Number.NaN])
    assert.match(problems({ clipNorm }).join(), /^clipNorm/);
});

test("populations are whole numbers of one and more that add up exactly", () => {
  const named = (populations: Record<string, number>) =>
    problems({ aggregation: { kind: "site-memory", populations } });
  const most = Number.MAX_SAFE_INTEGER;
  for (const wrong of [0, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 1e308, most + 1])
    assert.equal(
      named({ north: 3, south: wrong })[0],
      `aggregation.populations.south: must be a whole number from 1 to ${most}`,
      String(wrong),
    );
  assert.deepEqual(named({ north: most - 1, south: 1 }), []);
  for (const south of [2, 3, most])
    assert.deepEqual(named({ north: most - 1, south }), [
      `aggregation.populations: must add up to ${most} at most`,
    ]);
});

test("more contributions than totalMax has room for are an error, with both numbers", () => {
  const of = (contributors: number) =>
    problems({ aggregation: { kind: "buffered", contributors }, nMax: 10, totalMax: 20 });
  assert.deepEqual(of(20), []);
  assert.match(of(21).join(), /^aggregation.contributors: 21 contributions .*totalMax \(20\): ask/);
});
