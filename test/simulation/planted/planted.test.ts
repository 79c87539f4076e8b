import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type Outcome, simulate } from "../world.js";
import * as all from "./all.js";
import type { Planted } from "./planted.js";

/**
 * Seeds up to the first that shows the fault to its checker; the last outcome where none does. On the
 * way others may see what the fault leads to, such as a gateway that refuses its journal.
 */
async function seek({ seeds, checker, plant, change }: Planted): Promise<Outcome> {
  for (let seed = 1; ; seed++) {
    const outcome = await simulate(seed, plant(), change);
    if (outcome.failure?.checker === checker || seed === seeds) return outcome;
    if (checker !== "trace") continue;
    const again = await simulate(seed, plant(), change);
    const failure = { checker, message: "another trace" } as const;
    if (again.trace !== outcome.trace) return { ...again, failure };
  }
}

describe("a fault that is planted is found by the checker it is meant for", () => {
  for (const [name, fault] of Object.entries(all)) {
    it(`${name}: ${fault.what}`, async (t) => {
      const { seed, failure } = await seek(fault);
      assert.equal(failure?.checker, fault.checker, `seed ${seed}: ${failure?.message}`);
      t.diagnostic(`seed ${seed}: ${failure?.message}`);
      const { failure: without } = await simulate(seed, undefined, fault.change);
      assert.equal(without, undefined, `seed ${seed} fails without the fault too`);
    });
  }
});
