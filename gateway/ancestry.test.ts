import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createAncestry } from "./ancestry.js";

const failure = (ancestry: ReturnType<typeof createAncestry>) =>
  Promise.race([
    ancestry.failed.catch((error: Error) => error.message),
    new Promise((resolve) => setImmediate(() => resolve(undefined))),
  ]);

describe("a loop", () => {
  it("is fatal to a gateway that has never had a way to the root", async () => {
    const ancestry = createAncestry({ monotonicMs: () => 0 });
    ancestry.heard(["region"]);
    ancestry.loop("a < region < a");
    assert.equal(await failure(ancestry), "a < region < a");
  });

  it("is not, to one that has had it", async () => {
    const ancestry = createAncestry({ monotonicMs: () => 0 });
    ancestry.heard(["region", "cloud"]);
    ancestry.lost();
    ancestry.loop("a < region < a");
    assert.equal(await failure(ancestry), undefined);
  });
});

describe("the way to the root", () => {
  it("is whole while the upstream tells of the root", () => {
    const ancestry = createAncestry({ monotonicMs: () => 0 });
    assert.equal(ancestry.whole, false);
    ancestry.heard(["region"]);
    assert.equal(ancestry.whole, false);
    ancestry.heard(["region", "cloud"]);
    assert.equal(ancestry.whole, true);
    assert.deepEqual(ancestry.above(), ["region", "cloud"]);
    ancestry.lost();
    assert.equal(ancestry.whole, false);
    assert.deepEqual(ancestry.above(), []);
  });

  it("names who has no link further up, and since when", () => {
    let nowMs = 5;
    const ancestry = createAncestry({ monotonicMs: () => nowMs });
    assert.equal(ancestry.broken, undefined);
    ancestry.heard(["region", "country", "cloud"]);
    assert.equal(ancestry.broken, undefined);
    nowMs = 10;
    ancestry.heard(["region", "country"]);
    nowMs = 30;
    ancestry.heard(["region", "country"]);
    assert.deepEqual(ancestry.broken, { gateway: "country", sinceMs: 20 });
    ancestry.lost();
    assert.equal(ancestry.broken, undefined);
  });

  it("is taken for whole below a cloud that tells no path", () => {
    const ancestry = createAncestry({ monotonicMs: () => 0 });
    ancestry.heard([]);
    assert.equal(ancestry.whole, true);
  });
});
