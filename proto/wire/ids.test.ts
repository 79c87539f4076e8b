import assert from "node:assert/strict";
import { test } from "node:test";
import { modelIdSchema, numberedIdSchema, siteRoundId, splitNumberedId } from "./ids.js";

test("a round or model is split into session, number and site round", () => {
  assert.deepEqual(splitNumberedId("press-line.0"), { session: "press-line", number: 0 });
  assert.deepEqual(splitNumberedId("s.12"), { session: "s", number: 12 });
  assert.deepEqual(splitNumberedId(siteRoundId("s.12", 3)), { session: "s", number: 12, site: 3 });
});

test("what is neither is not split, and not accepted", () => {
  const long = "s".repeat(64);
  for (const id of [
    "",
    "s",
    "s.",
    ".1",
    "s.01",
    "s.-1",
    "s.1.0",
    "s.1.01",
    "s.1.2.3",
    "s.1.",
    "s.1234567890",
    "../s.1",
    "s.1\n",
    `${long}.123456789.123456789x`,
  ]) {
    assert.equal(splitNumberedId(id), undefined, id);
    assert.ok(!modelIdSchema.safeParse(id).success, id);
  }
  assert.ok(modelIdSchema.safeParse(`${long}.123456789.123456789`).success);
});

test("the cloud's own ids have no site round", () => {
  assert.ok(numberedIdSchema.safeParse("s.1").success);
  assert.ok(!numberedIdSchema.safeParse("s.1.1").success);
});
