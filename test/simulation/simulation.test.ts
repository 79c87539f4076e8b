import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createAgenda } from "./agenda.js";
import { nearestDouble, onGrid } from "./oracle.js";
import { settingsOf } from "./settings.js";
import { simulate } from "./world.js";

describe("the simulation", () => {
  it("finds nothing wrong in a few seeds", async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const { failure, tail } = await simulate(seed);
      assert.equal(failure, undefined, `seed ${seed}: ${failure?.message}\n${tail.join("\n")}`);
    }
  });

  it("goes the same way again for the same seed, and another way for another", async () => {
    const [first, again, other] = [await simulate(21), await simulate(21), await simulate(22)];
    assert.equal(first.trace, again.trace);
    assert.deepEqual(first.figures, again.figures);
    assert.notEqual(first.trace, other.trace);
  });

  it("picks fleets of two, three and four tiers, and every kind of fault", () => {
    const tiers = new Set<number>();
    const kinds = new Set<string>();
    for (let seed = 1; seed <= 200; seed++) {
      const { gateways, everyMs } = settingsOf(seed);
      const above = new Map(gateways.map((gateway) => [gateway.name, gateway.above]));
      for (const { name } of gateways) {
        let depth = 1;
        for (let at: string | undefined = name; at !== "cloud"; at = above.get(at ?? "")) depth++;
        tiers.add(depth);
      }
      for (const kind of Object.keys(everyMs)) kinds.add(kind);
    }
    assert.deepEqual(
      [...tiers].sort((a, b) => a - b),
      [2, 3, 4],
    );
    assert.ok(kinds.size >= 14);
  });
});

describe("the agenda", () => {
  it("runs what is due in the order of time, equal times as they were put there", () => {
    const agenda = createAgenda();
    const ran: string[] = [];
    agenda.at(5, () => ran.push("b"));
    agenda.at(5, () => ran.push("c"));
    const never = agenda.at(4, () => ran.push("never"));
    agenda.at(1, () => agenda.after(1, () => ran.push("a")));
    never.cancel();
    while (agenda.step(9));
    assert.deepEqual(ran, ["a", "b", "c"]);
    assert.equal(agenda.nowMs, 5);
    assert.equal(agenda.size, 0);
  });
});

describe("the oracle", () => {
  it("rounds a quotient once, to the nearest double and ties to even", () => {
    assert.equal(nearestDouble(1n, 3n), 1 / 3);
    assert.equal(nearestDouble(-7n, 1n << 20n), -7 / 2 ** 20);
    assert.equal(nearestDouble(2n ** 53n + 1n, 1n), 2 ** 53);
    assert.equal(nearestDouble(2n ** 53n + 3n, 1n), 2 ** 53 + 4);
    assert.equal(nearestDouble(0n, 5n), 0);
  });

  it("snaps a float32 difference to the grid, ties to even, clamped to the range", () => {
    const grid = { fractionBits: [1, 1, 1, 1], range: 1 };
    const base = Float32Array.of(1, 1, 1, 1);
    const q = onGrid(Float32Array.of(1.25, 1.75, 0.25, 3), base, grid);
    assert.deepEqual(q, [0n, 2n, -2n, 2n]);
  });
});
