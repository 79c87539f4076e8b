import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { sessionParamsSchema } from "@tributary/cloud/params.js";
import type { ContributionRow } from "@tributary/cloud/store/rows.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import { type Account, createAccount } from "./account.js";
import { composed } from "./composition.js";
import { siteHistories, wrongIn } from "./site-history.js";
import { groupsOf } from "./slots.js";

const base = Float32Array.of(1, -1);
/** Steps of a half, at most 2. */
const grid = { fractionBits: [1, 1], range: 2 };
const nobodyLost = { lost: () => false, stretches: () => [] };

/** A device gives a step of its own in a site round, from what is there then. */
function give(
  account: Account,
  number: number,
  [device, samples, step, from]: readonly [string, number, number, number],
  receipted = true,
): void {
  const round = `s.1.${number}`;
  const start = base.map((value) => value + from);
  const weights = start.map((value) => value + step);
  account.trained({ round, device, base: "any", from: start, samples, weights });
  account.sent(device, "begin", { round, gateway: "g1", digest: round, samples } as Begin);
  const receipt = { kind: "receipt", header: { round, digest: round } } as const;
  if (receipted) account.received(device, receipt as never, "g1");
}

function row(device: string, samples: number, updates: number, stretch = 0): ContributionRow {
  const fate = { outcome: "model", rule: null, model: "s.1" } as const;
  return { session: "s", round: 1, stretch, device, gateway: "g1", samples, updates, ...fate };
}

function historyOf(account: Account, rows: readonly ContributionRow[]) {
  const [history] = siteHistories(account, nobodyLost, rows).all;
  assert.ok(history !== undefined);
  return history;
}

describe("what site rounds came to", () => {
  it("is the exact sum of one, and N times the nearest step of what several add up to", () => {
    const account = createAccount();
    give(account, 1, ["a", 1, 1, 0]);
    give(account, 1, ["b", 3, 0.5, 0]);
    // Their mean is 0.625: 1.25 steps.
    give(account, 2, ["a", 2, 1.5, 0.625]);
    // 2.125 is past the range; the next stretch is one site round, from there.
    give(account, 3, ["b", 5, -1, 2.125]);
    const rows = [row("a", 2, 2), row("b", 3, 1), row("b", 5, 1, 3)];
    const history = historyOf(account, rows);
    assert.deepEqual([...wrongIn(history)], []);
    const answers = composed(history, account, base, grid);
    assert.ok(typeof answers !== "string" && answers.length === 1);
    assert.deepEqual(answers[0]?.get(1), { samples: 5n, sum: [20n, 20n] });
    assert.deepEqual(answers[0]?.get(3), { samples: 5n, sum: [-10n, -10n] });
  });

  it("counts what a device has no receipt for where its contribution counts it", () => {
    const account = createAccount();
    give(account, 1, ["a", 1, 1, 0], false);
    give(account, 2, ["a", 1, 0.5, 1]);
    const sumOf = (updates: number) => {
      const answers = composed(historyOf(account, [row("a", 1, updates)]), account, base, grid);
      return typeof answers === "string" ? answers : answers.map((sums) => sums.get(1)?.sum[0]);
    };
    assert.deepEqual(sumOf(2), [3n]);
    assert.match(String(sumOf(1)), /trained s\.1\.2 of g1 from 2 at value 0; the site model has 1/);
  });

  it("is held to the devices' receipts", () => {
    const account = createAccount();
    for (const number of [1, 2, 3]) give(account, number, ["a", number, 0, 0]);
    const wrong = (...rows: ContributionRow[]) => [...wrongIn(historyOf(account, rows))].join();
    assert.match(wrong(), /receipt for s\.1\.1, which is nowhere/);
    assert.match(wrong(row("a", 3, 2)), /counts 2 updates; it announced 3/);
    assert.match(wrong(row("a", 2, 2), row("a", 3, 2, 3)), /counts 2 updates; it announced 1/);
    assert.match(wrong(row("a", 4, 3)), /of 4 samples, which no update of it had/);
    assert.equal(wrong(row("a", 2, 2), row("a", 3, 1, 3)), "");
  });
});

describe("the slots of a site memory", () => {
  const params = sessionParamsSchema.parse({
    name: "s",
    initialModel: "s.0",
    aggregation: { kind: "site-memory", halfLife: 0.4 },
  });
  const old = row("a", 1, 1);
  const fresh = (device: string, site: string, on: string) => ({
    row: row(device, 1, 1),
    base: on,
    site,
  });
  const before = new Map([
    ["s1", { base: "s.0", rows: [old] }],
    ["s2", { base: "s.0", rows: [row("b", 1, 1)] }],
  ]);

  it("hold each site's newest base, in the order of age and site", () => {
    const held = groupsOf(params, ["s.1", "s.0"], [fresh("c", "s2", "s.1")], before);
    assert.ok(typeof held !== "string");
    assert.deepEqual(
      held.groups.map(({ site, age, rows }) => [site, age, rows.map(({ device }) => device)]),
      [
        ["s1", 1, ["a"]],
        ["s2", 0, ["c"]],
      ],
    );
  });

  it("add to a base what comes on it later, give up what is too old, and take nothing older", () => {
    const more = groupsOf(params, ["s.1", "s.0"], [fresh("c", "s1", "s.0")], before);
    assert.ok(typeof more !== "string");
    assert.deepEqual(more.slots.get("s1")?.rows.length, 2);
    const aged = groupsOf(params, ["s.3", "s.2", "s.1", "s.0"], [fresh("c", "s3", "s.3")], before);
    assert.ok(typeof aged !== "string");
    assert.deepEqual([...aged.slots.keys()], ["s3"]);
    const newer = new Map([["s1", { base: "s.1", rows: [old] }]]);
    const older = groupsOf(params, ["s.1", "s.0"], [fresh("c", "s1", "s.0")], newer);
    assert.ok(typeof older === "string");
    assert.match(older, /and a newer one on s\.1/);
  });
});
