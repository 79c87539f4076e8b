import assert from "node:assert/strict";
import { test } from "node:test";
import { pick, readMnist } from "../../pilot/mnist/data.js";
import { type Figures, measure } from "./late-sites.js";

/** A few samples and rounds: the order of the rules is plain long before their figures settle. */
const tiny = { rounds: 50, seeds: 1, every: 5, halfLife: 5, samples: 40 };

test("site memory keeps what only a late site knows, discounting does not", async () => {
  const { train, test: images } = await readMnist();
  const some = pick(
    images,
    Array.from({ length: 1_000 }, (_, i) => i),
  );
  let steps = 0;
  const figures = await measure({ train, test: some }, tiny, {
    progress: async (done, all) => {
      assert.ok(done >= 0 && done <= all);
      steps++;
    },
  });
  const own = (matches: (row: Figures) => boolean) => {
    const found = figures.filter(matches);
    assert.equal(found.length, 1);
    return found[0]?.ownDigits ?? Number.NaN;
  };
  const stale = (rule: Figures["rule"]) =>
    own((row) => row.rule === rule && row.contact.delta === "stale");
  const fresh = own(
    ({ rule, contact }) =>
      rule === "site-memory" && contact.delta === "fresh" && contact.every === tiny.every,
  );
  const always = own(({ contact }) => contact.every === 1);

  assert.ok(stale("sync") < 0.2, `sync ${stale("sync")}`);
  assert.ok(stale("buffered") < 0.2, `buffered ${stale("buffered")}`);
  assert.ok(stale("site-memory") > stale("sync") + 0.2, `site-memory ${stale("site-memory")}`);
  assert.ok(fresh >= stale("site-memory"), `fresh ${fresh}`);
  assert.ok(always > stale("site-memory"), `always ${always}`);
  for (const row of figures) assert.ok(row.otherDigits > 0.7, `${row.rule} ${row.otherDigits}`);
  assert.equal(steps, figures.length * tiny.rounds);
});
